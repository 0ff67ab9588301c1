"""Clients that begin a request and do not end it, over real sockets."""

import asyncio
import logging
from pathlib import Path

import httpx
import httpx2
import pytest

from agent.api.app import create_app
from agent.api.server import Connection
from agent.store.base import Store

from .conftest import Serve

pytestmark = pytest.mark.anyio

PATIENCE_S = 120
HEAD = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Hasty(Connection):
    head_s = 1.0
    body_s = 1.0


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40


async def _said_until_hung_up(url: str, *said: bytes) -> bytes:
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    received = b""
    for part in said:
        if received == b"" and part is not said[0]:
            received = await reader.readuntil(b"\r\n\r\n")
        writer.write(part)
        await writer.drain()
    received += await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return received


@pytest.mark.parametrize(
    "said",
    [(b"",), (HEAD,), (HEAD + b"\r\n", HEAD), (POST,), (POST + b'{"repository":',)],
    ids=["nothing", "half a head", "half of a second head", "no body", "half a body"],
)
async def test_client_that_does_not_end_its_request_is_hung_up_on(
    said: tuple[bytes, ...], store: Store, serve: Serve
) -> None:
    async with serve(create_app(store, _resolve), connection=Hasty) as url:
        received = await _said_until_hung_up(url, *said)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            assert (await http.get(f"{url}/livez")).status_code == 200
    assert received.count(b"HTTP/1.1 ") == len(said) - 1


async def test_client_that_goes_in_the_middle_of_its_request_leaves_no_error(
    store: Store, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agent.api.gate")  # `mimo serve` says less in its own process
    async with serve(create_app(store, _resolve)) as url:
        address = httpx.URL(url)
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(POST + b"{")
        await writer.drain()
        writer.close()
        async with asyncio.timeout(PATIENCE_S):
            while "action=client_gone" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert "Traceback" not in caplog.text


async def test_client_that_ended_its_request_is_waited_for(store: Store, serve: Serve) -> None:
    """An editor's connection, and a keep-alive one, outlast both deadlines, whose end the hung up one shows."""
    async with (
        serve(create_app(store, _resolve, heartbeat_s=0.1), connection=Hasty) as url,
        httpx2.AsyncClient(trust_env=False) as http,
        http.websocket(f"{url.replace('http', 'ws', 1)}/acp") as editor,
    ):
        assert await _said_until_hung_up(url, POST) == b""
        await editor.send_text("{")
        assert "Parse error" in await asyncio.wait_for(editor.receive_text(), PATIENCE_S)
