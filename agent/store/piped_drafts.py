"""Drafts between the processes of one machine: a named pipe for each task that a process watches."""

import asyncio
import errno
import logging
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agent.store.drafts import DraftPiece, Drafts

_LOOK_S = 0.3
"""How often a worker looks who watches."""
_READ_BYTES = 65_536
"""As much as a pipe holds."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pipe:
    path: Path
    descriptor: int
    begun: bytes = b""
    """Of a line whose end was not read yet."""


class PipedDrafts(Drafts):
    """Pipes never reach the disk, and one that nobody reads refuses to be opened: so a watcher that was killed is
    noticed by who would have told it."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: for the pipes; made when first somebody watches.
        """
        super().__init__()
        self._folder = folder
        self._pipes: dict[str, _Pipe] = {}
        self._watched: frozenset[str] = frozenset()
        self._looked_at = float("-inf")

    def watched(self, task_id: str) -> bool:
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._looked_at = time.monotonic()
            self._watched = frozenset(name.partition(".")[0] for name in self._names())
        return task_id in self._watched

    def say(self, task_id: str, pieces: Sequence[DraftPiece]) -> None:
        lines = [piece.model_dump_json().encode() + b"\n" for piece in pieces]
        for name in self._names():
            if name.partition(".")[0] == task_id:
                _write(self._folder / name, lines)

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []

    def _begin(self, task_id: str) -> None:
        try:
            pipe = self._pipes[task_id] = _open(self._folder, task_id)
        except OSError as error:  # Not every file system has pipes; the task is watched all the same.
            _logger.warning("action=watch_no_drafts folder=%s error=%r", self._folder, str(error))
        else:
            asyncio.get_running_loop().add_reader(pipe.descriptor, self._read, task_id, pipe)

    def _end(self, task_id: str) -> None:
        pipe = self._pipes.pop(task_id, None)
        if pipe is not None:
            asyncio.get_running_loop().remove_reader(pipe.descriptor)
            pipe.path.unlink(missing_ok=True)
            os.close(pipe.descriptor)

    def _read(self, task_id: str, pipe: _Pipe) -> None:
        *lines, pipe.begun = (pipe.begun + os.read(pipe.descriptor, _READ_BYTES)).split(b"\n")
        for line in lines:
            with suppress(ValidationError):  # Part of a line that was too long for what room there was.
                self._tell(task_id, DraftPiece.model_validate_json(line))


def _open(folder: Path, task_id: str) -> _Pipe:
    """A pipe with a reader from the moment on in which it has its name."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{task_id}.{secrets.token_hex(8)}"
    unready = folder / f".{path.name}"
    os.mkfifo(unready, 0o600)
    # Open for writing too, so that it does not end when a writer goes.
    descriptor = os.open(unready, os.O_RDWR | os.O_NONBLOCK)
    unready.rename(path)
    return _Pipe(path, descriptor)


def _write(path: Path, lines: Sequence[bytes]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ENXIO:  # Its reader was killed.
            path.unlink(missing_ok=True)
        return
    try:
        # A slow reader misses what follows; one may also go in this moment.
        with suppress(BlockingIOError, BrokenPipeError):
            for line in lines:
                os.write(descriptor, line)
    finally:
        os.close(descriptor)
