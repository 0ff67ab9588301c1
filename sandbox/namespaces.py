"""Turns the process that calls :func:`leave` and :func:`enter` into the first process of a new machine.

Order matters. Mounts are made while the old world is still visible, as copies that are read-only before they are
attached; then the old root is let go; then the user changes; then every privilege is dropped. The filter of system
calls is closed by the program that runs here next. As the superuser the user namespace comes after the mounts, so
nothing inside owns the mount namespace; without privilege it must come first, for it is what allows the rest.
"""

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sandbox import linux
from sandbox.blueprint import Blueprint

UID = 1000
ROOT = "/tmp"  # noqa: S108  # covered by a new file system of our own before anything is made in it
WRITABLE = {"/workspace": "workspace", "/tmp": "tmp", "/var/tmp": "tmp", "/home/sandbox": "home", "/dev/shm": "shm"}  # noqa: S108
"""Folders that commands may write, and where each is kept on the one file system whose size is bounded."""
DEVICES = ("null", "zero", "full", "random", "urandom")
HIDDEN_FILES = ("kcore", "keys", "key-users", "sysrq-trigger", "timer_list", "kpagecount", "kpageflags", "kmsg")
READ_ONLY_FOLDERS = ("sys", "bus", "fs", "irq", "acpi", "scsi")
_SEALED = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID


class SetupFailed(Exception):
    """A step of building a sandbox was refused by the kernel."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error


@contextmanager
def step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupFailed(name, error) from error


def leave() -> None:
    """Leave the host, whatever the machine will be. This process must be the first of its PID namespace."""
    with step("namespaces"):
        others = linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP
        linux.unshare(linux.CLONE_NEWNS | others)
        linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        socket.sethostname("sandbox")
    with step("loopback"):
        _raise_loopback()


def enter(plan: Blueprint, map_user: Callable[[], None], kept: Sequence[str]) -> list[int]:
    """Build the machine around this process.

    ``map_user`` has an outside process write the maps of the user namespace just entered; only the superuser needs it.
    Returns a descriptor for each of the host's files and folders in ``kept``: read-only, and not leading out of it.
    """
    with step("root file system"):
        brought = [linux.clone_tree(path, _SEALED | linux.MOUNT_ATTR_NODEV, recursive=False) for path in kept]
        _build_root(plan)
    with step("proc"):
        _mount_proc(ROOT + "/proc")
    with step("pivot"):
        linux.pivot_to(ROOT)
    with step("user"):
        if plan.root_mode:
            linux.unshare(linux.CLONE_NEWUSER)
            map_user()
            os.setgroups([])
            os.setresgid(UID, UID, UID)
            os.setresuid(UID, UID, UID)
    with step("privileges"):
        _drop_privileges()
    with step("seccomp"):
        linux.prctl(linux.PR_GET_SECCOMP)  # refused by a kernel that has no filters
    return brought


def _raise_loopback() -> None:
    """Tests start servers on 127.0.0.1; it is the sandbox's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        get_flags, set_flags, up = 0x8913, 0x8914, 0x1
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(probe, get_flags, request), 16)[0]
        fcntl.ioctl(probe, set_flags, struct.pack("16sH22x", b"lo", flags | up))


def _build_root(plan: Blueprint) -> None:
    # Sources are opened before the new root hides any of them.
    trees = {place: linux.clone_tree(real, _SEALED | linux.MOUNT_ATTR_NODEV) for place, real in plan.binds.items()}
    devices = {f"/dev/{name}": linux.clone_tree(f"/dev/{name}", _SEALED) for name in DEVICES}
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", ROOT, "tmpfs", flags, "mode=0755,size=8m")
    for place, points_to in plan.links.items():
        _place(place, folder=False).symlink_to(points_to)
    for place, text in plan.files.items():
        _place(place, folder=False).write_text(text)
    # Installations may lie in a folder that is writable here, such as /tmp: so the disk comes first.
    _mount_disk(plan)
    for place, tree in sorted((trees | devices).items()):
        target = _place(place, folder=False)
        if not target.exists():
            _make_mount_point(target, tree)
        linux.attach_tree(tree, str(target))
    for name in ("proc", "run", "root", "mnt"):
        _place("/" + name, folder=True)
    root = os.open(ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.set_mount_attributes(root, _SEALED | linux.MOUNT_ATTR_NODEV, ROOT, recursive=False)
    os.close(root)


def _mount_disk(plan: Blueprint) -> None:
    """One file system of bounded size for all that commands may write."""
    disk = _place("/mnt", folder=True)
    inodes = max(65_536, plan.disk_bytes // 4096)
    options = f"mode=0755,size={plan.disk_bytes},nr_inodes={inodes}"
    linux.mount("tmpfs", str(disk), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    for name in dict.fromkeys(WRITABLE.values()):
        (disk / name).mkdir(mode=0o1777 if name in ("tmp", "shm") else 0o755)
        (disk / name).chmod(0o1777 if name in ("tmp", "shm") else 0o755)
        if plan.root_mode:
            os.chown(disk / name, plan.host_uid, plan.host_uid)
    for place, name in WRITABLE.items():
        target = _place(place, folder=True)
        linux.attach_tree(
            linux.clone_tree(str(disk / name), linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV), str(target)
        )
    linux.unmount(str(disk))


def _mount_proc(place: str) -> None:
    linux.mount("proc", place, "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for name in READ_ONLY_FOLDERS:
        if Path(place, name).is_dir():
            linux.attach_tree(linux.clone_tree(f"{place}/{name}", _SEALED, recursive=False), f"{place}/{name}")
    for name in HIDDEN_FILES:
        if Path(place, name).exists():
            linux.attach_tree(linux.clone_tree(f"{ROOT}/dev/null", _SEALED, recursive=False), f"{place}/{name}")


def _place(path: str, *, folder: bool) -> Path:
    """Where ``path`` of the image is being built, its parent folders made."""
    place = Path(ROOT + path)
    (place if folder else place.parent).mkdir(parents=True, exist_ok=True)
    return place


def _make_mount_point(target: Path, tree: int) -> None:
    if os.path.isdir(tree):  # noqa: PTH112  # a descriptor
        target.mkdir()
    else:
        target.touch()


def _drop_privileges() -> None:
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # The change of user cleared this: the first process must not outlive its maker.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
