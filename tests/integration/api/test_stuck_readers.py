"""Readers that take nothing: what they cost the service, a process of its own, and whether others notice."""

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import httpx_sse
import pytest

from agent.identity import DEFAULT_PROJECT
from agent.store.base import RunResult
from agent.store.open import open_store
from agent.types import Status, StopReason, TaskRequest

pytestmark = pytest.mark.anyio

PATIENCE_S = 180
NUM_STUCK = 30
NUM_EVENTS = 80
EVENT_CHARS = 200_000
MOST_BYTES_EACH = 8 * 1024 * 1024
"""All events are 16 MB, and in memory more than twice as much; what one reader is told at once is a part of them."""

MOST_BYTES_KEPT = 24 * 1024 * 1024
"""The last 256 events, as many as are kept of a log with small ones, are 51 MB."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Service:
    port: int
    pid: int

    def peak_bytes(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


@asynccontextmanager
async def _service(store_url: str, *, files: int | None = None) -> AsyncIterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "agent.api", "--store", store_url, "--port", str(port)]
    limit = [] if files is None else ["prlimit", f"--nofile={files}:4096"]
    process = await anyio.open_process([*limit, *command], stdout=None, stderr=None)
    try:
        async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    (await http.get(f"http://127.0.0.1:{port}/livez")).raise_for_status()
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield Service(port, process.pid)
    finally:
        process.kill()
        await process.wait()


async def _read(address: str, path: str) -> int:
    """The number of events in a stream, to its end."""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http,
        httpx_sse.aconnect_sse(http, "GET", f"{address}{path}", headers={"Accept": "text/event-stream"}) as source,
    ):
        return len([event async for event in source.aiter_sse() if event.data])


async def _stick(service: Service, path: str) -> socket.socket:
    """A reader that has its answer's head and takes nothing more."""
    reading = socket.socket()
    reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reading.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(reading, ("127.0.0.1", service.port))
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
    await loop.sock_sendall(reading, head.encode())
    assert (await loop.sock_recv(reading, 12)) == b"HTTP/1.1 200"
    return reading


@pytest.mark.parametrize("path", ["/v1/tasks/{}/events", "/tasks/{}/live"], ids=["events", "page"])
async def test_readers_that_take_nothing_cost_little_and_hold_nobody_up(path: str, tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/mimo.db"
    async with open_store(store_url) as store:
        mine = store.of(DEFAULT_PROJECT)
        task = await mine.submit(TaskRequest(repository="/repo", problem_statement="add() subtracts"))
        claim = await store.claim("worker", 3600)
        assert claim is not None
        for number in range(NUM_EVENTS):
            body = {"text": f"{number} {'x' * EVENT_CHARS}"}
            await store.append(claim.run_id, claim.generation, "note", body)
        path = path.format(task.id)
        async with _service(store_url) as service:
            address = f"http://127.0.0.1:{service.port}"
            reading = asyncio.ensure_future(_read(address, f"/v1/tasks/{task.id}/events"))
            with ExitStack() as stuck:
                stuck.enter_context(await _stick(service, path))
                alone = service.peak_bytes()
                for _ in range(NUM_STUCK):
                    stuck.enter_context(await _stick(service, path))
                result = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED)
                await store.finish(claim.run_id, claim.generation, result)
                num_read = await asyncio.wait_for(reading, PATIENCE_S)
                peak = service.peak_bytes()
        assert num_read == len(await mine.events(task.id))
    assert (peak - alone) / NUM_STUCK < MOST_BYTES_EACH


async def test_log_of_large_events_costs_its_watchers_service_no_more_the_longer_it_is(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/mimo.db"
    async with open_store(store_url) as store:
        task = await store.of(DEFAULT_PROJECT).submit(TaskRequest(repository="/repo", problem_statement="subtracts"))
        claim = await store.claim("worker", 3600)
        assert claim is not None
        peaks: list[int] = []
        async with _service(store_url) as service, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            address = f"http://127.0.0.1:{service.port}/v1/tasks/{task.id}/events"
            async with httpx_sse.aconnect_sse(http, "GET", address, headers={"Accept": "text/event-stream"}) as source:
                told = source.aiter_sse()
                last = 2
                for _ in range(32):
                    entries = [("note", {"text": "x" * EVENT_CHARS})] * 10
                    while (event := await anext(told)).id != str(last):
                        assert event.event != "stream.dropped"
                    last = (await store.extend(claim.run_id, claim.generation, entries))[-1].seq
                    peaks.append(service.peak_bytes())
    assert peaks[-1] - peaks[3] < MOST_BYTES_KEPT


async def test_more_readers_have_room_than_a_shell_allows_files(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/mimo.db"
    async with open_store(store_url) as store:
        task = await store.of(DEFAULT_PROJECT).submit(
            TaskRequest(repository="/repo", problem_statement="add() subtracts")
        )
    async with _service(store_url, files=64) as service:
        with ExitStack() as reading:
            for _ in range(100):
                reading.enter_context(await _stick(service, f"/v1/tasks/{task.id}/events"))
