import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from agent.api.server import Connection, server_settings
from agent.store.base import Store
from agent.store.open import open_store

Serve = Callable[..., AbstractAsyncContextManager[str]]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
def serve() -> Serve:
    """Serves an application over real HTTP; yields its address. A port of 0 is a free one."""

    @asynccontextmanager
    async def serving(app: FastAPI, port: int = 0, connection: type[Connection] = Connection) -> AsyncIterator[str]:
        listener = socket.create_server(("127.0.0.1", port))
        server = _Server(server_settings(app, stop_s=0, connection=connection))
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            listener.close()

    return serving


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/mimo.db") as opened:
        yield opened
