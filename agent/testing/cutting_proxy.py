"""Stands before a server's socket: what passes can be watched, held up and cut off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress


class Watch:
    """Sees one connection; this one does nothing. What it waits for holds the data up."""

    async def asked(self, data: bytes) -> None:
        """Before the server has it."""

    async def answered(self, data: bytes) -> None:
        """Before the client has it."""

    async def delivered(self, data: bytes) -> None:
        """Now that the client was sent it."""


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class CuttingProxy:
    """Passes on what comes, piece by piece. Use :meth:`running`."""

    def __init__(self, connect: Connect, watch: Callable[[], Watch] = Watch, *, piece_bytes: int = 65_536) -> None:
        """
        Args:
            connect: leads to the server.
            watch: makes what sees the next connection.
            piece_bytes: most that is passed on at once.
        """
        self._connect = connect
        self._watch = watch
        self._piece_bytes = piece_bytes
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Serve on a free port of loopback, which this yields."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.cut()
            if self._serving:
                await asyncio.wait(self._serving)

    def cut(self) -> None:
        """End every connection. What a watch still holds up is lost."""
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except OSError:  # The server is away: so are we.
            writer.transport.abort()
            return
        watch = self._watch()
        self._writers |= {writer, server_writer}
        try:
            await asyncio.gather(
                self._pump(reader, server_writer, watch.asked, Watch().delivered),
                self._pump(server_reader, writer, watch.answered, watch.delivered),
            )
        finally:
            self._writers -= {writer, server_writer}

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        before: Callable[[bytes], Awaitable[None]],
        after: Callable[[bytes], Awaitable[None]],
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(self._piece_bytes):
                await before(data)
                if writer.is_closing():  # It was cut meanwhile.
                    break
                writer.write(data)
                await writer.drain()
                await after(data)
        writer.close()
