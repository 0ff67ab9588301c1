"""Has bubblewrap make the machine that :mod:`sandbox.local.namespaces` makes otherwise: the same blueprint, written as
arguments.

It always runs as an ordinary user. As the superuser, this process becomes a user that nobody is; what that user could
not reach, such as an image in the superuser's home, is put where he can before, as read-only copies of the mounts in a
mount namespace of this process. Paths are made only in file systems that nobody has written to yet.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from sandbox import linux
from sandbox.local import namespaces
from sandbox.local.blueprint import Blueprint
from sandbox.local.namespaces import GROUND, SEALED

_WALLS = (
    *("--unshare-all", "--unshare-user", "--unshare-cgroup", "--disable-userns", "--cap-drop", "ALL"),
    *("--as-pid-1", "--new-session", "--die-with-parent", "--clearenv", "--chdir", "/"),
    *("--hostname", "sandbox", "--uid", str(namespaces.UID), "--gid", str(namespaces.UID)),
)
_OTHERS_SETTINGS = "/proc/sys/fs/binfmt_misc"
"""A mount of its own within what is covered by the host's."""


def prepare(plan: Blueprint, kept: Sequence[str]) -> tuple[list[str], list[int]]:
    """Become an ordinary user, unless this process is one. Gives the arguments, and a descriptor for each folder in
    ``kept``: read-only, and not leading out of it. Without privilege there is no such descriptor, and none is given.

    What the arguments name by descriptor, a program that is executed inherits.
    """
    image = os.open(plan.tree, os.O_PATH) if plan.tree else -1
    over = [plan.tree, _layer(plan, image)] if plan.tree else []
    sources = [*plan.binds.values(), *map(_device, namespaces.DEVICES), *over]
    seen, brought = {source: source for source in sources}, list[int]()
    if plan.root_mode:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        brought = [linux.clone_tree(path, SEALED | linux.MOUNT_ATTR_NODEV, recursive=False) for path in kept]
        seen = _stage(plan, sources)
    root = _image([seen[layer] for layer in over]) if over else _host(plan)
    arguments = [*_WALLS, *root, *_mounts(plan, seen, image), *_proc(seen), "--remount-ro", "/"]
    if plan.root_mode:
        os.setgroups([])
        os.setresgid(plan.host_uid, plan.host_uid, plan.host_uid)
        os.setresuid(plan.host_uid, plan.host_uid, plan.host_uid)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # the change of user cleared it
    return arguments, brought


def _stage(plan: Blueprint, sources: Sequence[str]) -> dict[str, str]:
    """Each source -> where an ordinary user gets at it. The disk is made too, for only here it can be one."""
    devices = set(map(_device, namespaces.DEVICES))
    trees = {
        source: linux.clone_tree(source, SEALED | (0 if source in devices else linux.MOUNT_ATTR_NODEV))
        for source in sources
    }
    namespaces.mount_memory(GROUND, "mode=0755,size=8m")
    namespaces.make_disk(plan)
    seen = {}
    for number, (source, tree) in enumerate(trees.items()):
        place = Path(GROUND, str(number))
        place.mkdir() if os.path.isdir(tree) else place.touch()  # noqa: PTH112  # a descriptor
        linux.attach_tree(tree, os.open(place, os.O_PATH))
        seen[source] = str(place)
    return seen


def _host(plan: Blueprint) -> Iterator[str]:
    """A root of its own; bubblewrap makes in it what it mounts on."""
    for place, points_to in plan.links.items():
        yield from ("--symlink", points_to, place)
    for place, text in plan.files.items():
        yield from ("--perms", "0644", "--file", str(_in_memory(text)), place)
    for place in namespaces.EMPTY:
        yield from ("--dir", place)


def _image(layers: Sequence[str]) -> Iterator[str]:
    for layer in layers:
        yield from ("--overlay-src", layer)
    yield from ("--ro-overlay", "/")


def _layer(plan: Blueprint, image: int) -> str:
    """A folder that is laid over the image: our files, and whatever is mounted on. In the image's own folders, which
    are others', bubblewrap may make nothing.
    """
    layer = Path(plan.folder, "layer")
    for place in ("/dev", *namespaces.EMPTY, *namespaces.WRITABLE, *plan.binds):
        Path(f"{layer}{_where(image, place)}").mkdir(parents=True, exist_ok=True)
    for place, text in plan.files.items():
        path = PurePosixPath(place)
        folder = Path(f"{layer}{_where(image, str(path.parent))}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_text(text)
    return str(layer)


def _mounts(plan: Blueprint, seen: dict[str, str], image: int) -> Iterator[str]:
    devices = _where(image, "/dev")
    yield from _devices(seen, devices)
    for place, name in namespaces.WRITABLE.items():
        target = f"{devices}/shm" if place == "/dev/shm" else _where(image, place)  # noqa: S108  # in the sandbox
        if plan.root_mode:
            yield from ("--bind", f"{namespaces.DISK}/{name}", target)
        else:
            mode = "1777" if name in namespaces.STICKY else "0755"
            yield from ("--perms", mode, "--size", str(plan.disk_bytes), "--tmpfs", target)
    yield from ("--remount-ro", devices)
    for place, source in sorted(plan.binds.items()):
        yield from ("--ro-bind", seen[source], _where(image, place))


def _devices(seen: dict[str, str], folder: str) -> Iterator[str]:
    yield from ("--perms", "0755", "--size", "65536", "--tmpfs", folder)
    for name, points_to in namespaces.DEVICE_LINKS.items():
        yield from ("--symlink", points_to, f"{folder}/{name}")
    for name in namespaces.DEVICES:
        yield from ("--dev-bind", seen[_device(name)], f"{folder}/{name}")
    yield from ("--dir", f"{folder}/shm")


def _proc(seen: dict[str, str]) -> Iterator[str]:
    """What this kernel has to be hidden is seen as empty; its settings as the host's own, which are the sandbox's to
    whoever asks in it.
    """
    yield from ("--proc", "/proc")
    for name in namespaces.READ_ONLY_FOLDERS:
        if Path("/proc", name).exists():
            yield from ("--ro-bind", f"/proc/{name}", f"/proc/{name}")
    if os.path.ismount(_OTHERS_SETTINGS):
        yield from ("--perms", "0555", "--size", "4096", "--tmpfs", _OTHERS_SETTINGS)
        yield from ("--remount-ro", _OTHERS_SETTINGS)
    for name in namespaces.HIDDEN_FILES:
        if Path("/proc", name).exists():
            yield from ("--dev-bind", seen[_device("null")], f"/proc/{name}")


def _device(name: str) -> str:
    return f"/dev/{name}"


def _where(image: int, place: str) -> str:
    """Where a path of the image leads to in it: bubblewrap mounts on no link."""
    if image < 0:
        return place
    try:
        found = linux.open_in_root(image, place, os.O_PATH)
    except FileNotFoundError:
        path = PurePosixPath(place)
        return str(PurePosixPath(_where(image, str(path.parent)), path.name))
    root, real = (str(Path(f"/proc/self/fd/{each}").readlink()) for each in (image, found))
    os.close(found)
    return real.removeprefix(root) or "/"


def _in_memory(text: str) -> int:
    """A file without a name, to be inherited."""
    file = os.memfd_create("file", 0)
    os.write(file, text.encode())
    os.lseek(file, 0, os.SEEK_SET)
    return file
