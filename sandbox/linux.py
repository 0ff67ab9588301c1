"""The Linux calls that Python's standard library does not offer, each raising :class:`OSError`.

Used by the processes that make a sandbox; single-threaded, standard library only.
"""

import ctypes
import os
import platform
from functools import cache

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
# mount_setattr(2): the same wishes under other numbers
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
# unshare(2)
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# openat2(2)
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
# prctl(2)
PR_SET_PDEATHSIG, PR_GET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 1, 21, 24, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_EMPTY_PATHS = 1, os.O_CLOEXEC, 0x44
# These numbers are the same on every machine we run on.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 437, 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPGET, _SYS_CAPSET = {"x86_64": 125, "aarch64": 90}, {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check(_libc().mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()), target)


def unmount(target: str) -> None:
    _check(_libc().umount2(os.fsencode(target), MNT_DETACH), target)


def clone_tree(path: str, attributes: int, *, recursive: bool = True) -> int:
    """A detached copy of the mounts at ``path``, already with ``attributes``: it is never seen without them."""
    depth = _AT_RECURSIVE if recursive else 0
    fd = _syscall(
        _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | depth, path=path
    )
    set_mount_attributes(fd, attributes, path, recursive=recursive)
    return fd


def set_mount_attributes(fd: int, attributes: int, path: str, *, recursive: bool) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, MS_PRIVATE, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(wanted), ctypes.sizeof(wanted), path=path)


def attach_tree(fd: int, target: int) -> None:
    """Put a detached mount onto an open file or folder; both descriptors are closed."""
    _syscall(_SYS_MOVE_MOUNT, fd, b"", target, b"", _MOVE_MOUNT_EMPTY_PATHS, path="mount point")
    os.close(fd)
    os.close(target)


def pivot_to(root: str) -> None:
    """Make ``root`` the root of this mount namespace and let go of the old one (pivot_root(2), last example)."""
    os.chdir(root)
    _syscall(_SYS_PIVOT_ROOT[platform.machine()], b".", b".", path=root)
    unmount(".")
    os.chdir("/")


def unshare(flags: int) -> None:
    _check(_libc().unshare(flags), "unshare")


def prctl(option: int, argument: int = 0) -> None:
    _check(_libc().prctl(option, ctypes.c_ulong(argument), 0, 0, 0), "prctl")


def become_owner(id: int) -> None:  # noqa: A002  # the field's name
    """What this process makes belongs to user and group ``id``; it keeps the superuser's capabilities."""
    os.setegid(id)
    os.seteuid(id)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _syscall(_SYS_CAPGET[platform.machine()], ctypes.byref(header), ctypes.byref(sets), path="capget")
    sets[0], sets[3] = sets[1], sets[4]  # effective are those that are permitted, as before the change of user
    _syscall(_SYS_CAPSET[platform.machine()], ctypes.byref(header), ctypes.byref(sets), path="capset")


def drop_capabilities() -> None:
    """No capability now, none ever again."""
    for capability in range(64):
        if _libc().prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break  # the first number this kernel does not know
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _syscall(_SYS_CAPSET[platform.machine()], ctypes.byref(header), ctypes.byref(nothing), path="capset")


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open ``path`` as if the open folder ``root`` were the root: no link and no ``..`` leads out of it."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    return _syscall(_SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how), path=path)


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    library.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    return library


def _syscall(number: int, *arguments: object, path: str) -> int:
    # Plain integers would be passed as 32 bits: widen them.
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _check(int(_libc().syscall(ctypes.c_long(number), *wide)), path)


def _check(result: int, path: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result
