"""A thousand clients that leave, by real sockets, at every stage of a request, cost nobody anything."""

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from tests.integration.model_server.scripted_service import MODEL, endless, service, until

pytestmark = pytest.mark.anyio

NUM_CLIENTS = 1000
AT_ONCE = 100
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60_000}
STAGES = (
    ("/v1/chat/completions", ASK, "while it sends"),
    ("/v1/chat/completions", ASK, "as soon as it has sent"),
    ("/v1/chat/completions", ASK | {"stream": True, "n": 2}, "within the answer"),
    ("/v1/messages", ASK | {"stream": True}, "within the answer"),
)


async def leave(port: int, number: int) -> None:
    """Every other client closes its connection, the others drop it."""
    path, fields, stage = STAGES[number % len(STAGES)]
    body = json.dumps(fields).encode()
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request[:-9] if stage == "while it sends" else request)
    await writer.drain()
    if stage == "within the answer":
        await reader.readuntil(b"data: ")
    if number // len(STAGES) % 2:
        writer.transport.abort()
    writer.close()


async def all_of(port: int, numbers: Iterable[int]) -> None:
    async with asyncio.TaskGroup() as clients:
        for number in numbers:
            clients.create_task(leave(port, number))


async def test_a_thousand_clients_that_leave_leave_an_idle_and_healthy_server(caplog: pytest.LogCaptureFixture) -> None:
    engine = endless(interval_s=0.02, max_running=2 * NUM_CLIENTS)
    async with service(engine) as (client, url):
        port = httpx.URL(url).port
        assert port is not None
        for start in range(0, NUM_CLIENTS, AT_ONCE):
            await all_of(port, range(start, start + AT_ONCE))
        await until(lambda: engine.stats().running == 0)
        answer = await client.chat.completions.create(**ASK | {"max_tokens": 3})
        assert answer.choices[0].finish_reason == "length"
        async with httpx.AsyncClient() as http:
            exported = (await http.get(f"{url}/metrics")).text
    gone = re.search(r'^sglang:num_requests_total\{.*outcome="client_gone"\} (\S+)$', exported, re.MULTILINE)
    assert gone is not None
    assert float(gone[1]) >= NUM_CLIENTS * 3 // 4
    assert engine.stats().running == 0
    assert len(engine.cancelled) == len(engine.requests) - 1 >= NUM_CLIENTS * 3 // 4
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
