"""What a work tree consists of, as sandboxd lists it and as a store keeps it.

    kind mode size mtime sum path NUL, and for a link its target and NUL

The kind is ``d``, ``f`` or ``l``, the mode octal, the time in nanoseconds since 1970, ``sum`` the SHA-256 of a file.
The first entry is the folder itself, ``.``; a folder comes before what is in it.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from sandbox.errors import SandboxRejected

MAX_ENTRIES = 250_000
MAX_LISTING = 64 * 1024 * 1024
"""Bytes of a listing. Paths are short; this is what a hostile sandbox can make us hold."""
MAX_PATH = 4096
_MAX_DEPTH = 201
_LINE = re.compile(rb"([dfl]) ([0-7]{1,4}) (\d{1,18}) (-?\d{1,19}) ([0-9a-f]{64}|-) (.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder, file or symbolic link. ``sum`` and ``size`` are a file's, ``target`` a link's."""

    kind: str
    mode: int
    mtime_ns: int
    path: bytes
    size: int = 0
    sum: str = "-"
    target: bytes = b""

    def line(self, kind: str = "") -> bytes:
        head = f"{kind or self.kind} {self.mode:o} {self.size} {self.mtime_ns} {self.sum} ".encode()
        return head + self.path + (b"\0" + self.target + b"\0" if self.kind == "l" else b"\0")


@dataclass(frozen=True)
class Manifest:
    """One state of a work tree."""

    entries: tuple[Entry, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a listing that hostile code may have made.

        Raises:
            SandboxRejected: it is damaged, too large, or names a path outside the tree.
        """
        entries = tuple(_entries(data))
        if not entries:
            raise SandboxRejected("the listing of the work tree is empty")
        return cls(entries)

    def encode(self) -> bytes:
        return b"".join(entry.line() for entry in self.entries)

    @cached_property
    def id(self) -> str:
        """Two trees have the same id when nothing tells them apart."""
        return hashlib.sha256(self.encode()).hexdigest()

    @property
    def files(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.kind == "f")

    @property
    def sums(self) -> set[str]:
        return {entry.sum for entry in self.files}

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


def _entries(data: bytes) -> Iterator[Entry]:
    if data and not data.endswith(b"\0"):
        raise SandboxRejected("the listing of the work tree ends in the middle")
    texts = iter(data.split(b"\0")[:-1])
    folders: set[bytes] = set()
    seen: set[bytes] = set()
    for line in texts:
        entry = _entry(line, texts)
        if not seen:
            _require(entry.kind == "d" and entry.path == b".", line)
        else:
            _check_path(entry.path, folders, line)
        _require(entry.path not in seen and len(seen) < MAX_ENTRIES, line)
        seen.add(entry.path)
        if entry.kind == "d":
            folders.add(entry.path)
        yield entry


def _entry(line: bytes, texts: Iterator[bytes]) -> Entry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise SandboxRejected(f"the listing of the work tree is damaged at {line[:200]!r}")
    kind, mode, size, mtime, digest, path = match.groups()
    entry = Entry(kind.decode(), int(mode, 8), int(mtime), path, int(size), digest.decode())
    if entry.kind == "l":
        target = next(texts, b"")
        _require(0 < len(target) < MAX_PATH, line)
        entry = Entry("l", entry.mode, entry.mtime_ns, path, target=target)
    _require((entry.kind == "f") == (entry.sum != "-") and (entry.kind == "f" or entry.size == 0), line)
    return entry


def _check_path(path: bytes, folders: set[bytes], line: bytes) -> None:
    parts = path.split(b"/")
    _require(len(path) <= MAX_PATH and len(parts) <= _MAX_DEPTH, line)
    _require(not {b"", b".", b".."} & set(parts), line)
    _require(len(parts) == 1 or path.rpartition(b"/")[0] in folders, line)


def _require(holds: bool, line: bytes) -> None:
    if not holds:
        raise SandboxRejected(f"the listing of the work tree contradicts itself at {line[:200]!r}")


def sums_of(manifests: Iterable[Manifest]) -> set[str]:
    """The contents that any of them names."""
    return set[str]().union(*(manifest.sums for manifest in manifests))
