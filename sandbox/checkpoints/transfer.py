"""Takes trees out of a sandbox and puts them back.

What comes from the sandbox may be hostile: it is bounded, read as such (``manifest.py``), and content is known by the
sum that is counted here.
"""

import asyncio
import mmap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from typing import IO

from sandbox.checkpoints.manifest import MAX_LISTING, MAX_PATH, Manifest
from sandbox.checkpoints.store import CheckpointStore, NewContent
from sandbox.errors import SandboxError, SandboxRejected

Call = Callable[[str, bytes | memoryview, int], AsyncIterator[bytes]]
"""Makes a file call (its name, its input, the bound of its output) about the tree in question; raises if it fails."""

_TRIES = 3
_MAX_CHUNK = 256 * 1024
_LENGTH = 4


async def save(call: Call, store: CheckpointStore, max_bytes: int) -> str:
    """Keep the tree as it is now; the checkpoint's id.

    Raises:
        SandboxRejected: its files are larger than ``max_bytes`` together, or it changes all the time.
    """
    async with _uncollected(store):
        for _ in range(_TRIES):
            manifest = await _listing(call)
            if manifest.size > max_bytes:
                raise SandboxRejected(f"the work tree holds {manifest.size} bytes, more than {max_bytes}")
            if await _fetch(call, store, manifest, max_bytes):
                return await asyncio.to_thread(store.keep, manifest)
    raise SandboxRejected("the work tree changes while it is saved; end what still writes to it")


async def restore(call: Call, store: CheckpointStore, checkpoint: str) -> None:
    """Make the tree what it was. If anything is raised, it may be neither that nor what it is now.

    Raises:
        UnknownCheckpoint, CheckpointDamaged: the store does not have it, or not whole.
    """
    async with _uncollected(store):
        wanted = await asyncio.to_thread(store.manifest, checkpoint)
        present = {entry.path: entry.sum for entry in (await _listing(call)).files}
        with store.scratch() as file:
            await asyncio.to_thread(_write_down, store, wanted, present, file)
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            async for _ in call("tree_in", data, 0):
                pass
    if await _listing(call) != wanted:
        raise SandboxError("the work tree is not what it should be after it was restored")


@asynccontextmanager
async def _uncollected(store: CheckpointStore) -> AsyncIterator[None]:
    lock = store.locked()
    await asyncio.to_thread(lock.__enter__)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


async def _listing(call: Call) -> Manifest:
    data = bytearray()
    async for part in call("tree", b"", MAX_LISTING):
        data += part
    return await asyncio.to_thread(Manifest.parse, bytes(data))


async def _fetch(call: Call, store: CheckpointStore, manifest: Manifest, max_bytes: int) -> bool:
    """Fetch the contents that the store lacks; false where they are no longer what the listing says."""
    missing = await asyncio.to_thread(store.missing, manifest)
    wanted = {entry.sum: entry for entry in manifest.files if entry.sum in missing}
    if not wanted:
        return True
    asked = b"\0".join(entry.path for entry in wanted.values())
    with closing(_Receiver(store, {entry.path: entry.sum for entry in wanted.values()})) as receiver:
        async for part in call("tree_out", asked, max_bytes + MAX_LISTING):
            await asyncio.to_thread(receiver.take, part)
        return receiver.has_all


def _write_down(store: CheckpointStore, wanted: Manifest, present: Mapping[bytes, str], file: IO[bytes]) -> None:
    """What putting back needs to know: the listing, and the contents that are not there yet."""
    sent = {entry.path: entry.sum for entry in wanted.files if present.get(entry.path) != entry.sum}
    for entry in wanted.entries:
        file.write(entry.line("k" if entry.kind == "f" and entry.path not in sent else ""))
    file.write(b"\0")
    for each in sent.values():
        for part in store.read(each):
            file.write(len(part).to_bytes(_LENGTH, "big") + part)
        file.write(bytes(_LENGTH))
    file.flush()


class _Receiver:
    """Reads what ``tree_out`` writes: a path and NUL, then chunks with their length before them, the last empty."""

    def __init__(self, store: CheckpointStore, wanted: dict[bytes, str]) -> None:
        self._store = store
        self._wanted = wanted
        self._changed = False
        self._buffer = bytearray()
        self._sum = ""
        self._content: NewContent | None = None
        self._left = 0

    @property
    def has_all(self) -> bool:
        """Everything that was wanted has come, as it was announced."""
        return not (self._wanted or self._changed or self._content or self._buffer)

    def take(self, part: bytes) -> None:
        """
        Raises:
            SandboxRejected: nobody asked for this.
        """
        self._buffer += part
        while self._step():
            pass

    def close(self) -> None:
        if self._content is not None:
            self._content.drop()
            self._content = None

    def _step(self) -> bool:
        """Take the next piece from the buffer; false where it has not come yet."""
        if self._content is None:
            return self._begin()
        if self._left:
            return self._copy(self._content)
        if len(self._buffer) < _LENGTH:
            return False
        self._left = int.from_bytes(self._eat(_LENGTH), "big")
        if self._left > _MAX_CHUNK:
            raise SandboxRejected("the sandbox sends a file in a form that no honest one has")
        if not self._left:
            self._changed |= not self._content.keep(self._sum)
            self._content = None
        return True

    def _begin(self) -> bool:
        end = self._buffer.find(b"\0")
        if end < 0 and len(self._buffer) <= MAX_PATH:
            return False
        announced = self._wanted.pop(self._eat(end + 1)[:-1], None)
        if announced is None:
            raise SandboxRejected("the sandbox sends a file that nobody asked for")
        self._sum, self._content = announced, self._store.new_content()
        return True

    def _copy(self, content: NewContent) -> bool:
        part = self._eat(self._left)
        content.write(part)
        self._left -= len(part)
        return bool(part)

    def _eat(self, size: int) -> bytes:
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part
