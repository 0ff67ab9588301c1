"""How many sandboxes do backend, registry and reaper carry on a real control plane?

    python -m benchmarks.cluster_sandboxes [--sandboxes 1000 5000 10000] [--at-once 128] [--cluster FOLDER]

A service of its own process makes them all as pods, runs one command in each and holds them. Then it is killed, and a
reaper ends what it left, until the cluster lists none. API server, scheduler, controllers and etcd are real; nodes and
what runs there are not (KWOK, and one program in the place of every sandboxd): nothing here speaks of nodes, images or
commands. Without --cluster one is started for it. Prints a table and writes build/bench/cluster_sandboxes.json.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.cluster.cluster import Cluster, find, start
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.reaper.reaper import Reaper
from sandbox.registry import RecordedBackend, open_registry
from sandbox.types import Command, Exited, SandboxSpec
from tests.integration.kubernetes import fake_pods

OUT = Path("build/bench/cluster_sandboxes.json")
LEASE_S = 15.0
"""Of the service, in the registry: so long after its death the reaper believes it."""
HELD_S = 15.0
SWEEP_S = 15.0
LOOK_S = 3.0
SPEC = SandboxSpec(lifetime_s=7200.0)
Figures = dict[str, float]


def main(counts: list[int], at_once: int, folder: Path | None) -> list[Figures]:
    with _cluster(folder) as cluster:
        return [_measure(cluster, count, at_once) for count in counts]


@contextmanager
def _cluster(folder: Path | None) -> Iterator[Cluster]:
    if folder is not None:
        found = find(folder)
        assert found is not None, f"no cluster runs in {folder}"
        yield found
        return
    with ExitStack() as stack:
        kept = stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-cluster-"))
        cluster = start(Path(kept, "state"), "many", with_us=True)
        stack.callback(cluster.stop)
        yield cluster


def _measure(cluster: Cluster, count: int, at_once: int) -> Figures:
    with (
        fake_pods.namespace(cluster, count, start_timeout_s=300) as settings,
        tempfile.TemporaryDirectory() as folder,
    ):
        registry = f"sqlite:///{folder}/sandboxes.db"
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        service = context.Process(target=_serve, args=(settings, registry, count, at_once, theirs), daemon=True)
        service.start()
        theirs.close()
        figures: Figures = {"sandboxes": count, "load": os.getloadavg()[0]}
        try:
            figures |= ours.recv()
        finally:
            service.kill()
        return figures | asyncio.run(_reap(settings, registry, time.monotonic()))


def _serve(settings: KubernetesSettings, registry: str, count: int, at_once: int, tell: Connection) -> None:
    asyncio.run(_hold(settings, registry, count, at_once, tell))


async def _hold(settings: KubernetesSettings, url: str, count: int, at_once: int, tell: Connection) -> None:
    """Make them, say what that took, and wait to be killed."""
    backend = KubernetesBackend(SandboxSettings(kubernetes=settings))
    async with (
        open_registry(url) as registry,
        RecordedBackend.open(backend, registry, owner="service", lease_s=LEASE_S) as recorded,
    ):
        idle_mib, begun, begun_cpu = _resident_mib(), time.monotonic(), time.process_time()
        taken = await _make(recorded, count, at_once)
        figures = {
            "all made and answering, s": time.monotonic() - begun,
            "one of them, p50 s": statistics.median(taken),
            "one of them, max s": max(taken),
            "making: our CPU s": time.process_time() - begun_cpu,
            "KiB of ours per sandbox": 1024 * (_resident_mib() - idle_mib) / count,
        }
        begun_cpu = time.process_time()
        await asyncio.sleep(HELD_S)
        figures["holding: our CPU, % of one core"] = 100 * (time.process_time() - begun_cpu) / HELD_S
        figures["listed then"] = len(await recorded.found())
        tell.send(figures)
        await asyncio.Event().wait()


async def _make(backend: RecordedBackend, count: int, at_once: int) -> list[float]:
    """Seconds that each took, its first command included."""
    turn = asyncio.Semaphore(at_once)

    async def make() -> float:
        async with turn:
            begun = time.monotonic()
            sandbox = await backend.acquire(SPEC)
            outcome = await sandbox.exec(Command("true", "first", 60.0))
            assert isinstance(outcome, Exited), outcome
            return time.monotonic() - begun

    return await asyncio.gather(*(make() for _ in range(count)))


async def _reap(settings: KubernetesSettings, url: str, killed: float) -> Figures:
    """Have a reaper sweep until the cluster lists none."""
    backend = KubernetesBackend(SandboxSettings(kubernetes=settings))
    begun_cpu = time.process_time()
    async with open_registry(url) as registry:
        sweeping = asyncio.create_task(Reaper(backend, registry, grace_s=LEASE_S).run(every_s=SWEEP_S))
        while await backend.found():  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(LOOK_S)
        sweeping.cancel()
        await asyncio.wait({sweeping})
    await backend.close()
    return {
        "all ended, from the kill, s": time.monotonic() - killed,
        "reaping: our CPU s": time.process_time() - begun_cpu,
    }


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(measured: list[Figures]) -> None:
    table = Table("what", *("" for _ in measured), title="Sandboxes on a real control plane with fake nodes")
    for name in measured[0]:
        table.add_row(name, *(f"{figures[name]:,.2f}".removesuffix(".00") for figures in measured))
    machine = f"{platform.machine()}, {os.cpu_count()} threads"
    Console().print(table, machine)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"measured": measured, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandboxes", type=int, nargs="+", default=[1000, 5000, 10_000])
    parser.add_argument("--at-once", type=int, default=128, help="so many are being made at any time")
    parser.add_argument("--cluster", metavar="FOLDER", type=Path, help="of one that runs")
    arguments = parser.parse_args()
    _report(main(arguments.sandboxes, arguments.at_once, arguments.cluster))
