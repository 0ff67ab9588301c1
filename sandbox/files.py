"""File calls inside a sandbox, run as its user in a process of their own.

Each takes the path, reads its input from ``source`` and writes what it found to ``out``. No call follows a link.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import BinaryIO

from sandbox import archive, linux
from sandbox.errors import SandboxRejected

_CHUNK = 256 * 1024
_MAX_UPLOAD = 4 * 1024 * 1024 * 1024
"""The bound of the disk comes first; these two only end an upload that makes no sense."""
_MAX_ENTRIES = 2_000_000


def read(path: str, source: BinaryIO, out: BinaryIO) -> None:
    """The bytes of a regular file."""
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    with os.fdopen(linux.open_without_links(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
        while chunk := file.read(_CHUNK):
            out.write(chunk)


def write(path: str, source: BinaryIO, out: BinaryIO) -> None:
    """Replace a file as a whole: readers see the old bytes or the new ones."""
    place = PurePosixPath(path)
    if not place.name or place.name == "..":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    folder = _open_folder(place.parent)
    try:
        mode = _mode_to_keep(place.name, folder, path)
        temporary = f".{os.urandom(8).hex()}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb", buffering=0) as file:
            try:
                while chunk := source.read(_CHUNK):
                    archive.write_all(file, chunk)
                os.fchmod(file.fileno(), mode)
                os.rename(temporary, place.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(temporary, dir_fd=folder)
                raise
    finally:
        os.close(folder)


def upload(path: str, source: BinaryIO, out: BinaryIO) -> None:
    """Unpack an archive below a folder, which is made if needed."""
    folder = _open_folder(PurePosixPath(path))
    try:
        archive.read_tree(source, folder, max_bytes=_MAX_UPLOAD, max_entries=_MAX_ENTRIES)
    finally:
        os.close(folder)


def download(path: str, source: BinaryIO, out: BinaryIO) -> None:
    """An archive of everything below a folder."""
    folder = linux.open_without_links(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        archive.write_tree(folder, out)
    finally:
        os.close(folder)


CALLS: dict[str, Callable[[str, BinaryIO, BinaryIO], None]] = {
    "read": read,
    "write": write,
    "upload": upload,
    "download": download,
}


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise SandboxRejected(f"{path} is not a regular file")


def _mode_to_keep(name: str, folder: int, path: str) -> int:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0o644
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    _require_regular(mode, path)
    return stat.S_IMODE(mode) & 0o777


def _open_folder(path: PurePosixPath) -> int:
    """Open a folder, making what is missing; a link anywhere in ``path`` is refused."""
    fd = linux.open_without_links("/", os.O_RDONLY | os.O_DIRECTORY)
    for part in path.parts[1:]:
        try:
            inner = _enter(part, fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _enter(name: str, folder: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=folder)
        return os.open(name, flags, dir_fd=folder)
    except NotADirectoryError:
        # The kernel says the same of links and of files; the caller is told which.
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise
