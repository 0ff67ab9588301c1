"""How many simulated sandboxes do pool, registry and reaper carry, and what do they cost beside the machines?

    python -m benchmarks.sandbox_pool [--sandboxes 10000] [--creates-per-s 85] [--start-s 3]

Time is virtual: machines that make so many sandboxes a second, each of which takes so long to start, as published for a
cluster, and a reaper that sweeps every 30 s; only the processor time of our own code is real. Nothing here speaks of
real nodes. Prints a table and writes build/bench/sandbox_pool.json.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import WarmPool
from sandbox.reaper.reaper import Reaper
from sandbox.registry import RecordedBackend
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.testing.simulated import Conditions, SimulatedBackend, SimulatedHosts
from sandbox.testing.virtual_time import VirtualTimeLoop
from sandbox.types import SandboxSpec

OUT = Path("build/bench/sandbox_pool.json")
NUM_IMAGES = 500
LEASE_S = 60.0


async def main(count: int, creates_per_s: float, start_s: float) -> dict[str, float]:
    """Queue, claim all, kill the service, and reap."""
    conditions = Conditions(create_s=start_s, create_spread=0.3, creates_per_s=creates_per_s, lease_s=1e9, seed=1)
    hosts, registry = SimulatedHosts(conditions), MemoryRegistry()
    backend = SimulatedBackend(hosts)
    recorded = RecordedBackend(backend, registry, owner="service", lease_s=LEASE_S, now=_now)
    settings = PoolSettings(max_ready=count, max_per_key=count, ahead=count, max_creates_per_s=10 * creates_per_s)
    queue = [SandboxSpec(image=f"image-{number * NUM_IMAGES // count}") for number in range(count)]
    figures: dict[str, float] = {"sandboxes": count}
    before_mib, begun_cpu = _resident_mib(), time.process_time()
    async with WarmPool.open(recorded, settings) as pool:
        begun = _now()
        pool.expect(queue)
        while pool.num_ready < count:  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.5)
        figures |= {"all ready after, virtual s": _now() - begun, "making: our CPU s": time.process_time() - begun_cpu}
        figures["KiB of ours per sandbox, simulation included"] = 1024 * (_resident_mib() - before_mib) / count
        begun_cpu = time.process_time()
        await asyncio.gather(*(pool.acquire(spec) for spec in queue))
        figures["claiming: our CPU ms each"] = 1000 * (time.process_time() - begun_cpu) / count
        figures["claims that were warm, %"] = 100 * pool.counts.warm / count
        backend.vanish()
        figures |= await _reap(hosts, registry, _now())
    return figures


async def _reap(hosts: SimulatedHosts, registry: MemoryRegistry, killed: float) -> dict[str, float]:
    begun_cpu = time.process_time()
    reaper = Reaper(SimulatedBackend(hosts), registry, grace_s=LEASE_S, now=_now)
    sweeping = asyncio.create_task(reaper.run(every_s=30.0))
    while hosts.alive:  # noqa: ASYNC110  # nobody tells us
        await asyncio.sleep(1)
    sweeping.cancel()
    return {
        "none left after the kill, virtual s": _now() - killed,
        "reaping: our CPU s": time.process_time() - begun_cpu,
    }


def _now() -> float:
    return asyncio.get_running_loop().time()


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(figures: dict[str, float]) -> None:
    table = Table("what", "value", title="Pool and reaper over simulated machines")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}".removesuffix(".00"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    Console().print(table, machine)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(figures | {"machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandboxes", type=int, default=10_000)
    parser.add_argument("--creates-per-s", type=float, default=85.0, help="of the simulated machines")
    parser.add_argument("--start-s", type=float, default=3.0, help="median, of the simulated machines")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        _report(runner.run(main(arguments.sandboxes, arguments.creates_per_s, arguments.start_s)))
