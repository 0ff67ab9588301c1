"""Unpacks the layers of an image, one over the other, into a folder (OCI image specification, "Image Layer Filesystem
Changeset").

All that is unpacked belongs to this process's user and is never run outside a sandbox, where nobody owns any of it. So
what the sandbox's user might do with a file as its owner or group in the image, everybody may do here. Devices, pipes,
set-user-id bits and extended attributes are left out: sandboxes have none.
"""

import os
import shutil
import stat
import tarfile
from contextlib import suppress
from pathlib import PurePosixPath
from typing import BinaryIO

from sandbox import rooted
from sandbox.errors import SandboxRejected
from sandbox.image import UID

_CHUNK = 1024 * 1024
_HIDES, _HIDES_ALL, _META = ".wh.", ".wh..wh..opq", ".wh..wh."


def unpack(layer: BinaryIO, root: int) -> None:
    """Put a layer over what is below an open folder.

    Raises:
        SandboxRejected: it is damaged, or names something outside.
    """
    writer = _Writer(root)
    try:
        with tarfile.open(fileobj=layer, mode="r|") as tar:
            for member in tar:
                writer.put(member, tar)
    except tarfile.TarError as error:
        raise SandboxRejected(f"a layer of the image is damaged: {error}") from error


class _Writer:
    """Puts one layer's entries in their places."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._made: set[PurePosixPath] = set()
        """What this layer has brought, which its own marks do not hide."""

    def put(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        path = _inside(member.name)
        if not path.name:
            return  # the root itself
        parent = rooted.folder_in(self._root, str(path.parent))
        try:
            if path.name == _HIDES_ALL:
                self._hide_all(path.parent, parent)
            elif path.name.startswith(_META):
                return
            elif path.name.startswith(_HIDES):
                self._hide(path.with_name(path.name.removeprefix(_HIDES)), parent)
            else:
                self._made.add(path)
                self._make(member, path.name, parent, tar)
        finally:
            os.close(parent)

    def _hide_all(self, folder: PurePosixPath, fd: int) -> None:
        for name in os.listdir(f"/proc/self/fd/{fd}"):  # noqa: PTH208  # names alone
            self._hide(folder / name, fd)

    def _hide(self, path: PurePosixPath, parent: int) -> None:
        if path not in self._made:
            _remove(path.name, parent)

    def _make(self, member: tarfile.TarInfo, name: str, parent: int, tar: tarfile.TarFile) -> None:
        if member.isdir():
            _make_folder(name, parent)
            os.chmod(name, _mode(member), dir_fd=parent)
            return
        _remove(name, parent)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            self._link(_inside(member.linkname), name, parent)
            return
        elif member.isreg():
            _write(member, name, parent, tar)
        else:
            return
        when = int(member.mtime * 1e9)
        os.utime(name, ns=(when, when), dir_fd=parent, follow_symlinks=False)

    def _link(self, target: PurePosixPath, name: str, parent: int) -> None:
        folder = rooted.folder_in(self._root, str(target.parent))
        try:
            os.link(target.name, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise SandboxRejected(f"a layer of the image is damaged: {target} is linked to and not there") from error
        finally:
            os.close(folder)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath("/", name.lstrip("/"))
    if ".." in path.parts or "\0" in name:
        raise SandboxRejected(f"a layer of the image names a path outside: {name[:200]!r}")
    return path


def _remove(name: str, parent: int) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)


def _write(member: tarfile.TarInfo, name: str, parent: int, tar: tarfile.TarFile) -> None:
    source = tar.extractfile(member)
    assert source is not None, member
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with source, os.fdopen(fd, "wb", buffering=0) as file:
        shutil.copyfileobj(source, file, _CHUNK)
        os.fchmod(fd, _mode(member))


def _mode(member: tarfile.TarInfo) -> int:
    """The file's mode here: everybody may what the sandbox's user might, and its owner can remove it again."""
    bits = member.mode & 0o777
    shift = 6 if member.uid == UID else 3 if member.gid == UID else 0
    return bits & 0o770 | bits >> shift & 0o7 | (0o700 if member.isdir() else 0o400)
