"""A way between browser and service that a test can cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum


class Weather(StrEnum):
    FINE = "fine"
    CUT = "cut"
    """Connections are refused by ending them."""
    BAD_GATEWAY = "bad gateway"
    """Every request is answered with 502, as by a proxy whose service restarts."""


class Proxy:
    """Passes bytes on while the weather is fine."""

    def __init__(self, target: str) -> None:
        self._port = int(target.rpartition(":")[2])
        self._open: set[asyncio.StreamWriter] = set()
        self._weather = Weather.FINE
        self.turned_away = asyncio.Event()
        """Somebody came in bad weather."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._cut()

    def turn(self, weather: Weather) -> None:
        """From now on it is like this; what is under way is cut."""
        self._weather = weather
        self._cut()

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather is not Weather.FINE:
            self.turned_away.set()
            if self._weather is Weather.BAD_GATEWAY:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pair = {writer, inner_writer}
        self._open |= pair
        try:
            await asyncio.gather(_pass(reader, inner_writer), _pass(inner_reader, writer))
        finally:
            self._open -= pair


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # Cut; that is what this is for.
    finally:
        writer.close()
