"""Whose turn it is at the files of a sandbox."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FileTurns:
    """Changes one after the other; reads beside each other, never beside a change. First come, first served."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._num_reading = 0
        self._nobody_reads = asyncio.Event()
        self._nobody_reads.set()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        async with self._door:
            self._num_reading += 1
            self._nobody_reads.clear()
        try:
            yield
        finally:
            self._num_reading -= 1
            if self._num_reading == 0:
                self._nobody_reads.set()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        async with self._door:  # who comes later, reader or not, waits behind it
            await self._nobody_reads.wait()
            yield
