"""What a backend has to finish though nobody waits for it any more."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from sandbox.errors import SandboxError
from sandbox.types import Sandbox

_S = TypeVar("_S", bound=Sandbox)


class Chores:
    """The work under way of one backend."""

    def __init__(self) -> None:
        self._making: set[asyncio.Task[Any]] = set()
        self._tidying: set[asyncio.Task[None]] = set()

    async def make(self, work: Coroutine[Any, Any, _S]) -> _S:
        """The sandbox that ``work`` makes. One whose caller gives up is made to the end, so that it can be ended."""
        making = asyncio.create_task(work)
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self.tidy(_give_up(making))
            raise

    def tidy(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside whatever comes next."""
        task = asyncio.create_task(work)
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def made(self) -> None:
        """Wait until nothing is being made."""
        await asyncio.gather(*self._making, return_exceptions=True)

    async def tidied(self) -> None:
        """Wait until nothing is left to tidy."""
        while self._tidying:
            await asyncio.gather(*self._tidying, return_exceptions=True)


async def _give_up(making: asyncio.Task[_S]) -> None:
    with contextlib.suppress(SandboxError):
        await (await making).close()
