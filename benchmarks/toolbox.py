"""What does the toolbox add to a call, alone and with a thousand callers, in this process and in a Ray actor?

    python -m benchmarks.toolbox [--callers 1000] [--rounds 1000] [--without-ray]

The machines are simulated and answer at once, so what is measured is ours: admission, turns, retries, and with Ray the
way to its actor and back. The row without a toolbox calls the same machines directly, in the same run. Prints a table
and writes build/bench/toolbox.json.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox.testing.simulated import SimulatedBackend, SimulatedHosts
from sandbox.toolbox.calls import Caller, Trace
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.toolbox import Alone, Executors, Toolbox
from sandbox.types import Backend, Command, Sandbox, SandboxSpec
from tests.integration.sandbox.workload import start_ray, stop_ray

OUT = Path("build/bench/toolbox.json")
SETTINGS = ToolboxSettings(max_sandboxes=20_000, max_per_tenant=20_000)
CALLS = 5
"""Of each caller at once."""
PACE_S = 5.0
"""From one call of a caller to its next, in the steady part; a model takes longer to write one."""
STEADY = 3
"""So many calls of each caller there."""
TENANTS = 10
PARTS = 5
Figures = dict[str, float]


@asynccontextmanager
async def executor(name: str) -> AsyncIterator[Executor]:
    backend = SimulatedBackend(SimulatedHosts())
    yield Executor(backend, SETTINGS)
    await backend.close()


async def main(callers: int, rounds: int, *, with_ray: bool) -> None:
    direct = SimulatedBackend(SimulatedHosts())
    figures = {"no toolbox": await _measure(lambda number: direct, callers, rounds)}
    async with executor("here") as here:
        figures["in process"] = await _through(Alone(here), callers, rounds)
    if with_ray:
        from sandbox.toolbox.ray import RayExecutors

        async with RayExecutors.open(executor, size=1) as executors:
            figures["Ray, one actor"] = await _through(executors, callers, rounds)
    _report(figures, callers)


async def _through(executors: Executors, callers: int, rounds: int) -> Figures:
    traces: list[Trace] = []
    toolbox = Toolbox(
        executors, SETTINGS, name="simulated", capabilities=SimulatedBackend.capabilities, on_trace=traces.append
    )

    def tools(number: int) -> Backend:
        return toolbox.of(Caller(f"run-{number}", f"job-{number % 100}", f"tenant-{number % TENANTS}"))

    figures = await _measure(tools, callers, rounds)
    waited = [trace.queue_s for trace in traces[-callers * STEADY :]]
    return figures | {"steady: waited over 50 ms, %": 100 * sum(each > 0.05 for each in waited) / len(waited)}


async def _measure(backend: Callable[[int], Backend], callers: int, rounds: int) -> Figures:
    tracemalloc.start()
    sandboxes = [await backend(number).acquire(SandboxSpec()) for number in range(callers)]
    memory = tracemalloc.get_traced_memory()[0] / 1024 / callers
    tracemalloc.stop()
    # The best of several parts: on a machine that does other things too, the others measure those.
    parts = [await _one_after_the_other(sandboxes[0], f"a-{part}", rounds // PARTS) for part in range(PARTS)]
    alone = min(parts, key=statistics.median)
    crowd_s = await _all_at_once(sandboxes)
    steady = await _steadily(sandboxes)
    await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))
    return {
        "alone: p50 ms": _at(alone, 0.5),
        "alone: p99 ms": _at(alone, 0.99),
        f"{callers} at once: ms a call": 1000 * crowd_s / (callers * CALLS),
        f"{callers} steadily: p50 ms": _at(steady, 0.5),
        f"{callers} steadily: p99 ms": _at(steady, 0.99),
        "KiB an idle sandbox, this process": memory,
    }


async def _one_after_the_other(sandbox: Sandbox, name: str, rounds: int) -> list[float]:
    return [await _timed(sandbox, f"{name}-{number}") for number in range(rounds)]


async def _all_at_once(sandboxes: Sequence[Sandbox]) -> float:
    async def work(sandbox: Sandbox) -> None:
        for number in range(CALLS):
            await sandbox.exec(Command("true", f"b-{number}", 60))

    begun = time.perf_counter()
    await asyncio.gather(*(work(sandbox) for sandbox in sandboxes))
    return time.perf_counter() - begun


async def _steadily(sandboxes: Sequence[Sandbox]) -> list[float]:
    async def work(place: int, sandbox: Sandbox) -> list[float]:
        await asyncio.sleep(PACE_S * place / len(sandboxes))
        took = []
        for number in range(STEADY):
            took.append(await _timed(sandbox, f"c-{number}"))
            await asyncio.sleep(max(0.0, PACE_S - took[-1] / 1000))
        return took

    parts = await asyncio.gather(*(work(place, sandbox) for place, sandbox in enumerate(sandboxes)))
    return [each for part in parts for each in part]


async def _timed(sandbox: Sandbox, name: str) -> float:
    """Milliseconds of a command that takes no time."""
    begun = time.perf_counter()
    await sandbox.exec(Command("true", name, 60))
    return 1000 * (time.perf_counter() - begun)


def _at(values: Sequence[float], part: float) -> float:
    return statistics.quantiles(values, n=100)[round(100 * part) - 1]


def _report(figures: dict[str, Figures], callers: int) -> None:
    names = list(figures["in process"])
    table = Table("what", *figures, title=f"The toolbox, with {callers} callers")
    for name in names:
        table.add_row(name, *(f"{each[name]:.3f}" if name in each else "" for each in figures.values()))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    Console().print(table, machine)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(figures | {"machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=1000, help="each with a sandbox of its own")
    parser.add_argument("--rounds", type=int, default=1000, help="calls of one caller alone")
    parser.add_argument("--without-ray", action="store_true", help="leave out the actor, which needs the extra 'ray'")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        if not arguments.without_ray:
            start_ray(Path(folder))
        asyncio.run(main(arguments.callers, arguments.rounds, with_ray=not arguments.without_ray))
        if not arguments.without_ray:
            stop_ray()
