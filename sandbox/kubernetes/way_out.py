"""The way out of a pod that may reach hosts by name.

The pod itself opens no connection. We do: a few lie ready at its sandboxd, each for the next program that wants out,
and lead to the pod's own door of the proxy (``sandbox/egress.py``), where it is decided and recorded who may go where.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sandbox.egress import Door
from sandbox.errors import SandboxLost
from sandbox.wire.dial import unix

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_NUM_READY = 4
_PART = 64 * 1024


class WayOut:
    """One pod's."""

    def __init__(self, door: Door, lend: Callable[[], Awaitable[Streams]]) -> None:
        """
        Args:
            lend: gives the pod a connection; returns when a program there has taken it.
        """
        self._door = door
        self._lend = lend
        self._work: set[asyncio.Task[None]] = set()
        for _ in range(_NUM_READY):
            self._start(self._offer())

    async def close(self) -> None:
        """End it and every connection through it."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._door.close()

    async def _offer(self) -> None:
        with suppress(SandboxLost):
            while True:
                self._start(self._pass_on(*await self._lend()))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            outer_reader, outer_writer = await unix(self._door.socket)()
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(reader, outer_writer))
                    both.create_task(_copy(outer_reader, writer))
            finally:
                outer_writer.close()
        except* OSError:  # one end is gone, and with it the other
            writer.transport.abort()
        finally:
            writer.close()

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(_PART):
        writer.write(part)
        await writer.drain()
    writer.write_eof()
