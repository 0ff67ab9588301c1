"""Checkpoints on this machine's disk: each content once, however many trees hold it.

Everything in one store is one secret: whoever may save into it can have any content of it whose SHA-256 they know, for
a sandbox is believed when it says what its files hold. So a store belongs to one task, or to tasks of one owner.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from sandbox.checkpoints.manifest import Manifest, sums_of
from sandbox.errors import CheckpointDamaged, UnknownCheckpoint

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Freed:
    """What a collection removed."""

    num_checkpoints: int
    num_contents: int
    num_bytes: int


class CheckpointStore:
    """A folder of checkpoints. Several processes may use it at once; every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._contents = folder / "contents"
        self._manifests = folder / "manifests"
        self._unfinished = folder / "unfinished"
        self._lock = folder / "lock"
        for each in (self._contents, self._manifests, self._unfinished):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def missing(self, manifest: Manifest) -> set[str]:
        """Contents of a tree that are not here."""
        return {each for each in manifest.sums if not self._content(each).exists()}

    def new_content(self) -> "NewContent":
        """To be filled, then kept."""
        return NewContent(self._unfinished, self._content)

    def read(self, sum: str) -> Iterator[bytes]:  # noqa: A002  # the manifest's word
        """The content of that sum, in parts.

        Raises:
            CheckpointDamaged: it is not here, or no longer what it was.
        """
        found = hashlib.sha256()
        try:
            with self._content(sum).open("rb") as file:
                while part := file.read(_CHUNK):
                    found.update(part)
                    yield part
        except FileNotFoundError as error:
            raise CheckpointDamaged(f"the store has lost the content {sum}") from error
        if found.hexdigest() != sum:
            raise CheckpointDamaged(f"the store's content {sum} is damaged: it is {found.hexdigest()}")

    def keep(self, manifest: Manifest) -> str:
        """Keep a tree whose contents are all here; its id."""
        place = self._manifests / manifest.id
        if not place.exists():
            self._put(manifest.encode(), place)
        return manifest.id

    def manifest(self, checkpoint: str) -> Manifest:
        """The tree of that id.

        Raises:
            UnknownCheckpoint: there is none.
            CheckpointDamaged: it is no longer what it was.
        """
        if checkpoint not in self.checkpoints():
            raise UnknownCheckpoint(f"there is no checkpoint {checkpoint[:100]!r} in this store")
        data = (self._manifests / checkpoint).read_bytes()
        if hashlib.sha256(data).hexdigest() != checkpoint:
            raise CheckpointDamaged(f"the store's manifest {checkpoint} is damaged")
        return Manifest.parse(data)

    def export(self, checkpoint: str, folder: Path) -> None:
        """Put a tree into an empty folder of this machine. Links are kept as links, so whoever reads it must not follow
        them either; modes are reduced to executable or not.

        Raises:
            UnknownCheckpoint, CheckpointDamaged: it is not here, or not whole.
        """
        for entry in self.manifest(checkpoint).entries:
            # A manifest names folders before what is in them, and nothing twice: no path leads through a link.
            place = folder / os.fsdecode(entry.path)
            if entry.kind == "l":
                place.symlink_to(os.fsdecode(entry.target))
            elif entry.kind == "d":
                place.mkdir(exist_ok=True)
            else:
                mode = 0o755 if entry.mode & 0o111 else 0o644
                with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    file.writelines(self.read(entry.sum))

    def checkpoints(self) -> set[str]:
        """Ids of all that are kept."""
        return {each.name for each in self._manifests.iterdir()}

    def collect(self, keep: Iterable[str]) -> Freed:
        """Remove every checkpoint but these, and what no longer belongs to any; waits for whoever saves or restores."""
        with self.locked(exclusive=True):
            unwanted = self.checkpoints() - set(keep)
            for each in unwanted:
                (self._manifests / each).unlink()
            wanted = sums_of(self.manifest(each) for each in self.checkpoints())
            contents = [path for path in self._contents.glob("??/*") if path.parent.name + path.name not in wanted]
            num_bytes = sum(path.stat().st_size for path in contents)
            for path in (*contents, *self._unfinished.iterdir()):
                path.unlink()
        return Freed(len(unwanted), len(contents), num_bytes)

    @contextmanager
    def locked(self, *, exclusive: bool = False) -> Iterator[None]:
        """Nothing is collected meanwhile; or, exclusively, nothing else happens."""
        with self._lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    def scratch(self) -> IO[bytes]:
        """A file without a name, on the store's disk."""
        return tempfile.TemporaryFile(dir=self._unfinished)

    def _content(self, sum: str) -> Path:  # noqa: A002
        return self._contents / sum[:2] / sum[2:]

    def _put(self, data: bytes, place: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=self._unfinished, delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(place)


class NewContent:
    """A content that is being received. It gets its name, which is its sum, when it is whole."""

    def __init__(self, folder: Path, place: Callable[[str], Path]) -> None:
        descriptor, name = tempfile.mkstemp(dir=folder)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._place = place
        self._found = hashlib.sha256()

    def write(self, part: bytes | memoryview) -> None:
        self._found.update(part)
        self._file.write(part)

    def keep(self, sum: str) -> bool:  # noqa: A002
        """False where its sum, as counted here, is another one than was announced; then it is dropped."""
        if self._found.hexdigest() != sum:
            self.drop()
            return False
        self._file.close()
        place = self._place(sum)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        self._path.replace(place)
        return True

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
