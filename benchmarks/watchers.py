"""How soon has every one of many watchers of a task an event?

    python -m benchmarks.watchers --watchers 1000 [--stuck 200]

The service is a process of its own, as in a cluster. This process writes events into the store, as a worker would, and
reads them back over as many connections: a delay is from the moment before an event is stored to the one after a
watcher has read it. A watcher that misses an event ends the measurement with an error. Beside them there may be some
that take nothing after the beginning of their answer; what the service's memory grew by is shared among all.
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
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from agent.identity import DEFAULT_PROJECT
from agent.open_files import allow_most_files
from agent.store.base import RunResult, Store
from agent.store.open import open_store
from agent.types import Status, TaskRequest

_START_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how soon watchers of one task have its events.")
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.5, help="Between two events, s.")
    parser.add_argument("--event-bytes", type=int, default=2000)
    parser.add_argument("--stuck", type=int, default=0, help="So many beside them take nothing.")
    load = Load(**vars(parser.parse_args()))
    _raise_file_limit(load.num_connections)
    delays, grown_bytes = asyncio.run(_measure(load))
    _print(sorted(delays), grown_bytes, load)


@dataclass(frozen=True, slots=True)
class Load:
    watchers: int
    events: int
    pause: float
    event_bytes: int
    stuck: int

    @property
    def num_connections(self) -> int:
        return self.watchers + self.stuck


def _raise_file_limit(num_watchers: int) -> None:
    most = allow_most_files()
    if most < num_watchers + 100:
        sys.exit(f"only {most} files may be open here; ask for fewer watchers")


async def _measure(load: Load) -> tuple[list[float], int]:
    """Every watcher's delay of every event, s; what the service's memory grew by since it had no watcher."""
    ready = asyncio.Barrier(load.watchers + 1)
    with tempfile.TemporaryDirectory() as folder:
        address = f"sqlite:///{folder}/store.db"
        async with (
            open_store(address) as store,
            _service(address, Path(folder), load.num_connections) as (port, pid),
            asyncio.TaskGroup() as group,
        ):
            task = await store.of(DEFAULT_PROJECT).submit(
                TaskRequest(repository="/repo", problem_statement="be watched")
            )
            before = resident_bytes(pid)
            stuck = [await _open(port, task.id, limit=4096) for _ in range(load.stuck)]
            watching = [group.create_task(_watch(port, task.id, ready)) for _ in range(load.watchers)]
            await ready.wait()
            stored = await _write(store, load)
            await asyncio.wait(watching)
            grown_bytes = resident_bytes(pid) - before
            for _, writer in stuck:
                writer.close()
    for seen in (watcher.result() for watcher in watching):
        assert seen.keys() >= stored.keys(), f"events were lost: {stored.keys() - seen.keys()}"
    return [watcher.result()[seq] - at for watcher in watching for seq, at in stored.items()], grown_bytes


@asynccontextmanager
async def _service(store: str, folder: Path, num_connections: int) -> AsyncIterator[tuple[int, int]]:
    """Its port and the id of its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "agent.api", "--store", store, "--port", str(port)]
    command += [f"--streams-per-{whose}={num_connections}" for whose in ("caller", "project")]
    with (folder / "service.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - it only starts here
    try:
        await _wait_for(f"http://127.0.0.1:{port}/livez")
        yield port, service.pid
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
    reader, writer = await _open(port, task_id)
    waiting = None
    async for line in reader:
        if line.startswith(b"id: "):
            seen[int(line[4:])] = time.monotonic()
            waiting = waiting or asyncio.ensure_future(ready.wait())
        elif line == b"event: task.finished\n":
            break
    writer.close()
    return seen


async def _open(port: int, task_id: str, limit: int = 2**16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """
    Args:
        limit: bytes that are taken without being read, about.
    """
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limit)
    reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
    path = f"/v1/tasks/{task_id}/events"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
    return reader, writer


def resident_bytes(pid: int) -> int:
    """What a process has in memory, bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _write(store: Store, load: Load) -> dict[int, float]:
    """When each event was about to be stored, by sequence number."""
    stored = {}
    claim = await store.claim("benchmark", 3600)
    assert claim is not None
    for number in range(load.events):
        await asyncio.sleep(load.pause)
        begun = time.monotonic()
        event = await store.append(
            claim.run_id, claim.generation, "note", {"number": number, "text": "x" * load.event_bytes}
        )
        stored[event.seq] = begun
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
    return stored


def _print(delays: list[float], grown_bytes: int, load: Load) -> None:
    beside = f" beside {load.stuck:,} that take nothing" if load.stuck else ""
    table = Table(title=f"{load.watchers:,} watchers{beside}, {len(delays):,} events read, none lost")
    for share in ("50 %", "90 %", "99 %", "100 %"):
        table.add_column(share, justify="right")
    shares = (0.5, 0.9, 0.99, 1.0)
    table.add_row(*(f"{delays[min(len(delays) - 1, int(share * len(delays)))] * 1000:.0f} ms" for share in shares))
    Console().print(table)
    Console().print(f"The service's memory grew by {grown_bytes / load.num_connections / 1024:.0f} KiB a connection.")


if __name__ == "__main__":
    main()
