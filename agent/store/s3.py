"""Blobs in storage that speaks S3, by obstore."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from agent.errors import StoreError, StoreUnavailable


def open_s3(bucket: str, prefix: str) -> "S3Blobs":
    """
    Raises:
        StoreError: what the environment says of the storage cannot be.
    """
    try:
        return S3Blobs(S3Store(bucket, prefix=prefix or None))
    except BaseError as error:
        raise StoreError(f"artifacts cannot be kept in s3://{bucket}: {error}") from error


class S3Blobs:
    """Below a prefix of a bucket. Failures that may pass are tried again by the library."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def put(self, path: str, data: bytes) -> None:
        with _translated():
            await obstore.put_async(self._store, path, data)

    async def read(self, path: str, start: int, stop: int) -> AsyncIterator[bytes]:
        with _translated():
            found = await obstore.get_async(self._store, path, options={"range": (start, stop)})
            async for piece in found.stream():
                yield bytes(piece)

    async def delete(self, folder: str) -> None:
        with _translated():
            async for found in obstore.list(self._store, f"{folder}/"):
                await obstore.delete_async(self._store, [blob["path"] for blob in found])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreUnavailable(f"artifacts cannot be used: {error}") from error
