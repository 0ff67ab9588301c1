"""A sandbox backend that tells of every request, before it is made and once it is answered."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from sandbox.checkpoints.rewindable import Rewindable
from sandbox.checkpoints.store import CheckpointStore
from sandbox.inventory import Handle, LastingBackend, LastingSandbox
from sandbox.types import Command, Outcome, SandboxSpec

_T = TypeVar("_T")

Tell = Callable[[str], Awaitable[None]]
"""Hears names such as ``exec asked`` and ``exec answered``; what it waits for holds the request up."""

Running = Callable[[Command], Awaitable[bool]]
"""Waits until a command runs, which is then told as ``exec runs``; False where nobody can say when."""


class WatchedBackend:
    """Another backend, whose sandboxes are watched. Of the backend itself only what makes them is."""

    def __init__(self, backend: LastingBackend, tell: Tell, running: Running) -> None:
        self._backend = backend
        self._tell = tell
        self._running = running

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def acquire(self, spec: SandboxSpec) -> LastingSandbox:
        sandbox = await _told(self._tell, "acquire", self._backend.acquire(spec))
        return _Watched(sandbox, self._tell, self._running)

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> LastingSandbox:
        sandbox = await _told(self._tell, "attach", self._backend.attach(handle, spec, term))
        return _Watched(sandbox, self._tell, self._running)


class _Watched:
    """A sandbox of such a backend."""

    def __init__(self, sandbox: LastingSandbox, tell: Tell, running: Running) -> None:
        self._sandbox = sandbox
        self._tell = tell
        self._running = running

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox, name)

    async def exec(self, command: Command) -> Outcome:
        telling = asyncio.ensure_future(self._tell_when_running(command))
        try:
            return await _told(self._tell, "exec", self._sandbox.exec(command))
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        return await _told(self._tell, "read", self._sandbox.read(path, max_bytes))

    async def write(self, path: str, data: bytes) -> None:
        await _told(self._tell, "write", self._sandbox.write(path, data))

    async def upload(self, tar: bytes, path: str = "/workspace") -> None:
        await _told(self._tell, "upload", self._sandbox.upload(tar, path))

    async def download(self, path: str = "/workspace", max_bytes: int = 512 * 1024 * 1024) -> bytes:
        return await _told(self._tell, "download", self._sandbox.download(path, max_bytes))

    async def checkpoint(self, store: CheckpointStore, path: str = "/workspace", max_bytes: int = 2**30) -> str:
        rewindable = cast(Rewindable, self._sandbox)
        return await _told(self._tell, "checkpoint", rewindable.checkpoint(store, path, max_bytes))

    async def restore(self, store: CheckpointStore, checkpoint: str, path: str = "/workspace") -> None:
        await _told(self._tell, "restore", cast(Rewindable, self._sandbox).restore(store, checkpoint, path))

    async def close(self) -> None:
        await _told(self._tell, "close", self._sandbox.close())

    async def _tell_when_running(self, command: Command) -> None:
        if await self._running(command):
            await self._tell("exec runs")


async def _told(tell: Tell, name: str, request: Awaitable[_T]) -> _T:
    await tell(f"{name} asked")
    answer = await request
    await tell(f"{name} answered")
    return answer
