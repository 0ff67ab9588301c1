"""What does a local sandbox cost, beside the processes it is made of?

    python benchmarks/sandbox_local.py [--rounds 50]

Prints a table and writes build/bench/sandbox_local.json. Times are wall time as the service sees it; the row for a
plain shell says how fast the machine was meanwhile.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox.archive import pack
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.types import Backend, Command, Sandbox, SandboxSpec

OUT = Path("build/bench/sandbox_local.json")
FLOOD = 100_000_000
PARALLEL = 8
_ids = map(str, itertools.count())


async def main(rounds: int) -> None:
    backend = open_backend("local", SandboxSettings())
    warm = await backend.acquire(SandboxSpec())  # the first also starts the process that forks all others
    try:
        rows = {
            "bash -c true, no sandbox": await _repeat(rounds, _plain_shell),
            **await _lives(backend, rounds),
            "exec true": await _repeat(rounds, lambda: _exec(warm, "true")),
            "exec python -c pass": await _repeat(rounds // 5, lambda: _exec(warm, "python -I -S -c pass")),
            "write 10 kB": await _repeat(rounds, lambda: warm.write("/workspace/file", bytes(10_000))),
            "read 10 kB": await _repeat(rounds, lambda: warm.read("/workspace/file")),
            "upload 1,000 files": await _repeat(5, _uploader(warm)),
            "download 1,000 files": await _repeat(5, warm.download),
            "exec printing 100 MB": await _repeat(3, lambda: _exec(warm, f"head -c {FLOOD} /dev/zero")),
            "end of a deadline of 200 ms": await _repeat(5, lambda: _exec(warm, "sleep 9 & sleep 9", timeout_s=0.2)),
        }
        throughput = await _throughput(backend, rounds)
    finally:
        await backend.close()
    _report(rows, throughput, getattr(warm, "evidence", None))


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
    tree = Path("build/bench/sandbox_local_tree")
    for number in range(1000):
        place = tree / f"folder{number % 20}" / f"file{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("line\n" * 200)
    archive = pack(tree)
    return lambda: sandbox.upload(archive)


def _report(rows: dict[str, list[float]], per_s: float, evidence: object) -> None:
    table = Table("operation", "rounds", "p50 ms", "p95 ms", "max ms", title="Local sandbox")
    result: dict[str, object] = {}
    for name, seconds in rows.items():
        ordered = sorted(1000 * each for each in seconds)
        p50, p95 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        table.add_row(name, str(len(ordered)), f"{p50:.1f}", f"{p95:.1f}", f"{ordered[-1]:.1f}")
        result[name] = {"rounds": len(ordered), "p50_ms": p50, "p95_ms": p95, "max_ms": ordered[-1]}
    console = Console()
    console.print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}"
    console.print(f"create + exec + close, {PARALLEL} at once: {per_s:.0f} per second ({machine})")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    result |= {"lives_per_s": per_s, "machine": machine, "evidence": str(evidence)}
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often the quick operations are repeated")
    asyncio.run(main(parser.parse_args().rounds))
