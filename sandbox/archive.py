"""Trees of files as tar archives, written plainly and read with suspicion.

Only what a work tree needs: folders, regular files, symbolic links. Python's ``tarfile`` is not used for reading: it
understands far more (sparse files, devices, hard links, nested extension records) than we would want to from an
archive whose maker is hostile.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sandbox.errors import SandboxRejected

BLOCK = 512
CHUNK = 256 * 1024
MAX_PATH = 4096
MAX_DEPTH = 200
"""Folders inside one another. Writing an archive keeps a descriptor open for each."""


def pack(root: Path) -> bytes:
    """Everything below ``root`` as a tar archive; links are stored, never followed.

    Raises:
        SandboxRejected: the tree is deeper than :data:`MAX_DEPTH`.
    """
    out = io.BytesIO()
    folder = _open_root(root)
    try:
        write_tree(folder, out)
    finally:
        os.close(folder)
    return out.getvalue()


def unpack_hostile(data: bytes, root: Path, max_bytes: int = 512 * 1024 * 1024, max_entries: int = 200_000) -> None:
    """Unpack an archive made by hostile code below the folder ``root``.

    Nothing is written outside ``root`` and no link is followed; links are kept as links, so whoever reads the tree
    must not follow them either. Modes are reduced to executable or not.

    Raises:
        SandboxRejected: the archive is damaged, too large, or holds something other than folders, files and links.
    """
    folder = _open_root(root)
    try:
        read_tree(io.BytesIO(data), folder, max_bytes=max_bytes, max_entries=max_entries)
    finally:
        os.close(folder)


def write_tree(folder: int, out: BinaryIO) -> None:
    """Write everything below an open folder to ``out`` as an archive. Sockets, pipes and devices are left out."""
    _write_folder(folder, b"", out, depth=0)
    out.write(bytes(2 * BLOCK))


def read_tree(source: BinaryIO, folder: int, max_bytes: int, max_entries: int) -> None:
    """Unpack the archive in ``source`` below an open folder; see :func:`unpack_hostile`."""
    writer = _TreeWriter(folder)
    left = max_bytes
    try:
        for count, entry in enumerate(_entries(source), start=1):
            left -= entry.size
            if count > max_entries:
                raise SandboxRejected(f"the archive has more than {max_entries} entries")
            if left < 0:
                raise SandboxRejected(f"the archive holds more than {max_bytes} bytes")
            with _as_rejection(entry.path):
                writer.write(entry, source)
    finally:
        writer.close()


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write all of ``data``: a nearly full disk takes a part of it first, and only then says that it is full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@dataclass(frozen=True, slots=True)
class _Entry:
    path: bytes
    kind: bytes
    """Type flag: ``0`` file, ``2`` symbolic link, ``5`` folder."""
    mode: int = 0
    size: int = 0
    link: bytes = b""


def _open_root(root: Path) -> int:
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


# --- writing -------------------------------------------------------------------------------------------------------


def _write_folder(fd: int, prefix: bytes, out: BinaryIO, depth: int) -> None:
    device = os.fstat(fd).st_dev
    if depth > MAX_DEPTH or len(prefix) > MAX_PATH:
        raise SandboxRejected(f"folders are nested more than {MAX_DEPTH} deep")
    for name in sorted(os.listdir(fd)):
        raw = os.fsencode(name)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                child = _open_readable(name, os.O_DIRECTORY, fd, status.st_mode)
                try:
                    out.write(_header(_Entry(prefix + raw + b"/", b"5", stat.S_IMODE(status.st_mode))))
                    if status.st_dev == device:  # what is mounted there does not belong to the tree
                        _write_folder(child, prefix + raw + b"/", out, depth + 1)
                finally:
                    os.close(child)
            elif stat.S_ISLNK(status.st_mode):
                link = os.fsencode(os.readlink(name, dir_fd=fd))
                out.write(_header(_Entry(prefix + raw, b"2", 0o777, 0, link)))
            elif stat.S_ISREG(status.st_mode):
                _write_file(_open_readable(name, 0, fd, status.st_mode), prefix + raw, out)
        except FileNotFoundError:
            continue  # removed by a process that is still running there


def _open_readable(name: str, flags: int, dir_fd: int, mode: int) -> int:
    """Open what we own even where its mode keeps us out: a tree must not hide from its archive."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        os.chmod(name, stat.S_IMODE(mode) | (0o700 if flags & os.O_DIRECTORY else 0o400), dir_fd=dir_fd)
        return os.open(name, flags, dir_fd=dir_fd)


def _write_file(fd: int, path: bytes, out: BinaryIO) -> None:
    """One file, with exactly the size its header says even if it changes meanwhile."""
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return
        out.write(_header(_Entry(path, b"0", stat.S_IMODE(status.st_mode), status.st_size)))
        left = status.st_size
        while left:
            chunk = file.read(min(CHUNK, left)) or bytes(min(CHUNK, left))
            out.write(chunk)
            left -= len(chunk)
        out.write(bytes(-status.st_size % BLOCK))


def _header(entry: _Entry) -> bytes:
    """A header block, after a GNU record for each name too long for it."""
    records = [_long(b"L", entry.path)] if len(entry.path) > 100 else []
    records += [_long(b"K", entry.link)] if len(entry.link) > 100 else []
    return b"".join([*records, _block(entry.path, entry.kind, entry.mode, entry.size, entry.link)])


def _long(kind: bytes, name: bytes) -> bytes:
    text = name + b"\0"
    return _block(b"././@LongLink", kind, 0o644, len(text), b"") + text + bytes(-len(text) % BLOCK)


def _block(path: bytes, kind: bytes, mode: int, size: int, link: bytes) -> bytes:
    number = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block = bytearray(
        path[:100].ljust(100, b"\0")
        + b"%07o\0" % (mode & 0o7777)
        + b"%07o\0%07o\0" % (0, 0)
        + number
        + b"%011o\0" % 0
        + b" " * 8
        + kind
        + link[:100].ljust(100, b"\0")
        + b"ustar  \0"
    )
    block += bytes(BLOCK - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


# --- reading -------------------------------------------------------------------------------------------------------


def _entries(source: BinaryIO) -> Iterator[_Entry]:
    """The entries of an archive. Whoever takes a file must read its ``size`` bytes and padding before the next."""
    names: dict[bytes, bytes] = {}
    while (block := _exactly(source, BLOCK)).strip(b"\0"):
        entry = _parse(block)
        if entry.kind in (b"L", b"K"):
            names[entry.kind] = _body(source, entry.size).rstrip(b"\0")
        elif entry.kind in (b"x", b"g"):
            names |= _pax_names(_body(source, entry.size)) if entry.kind == b"x" else {}
        elif entry.kind in (b"0", b"2", b"5"):
            path, link = names.pop(b"L", entry.path), names.pop(b"K", entry.link)
            if entry.kind != b"0" and entry.size:
                raise SandboxRejected("the archive is damaged: a link or folder with content")
            yield _Entry(path, entry.kind, entry.mode, entry.size, link)
        else:
            raise SandboxRejected(f"the archive holds something of type {entry.kind!r}, not a file, folder or link")


def _parse(block: bytes) -> _Entry:
    if _number(block[148:156]) != sum(block[:148]) + 256 + sum(block[156:]):
        raise SandboxRejected("the archive is damaged: a header's checksum is wrong")
    kind = block[156:157].replace(b"\0", b"0")
    path, prefix = _text(block[:100]), _text(block[345:500])
    if block[257:263] == b"ustar\0" and prefix:
        path = prefix + b"/" + path
    return _Entry(path, kind, _number(block[100:108]) & 0o7777, _number(block[124:136]), _text(block[157:257]))


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise SandboxRejected("the archive is damaged: a number in a header is not one")
    return int(digits, 8)


def _pax_names(body: bytes) -> dict[bytes, bytes]:
    """Path and link target out of an extended header; everything else in it does not matter to us."""
    names: dict[bytes, bytes] = {}
    while body:
        digits, _, rest = body.partition(b" ")
        if not digits.isdigit() or not len(digits) + 1 < int(digits[:9]) <= len(body):
            raise SandboxRejected("the archive is damaged: an extended header does not add up")
        key, _, value = rest[: int(digits) - len(digits) - 2].partition(b"=")
        if key in (b"size", b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"):
            raise SandboxRejected(f"the archive uses {key.decode()}, which is not understood")
        names |= {b"path": {b"L": value}, b"linkpath": {b"K": value}}.get(key, {})
        body = body[int(digits) :]
    return names


def _body(source: BinaryIO, size: int) -> bytes:
    if size > 16 * MAX_PATH:
        raise SandboxRejected("the archive is damaged: a name without end")
    return _exactly(source, size + -size % BLOCK)[:size]


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    while len(data) < size:
        more = source.read(size - len(data))
        if not more:
            raise SandboxRejected("the archive ends in the middle")
        data += more
    return data


class _TreeWriter:
    """Puts entries below a folder, holding on to the last parent so that a run of siblings is quick."""

    def __init__(self, root: int) -> None:
        self._root = os.dup(root)
        self._parent_path: tuple[bytes, ...] = ()
        self._parent = os.dup(self._root)

    def write(self, entry: _Entry, source: BinaryIO) -> None:
        parts = _parts(entry.path)
        if not parts:
            if entry.kind != b"5":
                raise SandboxRejected("the archive names its own root as a file")
            return
        self._enter(parts[:-1])
        name = parts[-1]
        if entry.kind == b"5":
            _make_folder(name, self._parent, replace=True)
        elif entry.kind == b"2":
            _clear(name, self._parent)
            os.symlink(_link_target(entry.link), name, dir_fd=self._parent)
        else:
            _clear(name, self._parent)
            self._write_file(name, entry, source)

    def close(self) -> None:
        os.close(self._parent)
        os.close(self._root)

    def _write_file(self, name: bytes, entry: _Entry, source: BinaryIO) -> None:
        mode = 0o755 if entry.mode & 0o111 else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, mode, dir_fd=self._parent), "wb", buffering=0) as file:
            os.fchmod(file.fileno(), mode)
            left = entry.size
            while left:
                chunk = _exactly(source, min(CHUNK, left))
                write_all(file, chunk)
                left -= len(chunk)
        _exactly(source, -entry.size % BLOCK)

    def _enter(self, parents: tuple[bytes, ...]) -> None:
        if parents == self._parent_path:
            return
        fd = os.dup(self._root)
        try:
            for part in parents:
                _make_folder(part, fd, replace=False)
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = inner
        except OSError:
            os.close(fd)
            raise
        os.close(self._parent)
        self._parent, self._parent_path = fd, parents


def _parts(path: bytes) -> tuple[bytes, ...]:
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if path.startswith(b"/") or b".." in parts or b"\0" in path or len(path) > MAX_PATH or len(parts) > MAX_DEPTH + 1:
        raise SandboxRejected(f"the archive names a path outside its root, or too long: {path[:200]!r}")
    return parts


def _link_target(link: bytes) -> bytes:
    if not link or b"\0" in link or len(link) >= MAX_PATH:
        raise SandboxRejected("the archive holds a link to nothing")
    return link


def _make_folder(name: bytes, dir_fd: int, *, replace: bool) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=dir_fd)
    except FileExistsError:
        if replace and not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=dir_fd)
            os.mkdir(name, 0o755, dir_fd=dir_fd)


def _clear(name: bytes, dir_fd: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)


@contextmanager
def _as_rejection(path: bytes) -> Iterator[None]:
    """An archive that contradicts itself (a folder inside a file or link) is the archive's fault, not the disk's."""
    try:
        yield
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise SandboxRejected(f"the archive contradicts itself at {path[:200]!r}: {error.strerror}") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
            raise SandboxRejected(f"the archive has an impossible path {path[:200]!r}: {error.strerror}") from error
        raise
