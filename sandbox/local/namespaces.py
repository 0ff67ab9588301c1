"""Turns the process that calls :func:`leave` and :func:`enter` into the first process of a new machine.

Order matters. Mounts are made while the old world is still visible, as copies that are read-only before they are
attached; then the old root is let go; then the user changes; then every privilege is dropped. The filter of system
calls is closed by the program that runs here next. As the superuser the user namespace comes after the mounts, so
nothing inside owns the mount namespace; without privilege it must come first, for it is what allows the rest.
"""

import contextlib
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sandbox import linux, rooted
from sandbox.local.blueprint import Blueprint

UID = 1000
GROUND = "/tmp"  # noqa: S108
"""Covered by a new file system of our own before anything is made in it."""
ROOT = GROUND + "/root"
"""Where the new root is while it is being built."""
WRITABLE = {"/workspace": "workspace", "/tmp": "tmp", "/var/tmp": "tmp", "/home/sandbox": "home", "/dev/shm": "shm"}  # noqa: S108
"""Folders that commands may write, and where each is kept on the one file system whose size is bounded."""
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
EMPTY = ("/proc", "/run", "/root", "/mnt")
"""Folders that every root has; what an image has in them is seen."""
DEVICES = ("null", "zero", "full", "random", "urandom")
HIDDEN_FILES = ("kcore", "keys", "key-users", "sysrq-trigger", "timer_list", "kpagecount", "kpageflags", "kmsg", "mtrr")
READ_ONLY_FOLDERS = ("sys", "bus", "fs", "irq", "acpi", "scsi", "pressure")
SEALED = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID
DISK = GROUND + "/disk"
"""Where the one file system for all :data:`WRITABLE` folders is meanwhile."""
STICKY = ("tmp", "shm")
"""Those of its folders that have the mode of ``/tmp``."""


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
        raise_loopback()


def enter(plan: Blueprint, map_user: Callable[[], None], kept: Sequence[str]) -> list[int]:
    """Build the machine around this process.

    ``map_user`` has an outside process write the maps of the user namespace just entered; only the superuser needs it.
    Returns a descriptor for each of the host's files and folders in ``kept``: read-only, and not leading out of it.
    """
    with step("root file system"):
        brought = [linux.clone_tree(path, SEALED | linux.MOUNT_ATTR_NODEV, recursive=False) for path in kept]
        root = _build_root(plan)
    with step("proc"):
        _mount_proc(root)
    with step("pivot"):
        linux.pivot_to(ROOT)
    with step("user"):
        if plan.root_mode:
            # What the kernel counts by user, such as file watches and message queues, counts for the namespace's owner
            # too: the superuser's bound would be one for all sandboxes and the host's services together.
            linux.become_owner(plan.host_uid)
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


def raise_loopback() -> None:
    """Tests start servers on 127.0.0.1; it is the sandbox's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        get_flags, set_flags, up = 0x8913, 0x8914, 0x1
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(probe, get_flags, request), 16)[0]
        fcntl.ioctl(probe, set_flags, struct.pack("16sH22x", b"lo", flags | up))


def _build_root(plan: Blueprint) -> int:
    """Gives the new root, open. It is at :data:`ROOT`."""
    # Sources are opened before the new root hides any of them.
    trees = {place: linux.clone_tree(real, SEALED | linux.MOUNT_ATTR_NODEV) for place, real in plan.binds.items()}
    devices = {name: linux.clone_tree(f"/dev/{name}", SEALED) for name in DEVICES}
    image = linux.clone_tree(plan.tree, SEALED | linux.MOUNT_ATTR_NODEV, recursive=False) if plan.tree else None
    mount_memory(GROUND, "mode=0755,size=8m")
    for name in ("root", "lower", "upper", "work"):
        Path(GROUND, name).mkdir()
    if image is None:
        mount_memory(ROOT, "mode=0755,size=8m")
    else:
        with step("image"):
            _mount_overlay(plan, image)
    root = os.open(ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for place, points_to in plan.links.items():
        _link(root, place, points_to)
    for place, text in plan.files.items():
        _write(root, place, text)
    # Installations may lie in a folder that is writable here, such as /tmp: so these come first.
    _make_devices(root, devices)
    _mount_disk(plan, root)
    for place, tree in sorted(trees.items()):
        is_folder = os.path.isdir(tree)  # noqa: PTH112  # a descriptor
        linux.attach_tree(tree, (rooted.folder_in if is_folder else rooted.file_in)(root, place))
    for name in EMPTY:
        os.close(rooted.folder_in(root, name))
    linux.set_mount_attributes(root, SEALED | linux.MOUNT_ATTR_NODEV, ROOT, recursive=False)
    return root


def _mount_overlay(plan: Blueprint, image: int) -> None:
    """The image, and over it what every sandbox has; nothing of it is changed."""
    linux.attach_tree(image, os.open(f"{GROUND}/lower", os.O_PATH))
    options = ",".join(f"{kind}dir={GROUND}/{kind}" for kind in ("lower", "upper", "work"))
    options += "" if plan.root_mode else ",userxattr"
    linux.mount("overlay", ROOT, "overlay", linux.MS_NOSUID | linux.MS_NODEV, options)


def _make_devices(root: int, devices: dict[str, int]) -> None:
    folder = rooted.folder_in(root, "/dev")
    mount_memory(_path_of(folder), "mode=0755,size=64k")
    os.close(folder)
    for name, points_to in DEVICE_LINKS.items():
        _link(root, f"/dev/{name}", points_to)
    for name, tree in devices.items():
        linux.attach_tree(tree, rooted.file_in(root, f"/dev/{name}"))
    os.close(rooted.folder_in(root, "/dev/shm"))  # noqa: S108  # in the sandbox
    folder = rooted.folder_in(root, "/dev")
    linux.set_mount_attributes(folder, SEALED | linux.MOUNT_ATTR_NODEV, "/dev", recursive=False)
    os.close(folder)


def _mount_disk(plan: Blueprint, root: int) -> None:
    make_disk(plan)
    for place, name in WRITABLE.items():
        tree = linux.clone_tree(f"{DISK}/{name}", linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
        linux.attach_tree(tree, rooted.folder_in(root, place))


def make_disk(plan: Blueprint) -> None:
    """One file system of bounded size for all that commands may write, at :data:`DISK`."""
    disk = Path(DISK)
    disk.mkdir()
    inodes = max(65_536, plan.disk_bytes // 4096)
    mount_memory(DISK, f"mode=0755,size={plan.disk_bytes},nr_inodes={inodes}")
    for name in dict.fromkeys(WRITABLE.values()):
        (disk / name).mkdir()
        (disk / name).chmod(0o1777 if name in STICKY else 0o755)
        if plan.root_mode:
            os.chown(disk / name, plan.host_uid, plan.host_uid)


def _mount_proc(root: int) -> None:
    mount_point = rooted.folder_in(root, "/proc")
    linux.mount("proc", _path_of(mount_point), "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    os.close(mount_point)
    null = f"{ROOT}/dev/null"
    for name in READ_ONLY_FOLDERS:
        _cover(root, f"/proc/{name}", f"{ROOT}/proc/{name}")
    for name in HIDDEN_FILES:
        _cover(root, f"/proc/{name}", null)
    os.close(root)


def _cover(root: int, place: str, source: str) -> None:
    """Where this kernel has ``place``, put a read-only view of ``source`` over it."""
    with contextlib.suppress(FileNotFoundError):
        target = linux.open_in_root(root, place, os.O_PATH)
        linux.attach_tree(linux.clone_tree(source, SEALED, recursive=False), target)


def mount_memory(target: str, options: str) -> None:
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)


def _link(root: int, place: str, points_to: str) -> None:
    folder = rooted.folder_in(root, str(PurePosixPath(place).parent))
    os.symlink(points_to, PurePosixPath(place).name, dir_fd=folder)
    os.close(folder)


def _write(root: int, place: str, text: str) -> None:
    """Make a file, instead of what the image has there."""
    folder, name = rooted.folder_in(root, str(PurePosixPath(place).parent)), PurePosixPath(place).name
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
    os.close(folder)
    with os.fdopen(fd, "w") as file:
        file.write(text)


def _path_of(fd: int) -> str:
    """A path to what is open, for calls that take no descriptor."""
    return f"/proc/self/fd/{fd}"


def _drop_privileges() -> None:
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # The change of user cleared this: the first process must not outlive its maker.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
