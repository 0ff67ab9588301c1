"""Where bytes are kept that are no rows: files of a folder, or storage that speaks S3."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from agent.errors import StoreError, StoreUnavailable

ADDRESS_VARIABLE = "MIMO_ARTIFACTS"
"""Where artifacts are kept, for programs that are not told by an option."""

_CHUNK = 1024 * 1024
_USE = "use file:///FOLDER or s3://BUCKET/PREFIX"


class Blobs(Protocol):
    """Bytes under paths such as ``project/task/digest``, whose parts are letters, digits, ``-`` and ``_``.

    Every method raises :class:`~agent.errors.StoreUnavailable` where the storage cannot be used.
    """

    async def put(self, path: str, data: bytes) -> None:
        """Keep ``data``; what was there before is replaced as a whole."""

    def read(self, path: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``stop``, in pieces; there are that many, and at least one."""

    async def delete(self, folder: str) -> None:
        """Forget everything below ``folder``; nothing need be there."""


class FileBlobs:
    """Below a folder, which every process of the service sees."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, path: str, data: bytes) -> None:
        try:
            await asyncio.to_thread(_write, self._folder / path, data)
        except OSError as error:
            raise _away(error) from error

    async def read(self, path: str, start: int, stop: int) -> AsyncIterator[bytes]:
        try:
            with (self._folder / path).open("rb") as file:
                file.seek(start)
                while start < stop and (piece := await asyncio.to_thread(file.read, min(_CHUNK, stop - start))):
                    start += len(piece)
                    yield piece
        except OSError as error:
            raise _away(error) from error

    async def delete(self, folder: str) -> None:
        try:
            await asyncio.to_thread(shutil.rmtree, self._folder / folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _away(error) from error


def open_blobs(address: str) -> Blobs:
    """The storage at ``file:///FOLDER``, which is made, or at ``s3://BUCKET/PREFIX``.

    How S3 is reached stands in the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...).

    Raises:
        StoreError: the address is of another kind, or the storage cannot be used.
    """
    parts = urlsplit(address)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileBlobs(_made(Path(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        try:
            blobs: Blobs = import_module("agent.store.s3").open_s3(parts.netloc, parts.path.strip("/"))
        except ImportError as error:
            raise StoreError("artifacts in S3 need obstore; install mimo-coder[s3]") from error
        return blobs
    raise StoreError(f"not an address of artifacts; {_USE}")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"artifacts cannot be kept: {error}") from error
    return folder


def _write(path: Path, data: bytes) -> None:
    """In one step: whoever reads sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _away(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"artifacts cannot be used: {error}")
