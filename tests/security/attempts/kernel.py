"""Doors of the kernel that lead out of a sandbox, or to more rights in it."""

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import resource
import signal
import struct
import time

from tests.security.attempts.trying import Tries, call, main, put, reach

_NAMESPACES = {
    "user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000,
    "cgroup": 0x2000000, "time": 0x80,
}  # fmt: skip
_REMOUNT_WRITABLE = 0x1020  # MS_REMOUNT | MS_BIND
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PROC_SELF = b"/proc/self"
_NS_GET_USERNS, _NS_GET_PARENT = 0xB701, 0xB702
_NS_MNT_GET_NEXT, _NS_MNT_GET_PREV = 0x8010B70B, 0x8010B70C
_PIDFD_GET = 0xFF00


def mount(tries: Tries) -> None:
    kinds = ("tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "overlay", "ext4", "fuse", "debugfs")
    for kind in kinds:
        tries(kind, call, "mount", b"none", b"/tmp", kind.encode(), 0, b"")
    tries("bind", call, "mount", b"/proc", b"/tmp", None, 0x1000, None)
    for place in (b"/", b"/usr", b"/proc", b"/proc/sys", b"/etc"):
        tries(f"remount {place.decode()}", call, "mount", None, place, None, _REMOUNT_WRITABLE, None)
    tries("unmount", call, "umount2", b"/proc", 2)
    tries("pivot", call, "pivot_root", b"/tmp", b"/tmp")


def mount_api(tries: Tries) -> None:
    """The same by the newer calls."""
    tries("fsopen", call, "fsopen", b"tmpfs", 0)
    tries("open_tree", call, "open_tree", -100, b"/", 1)
    tries("mount_setattr", call, "mount_setattr", -100, b"/", 0, struct.pack("4Q", 0, 1, 0, 0), 32)


def namespaces(tries: Tries) -> None:
    for name, flag in _NAMESPACES.items():
        tries(f"unshare {name}", call, "unshare", flag)
        if name != "time":  # clone(2) does not know it
            tries(f"clone {name}", _clone, flag | signal.SIGCHLD)
    for name in ("user", "mnt", "pid", "net"):
        tries(f"join {name}", _join, f"/proc/1/ns/{name}")
    tries("join own", _join, "/proc/self/ns/mnt")


def _join(path: str) -> None:
    call("setns", os.open(path, os.O_RDONLY), 0)


def _clone(flags: int) -> None:
    pid = call("clone", flags, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3(tries: Tries) -> None:
    arguments = struct.pack("11Q", _NAMESPACES["user"], 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    tries("clone3", call, "clone3", arguments, len(arguments))


def chroot(tries: Tries, secret: str) -> None:
    """The classic way: a new root below, and then up past it."""
    tries("chroot", os.chroot, "/tmp")
    for _ in range(50):
        os.chdir("..")
    tries("up", os.open, f".{secret}", os.O_RDONLY)


def setuid(tries: Tries) -> None:
    tries("uid", os.setresuid, 0, 0, 0)
    tries("gid", os.setresgid, 0, 0, 0)
    tries("groups", os.setgroups, [0])
    tries("own", os.chown, "/workspace", 0, 0)
    capabilities = struct.pack("6I", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    tries("capset", call, "capset", struct.pack("Ii", 0x20080522, 0), capabilities)
    tries("bounding set", call, "prctl", 24, 0, 0, 0, 0)
    tries("ambient set", call, "prctl", 47, 2, 21, 0, 0)


def bpf(tries: Tries) -> None:
    tries("map", call, "bpf", 0, struct.pack("5I", 2, 4, 4, 1, 0) + bytes(100), 72)
    program = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    load = struct.pack("2I2Q", 1, 2, ctypes.addressof(code), ctypes.addressof(licence)) + bytes(100)
    tries("program", call, "bpf", 5, load, 72)


def io_uring(tries: Tries) -> None:
    tries("setup", call, "io_uring_setup", 4, ctypes.create_string_buffer(120))


def perf(tries: Tries) -> None:
    for what, pid, cpu in (("self", 0, -1), ("everything", -1, 0), ("first process", 1, -1)):
        event = struct.pack("IIQ", 1, 112, 0) + bytes(96)
        tries(what, call, "perf_event_open", event, pid, cpu, -1, 0)


def own_entries(tries: Tries) -> None:
    """What a process may write of itself: who it is, what time it has, how the kernel chooses whom to end."""
    for name, text in {
        "uid_map": "0 1000 1", "gid_map": "0 1000 1", "setgroups": "allow",
        "timens_offsets": "boottime 1000000 0", "oom_score_adj": "-1000", "oom_adj": "-17", "autogroup": "-20",
        "attr/exec": "unconfined", "attr/current": "unconfined",
    }.items():  # fmt: skip
        tries(name, put, f"/proc/self/{name}", text)


def namespace_files(tries: Tries) -> None:
    """From a namespace to its parent, its owner and those beside it; and by a descriptor of the first process."""
    for kind in ("user", "pid", "mnt", "net"):
        own = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
        tries(f"parent of {kind}", fcntl.ioctl, own, _NS_GET_PARENT)
        if kind != "user":
            tries(f"owner of {kind}", _join_owner, own)
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    for name, request in {"next": _NS_MNT_GET_NEXT, "previous": _NS_MNT_GET_PREV}.items():
        tries(name, fcntl.ioctl, mounts, request, bytes(16))
    first = os.pidfd_open(1)
    for number in range(1, 11):
        tries(f"of the first {number}", fcntl.ioctl, first, _PIDFD_GET + number)


def _join_owner(namespace: int) -> None:
    call("setns", fcntl.ioctl(namespace, _NS_GET_USERNS), 0)


def disks(tries: Tries) -> None:
    """Orders to a file system as a whole, and marks on files that nobody could take away again."""
    for place in ("/", "/usr", "/workspace"):
        folder = os.open(place, os.O_RDONLY)
        for name, (request, argument) in {
            "freeze": (0xC0045877, bytes(4)), "thaw": (0xC0045878, bytes(4)), "trim": (0xC0185879, bytes(24)),
            "where": (1, bytes(4)), "shut down": (0x8004587D, bytes(4)),
        }.items():  # fmt: skip
            tries(f"{name} {place}", fcntl.ioctl, folder, request, argument)
    file = os.open("/workspace/kept", os.O_RDWR | os.O_CREAT)
    for name, flags in {"immutable": 0x10, "append only": 0x20}.items():
        tries(name, fcntl.ioctl, file, 0x40086602, struct.pack("l", flags))


def userfaultfd(tries: Tries) -> None:
    tries("of the kernel", call, "userfaultfd", 0)
    tries("of programs only", call, "userfaultfd", 1)


def keyring(tries: Tries) -> None:
    tries("add", call, "add_key", b"user", b"escaped", b"x", 1, -4)
    tries("session", call, "keyctl", 1, 0)
    tries("read user's", call, "keyctl", 11, -4, ctypes.create_string_buffer(64), 64)


def modules(tries: Tries) -> None:
    tries("init_module", call, "init_module", b"\x7fELF", 4, b"")
    tries("kexec", call, "kexec_load", 0, 0, None, 0)


def machine(tries: Tries) -> None:
    """What belongs to all of it: its name, its clock, its swap, its log, its end."""
    tries("hostname", call, "sethostname", b"escaped", 7)
    tries("domain", call, "setdomainname", b"escaped", 7)
    tries("reboot", call, "reboot", 0)  # harmless: it switches Ctrl-Alt-Del off
    tries("swapon", call, "swapon", b"/workspace/none", 0)
    tries("acct", call, "acct", b"/tmp/none")
    tries("log", call, "klogctl", 3, ctypes.create_string_buffer(4096), 4096)
    tries("quota", call, "quotactl", 0x800001, None, 0, None)
    tries("watch all files", call, "fanotify_init", 0, 0)


def clock(tries: Tries) -> None:
    tomorrow = time.time() + 86_400
    tries("set", time.clock_settime, time.CLOCK_REALTIME, tomorrow)
    tries("settimeofday", call, "settimeofday", struct.pack("qq", int(tomorrow), 0), None)
    tries("adjust", call, "adjtimex", struct.pack("IxxxxqqqqI", 0x8001, 0, 0, 0, 0, 0x40) + bytes(200))
    tries("own offset", put, "/proc/self/timens_offsets", "monotonic 86400 0")


def terminal(tries: Tries) -> None:
    """Type into a terminal, so that a shell outside runs it."""
    tries("input", fcntl.ioctl, 0, _TIOCSTI, b"x")
    tries("standard error", fcntl.ioctl, 2, _TIOCSTI, b"x")
    tries("controlling", reach, "/dev/tty", os.O_RDWR)
    tries("console", put, "/dev/console")
    tries("screen", fcntl.ioctl, 0, _TIOCLINUX, b"\x02")
    tries("own terminal", lambda: fcntl.ioctl(pty.openpty()[1], _TIOCSTI, b"x"))


def priority(tries: Tries) -> None:
    tries("nice", os.nice, -10)
    tries("real time", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(10))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    tries("limits", call, "setrlimit", resource.RLIMIT_NOFILE, (ctypes.c_uint64 * 2)(hard + 1, hard + 1))
    tries("memory killer", put, "/proc/self/oom_score_adj", "-1000")


def foreign_abi(tries: Tries) -> None:
    """The 32-bit door into a 64-bit kernel, where every call has another number: mount(2) by it."""
    pid = os.fork()
    if pid == 0:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x15\x00\x00\x00\xcd\x80\xc3")  # mov eax, 21; int 0x80; ret
        os._exit(-ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() & 0xFF)
    status = os.waitpid(pid, 0)[1]
    code_said = errno.ENOSYS if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def said() -> None:
        if code_said:
            raise OSError(code_said, "")

    tries("int 80", said)


if __name__ == "__main__":
    main(globals())
