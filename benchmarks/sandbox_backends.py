"""What does a sandbox cost, by backend, beside the processes it is made of?

    python -m benchmarks.sandbox_backends [--rounds 50] [--backends local local-bubblewrap docker kubernetes]

Prints a table and writes build/bench/sandbox_backends.json. Times are wall time as the service sees it; the row for a
plain shell says how fast the machine was meanwhile. For Docker, a daemon of its own is started, and for Kubernetes a
cluster of its own, on this machine, with its images present; where that is not possible, the backend is left out and
the reason said. Before them, how much memory sandboxd has at the end of 1,000 commands, without a sandbox around it.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy import bubblewrap
from deploy.cluster.cluster import missing, start
from sandbox import program
from sandbox.archive import pack
from sandbox.backends import NAMES, open_backend
from sandbox.config import DockerSettings, LocalSettings, SandboxSettings
from sandbox.types import Backend, Command, Sandbox, SandboxSpec
from sandbox.wire.client import Client
from sandbox.wire.dial import unix
from tests.conformance.sandbox import dockerd, pods

OUT = Path("build/bench/sandbox_backends.json")
FLOOD = 100_000_000
PARALLEL = 8
MISSING: dict[str, Callable[[], str]] = {
    "local": str,
    "local-bubblewrap": bubblewrap.missing,
    "docker": dockerd.missing,
    "kubernetes": missing,
}
_ids = map(str, itertools.count())
Rows = dict[str, list[float]]


async def main(names: list[str], rounds: int) -> None:
    print("sandboxd after 1,000 commands: {:.1f} MiB resident, {:.1f} MiB at most".format(*await _memory()))
    measured: dict[str, tuple[Rows, float]] = {}
    for name in names:
        if reason := MISSING[name]():
            print(f"{name} is left out: {reason}")
            continue
        with _settings(name) as settings:
            measured[name] = await _measure(open_backend(name.partition("-")[0], settings), rounds)
    _report(measured)


async def _memory() -> list[float]:
    """What sandboxd has at the end, and had at most, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "socket")
        serve = (program.sandboxd(None), "serve", "--unix", socket, "--spill", folder)
        process = await asyncio.create_subprocess_exec(*serve)
        client = await Client.claim(unix(socket), lease_s=60, lifetime_s=600)
        for number in range(1000):
            request = {"op": "exec", "line": "true", "cwd": "/", "env": {}, "request_id": str(number)}
            await client.run(request, b"", 60, 1000)
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
        await client.end()
        await client.wait_closed()
        await process.wait()
    return [int(status.partition(name)[2].split()[0]) / 1024 for name in ("VmRSS:", "VmHWM:")]


@contextmanager
def _settings(name: str) -> Iterator[SandboxSettings]:
    with ExitStack() as stack:
        match name:
            case "docker":
                address = stack.enter_context(dockerd.running())
                yield SandboxSettings(docker=DockerSettings(address=address))
            case "kubernetes":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-cluster-"))
                cluster = start(Path(folder, "state"), "bench", with_us=True)
                stack.callback(cluster.stop)
                yield SandboxSettings(kubernetes=stack.enter_context(pods.namespace(cluster)))
            case "local-bubblewrap":
                made = LocalSettings(maker="bubblewrap", bubblewrap=bubblewrap.built())
                yield SandboxSettings(local=made)
            case _:
                yield SandboxSettings()


async def _measure(backend: Backend, rounds: int) -> tuple[Rows, float]:
    warm = await backend.acquire(SandboxSpec())  # the first also makes what all others share
    lives = rounds if backend.name == "local" else max(5, rounds // 5)
    try:
        rows = {
            "bash -c true, no sandbox": await _repeat(rounds, _plain_shell),
            **await _lives(backend, lives),
            "exec true": await _repeat(5 * rounds, lambda: _exec(warm, "true")),
            "exec python -c pass": await _repeat(rounds // 5, lambda: _exec(warm, "python -I -S -c pass")),
            "write 10 kB": await _repeat(rounds, lambda: warm.write("/workspace/file", bytes(10_000))),
            "read 10 kB": await _repeat(rounds, lambda: warm.read("/workspace/file")),
            "upload 1,000 files": await _repeat(5, _uploader(warm)),
            "download 1,000 files": await _repeat(5, warm.download),
            "exec printing 100 MB": await _repeat(3, lambda: _exec(warm, f"head -c {FLOOD} /dev/zero")),
            "end of a deadline of 200 ms": await _repeat(5, lambda: _exec(warm, "sleep 9 & sleep 9", timeout_s=0.2)),
        }
        return rows, await _throughput(backend, lives)
    finally:
        await backend.close()


async def _lives(backend: Backend, rounds: int) -> dict[str, list[float]]:
    """Create, first command and close of one sandbox after the other."""
    create, first, close = [], [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        sandbox = await backend.acquire(SandboxSpec())
        made = time.perf_counter()
        await _exec(sandbox, "true")
        used = time.perf_counter()
        await sandbox.close()
        create.append(made - begun)
        first.append(used - begun)
        close.append(time.perf_counter() - used)
    return {"create": create, "create + first exec": first, "close": close}


async def _throughput(backend: Backend, rounds: int) -> float:
    """Lives of a sandbox per second, several at once."""

    async def live() -> None:
        sandbox = await backend.acquire(SandboxSpec())
        await _exec(sandbox, "true")
        await sandbox.close()

    begun = time.perf_counter()
    for _ in range(max(1, rounds // PARALLEL)):
        await asyncio.gather(*(live() for _ in range(PARALLEL)))
    return max(1, rounds // PARALLEL) * PARALLEL / (time.perf_counter() - begun)


async def _repeat(times: int, call: Callable[[], Awaitable[object]]) -> list[float]:
    taken = []
    for _ in range(max(1, times)):
        begun = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begun)
    return taken


async def _exec(sandbox: Sandbox, line: str, timeout_s: float = 60.0) -> None:
    await sandbox.exec(Command(line, next(_ids), timeout_s, output_limit_bytes=2 * FLOOD))


async def _plain_shell() -> None:
    subprocess.run(["bash", "-c", "true"], check=True)  # noqa: ASYNC221  # nothing else runs meanwhile


def _uploader(sandbox: Sandbox) -> Callable[[], Awaitable[object]]:
    tree = Path("build/bench/sandbox_tree")
    for number in range(1000):
        place = tree / f"folder{number % 20}" / f"file{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("line\n" * 200)
    archive = pack(tree)
    return lambda: sandbox.upload(archive)


def _report(measured: dict[str, tuple[Rows, float]]) -> None:
    result: dict[str, object] = {}
    table = Table("backend", "operation", "rounds", "p50 ms", "p95 ms", "p99 ms", "max ms", title="Sandboxes")
    for backend, (rows, per_s) in measured.items():
        result[backend] = {name: _figures(seconds) for name, seconds in rows.items()} | {"lives_per_s": per_s}
        for name, seconds in rows.items():
            figures = _figures(seconds)
            table.add_row(backend, name, *(f"{value:.1f}" if value % 1 else str(value) for value in figures.values()))
        table.add_row(backend, f"lives, {PARALLEL} at once, per second", "", f"{per_s:.1f}", end_section=True)
    console = Console()
    console.print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}"
    console.print(machine)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result | {"machine": machine}, indent=2) + "\n")


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * each for each in seconds)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return {
        "rounds": len(ordered),
        "p50_ms": statistics.median(ordered),
        "p95_ms": at(0.95),
        "p99_ms": at(0.99),
        "max_ms": ordered[-1],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often the quick operations are repeated")
    parser.add_argument("--backends", nargs="+", choices=MISSING, default=list(NAMES), help="which to measure")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.backends, arguments.rounds))
