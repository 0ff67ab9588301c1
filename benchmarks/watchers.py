"""How soon has every one of many watchers of a task an event?

    python -m benchmarks.watchers --watchers 1000

The service is a process of its own, as in a cluster. This process writes events into the store, as a worker would, and
reads them back over as many connections: a delay is from the moment before an event is stored to the one after a
watcher has read it. A watcher that misses an event ends the measurement with an error.
"""

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from agent.identity import DEFAULT_PROJECT
from agent.store.base import RunResult, Store
from agent.store.open import open_store
from agent.types import Status, TaskRequest

_START_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how soon watchers of one task have its events.")
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.5, help="Between two events, s.")
    arguments = parser.parse_args()
    _raise_file_limit(arguments.watchers)
    delays = asyncio.run(_measure(arguments.watchers, arguments.events, arguments.pause))
    _print(sorted(delays), arguments.watchers)


def _raise_file_limit(num_watchers: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < num_watchers + 100:
        sys.exit(f"only {hard} files may be open here; ask for fewer watchers")


async def _measure(num_watchers: int, num_events: int, pause_s: float) -> list[float]:
    """Every watcher's delay of every event, s."""
    ready = asyncio.Barrier(num_watchers + 1)
    with tempfile.TemporaryDirectory() as folder:
        address = f"sqlite:///{folder}/store.db"
        async with (
            open_store(address) as store,
            _service(address, Path(folder), num_watchers) as port,
            asyncio.TaskGroup() as group,
        ):
            task = await store.of(DEFAULT_PROJECT).submit(
                TaskRequest(repository="/repo", problem_statement="be watched")
            )
            watching = [group.create_task(_watch(port, task.id, ready)) for _ in range(num_watchers)]
            await ready.wait()
            stored = await _write(store, num_events, pause_s)
    for seen in (watcher.result() for watcher in watching):
        assert seen.keys() >= stored.keys(), f"events were lost: {stored.keys() - seen.keys()}"
    return [watcher.result()[seq] - at for watcher in watching for seq, at in stored.items()]


@asynccontextmanager
async def _service(store: str, folder: Path, num_watchers: int) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "agent.api", "--store", store, "--port", str(port)]
    command += [f"--streams-per-{whose}={num_watchers}" for whose in ("caller", "project")]
    with (folder / "service.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - it only starts here
    try:
        await _wait_for(f"http://127.0.0.1:{port}/livez")
        yield port
    finally:
        service.terminate()
        service.wait()


async def _wait_for(url: str) -> None:
    async with asyncio.timeout(_START_S), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                (await http.get(url)).raise_for_status()
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return


async def _watch(port: int, task_id: str, ready: asyncio.Barrier) -> dict[int, float]:
    """When each event was read, by sequence number. Reads lines by itself: a client library would be measured too."""
    seen: dict[int, float] = {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = f"/v1/tasks/{task_id}/events"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
    waiting = None
    async for line in reader:
        if line.startswith(b"id: "):
            seen[int(line[4:])] = time.monotonic()
            waiting = waiting or asyncio.ensure_future(ready.wait())
        elif line == b"event: task.finished\n":
            break
    writer.close()
    return seen


async def _write(store: Store, num_events: int, pause_s: float) -> dict[int, float]:
    """When each event was about to be stored, by sequence number."""
    stored = {}
    claim = await store.claim("benchmark", 3600)
    assert claim is not None
    for number in range(num_events):
        await asyncio.sleep(pause_s)
        begun = time.monotonic()
        event = await store.append(claim.run_id, claim.generation, "note", {"number": number, "text": "x" * 2000})
        stored[event.seq] = begun
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
    return stored


def _print(delays: list[float], num_watchers: int) -> None:
    table = Table(title=f"{num_watchers:,} watchers, {len(delays):,} events read, none lost")
    for share in ("50 %", "90 %", "99 %", "100 %"):
        table.add_column(share, justify="right")
    shares = (0.5, 0.9, 0.99, 1.0)
    table.add_row(*(f"{delays[min(len(delays) - 1, int(share * len(delays)))] * 1000:.0f} ms" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
