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
from dataclasses import dataclass
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
        service = context.Process(
            target=_serve, args=(settings, registry, cluster.pid, count, at_once, theirs), daemon=True
        )
        service.start()
        theirs.close()
        figures: Figures = {"sandboxes": count, "load": os.getloadavg()[0]}
        try:
            figures |= ours.recv()
        finally:
            service.kill()
        return figures | asyncio.run(_reap(settings, registry, cluster.pid))


def _serve(
    settings: KubernetesSettings, registry: str, cluster: int, count: int, at_once: int, tell: Connection
) -> None:
    asyncio.run(_hold(settings, registry, cluster, count, at_once, tell))


async def _hold(
    settings: KubernetesSettings, url: str, cluster: int, count: int, at_once: int, tell: Connection
) -> None:
    """Make them, say what that took, and wait to be killed."""
    backend = KubernetesBackend(SandboxSettings(kubernetes=settings))
    async with (
        open_registry(url) as registry,
        RecordedBackend.open(backend, registry, owner="service", lease_s=LEASE_S) as recorded,
    ):
        idle_mib, begun = _resident_mib(), Spent.until_now(cluster)
        taken = await _make(recorded, count, at_once)
        figures = {
            **Spent.until_now(cluster).since(begun, "made and answering"),
            "one of them, p50 s": statistics.median(taken),
            "one of them, max s": max(taken),
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


async def _reap(settings: KubernetesSettings, url: str, cluster: int) -> Figures:
    """Have a reaper sweep until the cluster lists none."""
    backend = KubernetesBackend(SandboxSettings(kubernetes=settings))
    killed = Spent.until_now(cluster)
    async with open_registry(url) as registry:
        sweeping = asyncio.create_task(Reaper(backend, registry, grace_s=LEASE_S).run(every_s=SWEEP_S))
        while await backend.found():  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(LOOK_S)
        sweeping.cancel()
        await asyncio.wait({sweeping})
    await backend.close()
    return Spent.until_now(cluster).since(killed, "ended, from the kill")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds: of time, and of processors."""

    time_s: float
    ours_s: float
    """Of this process."""
    cluster_s: float
    """Of the cluster's programs, the doubles of nodes among them."""
    machine_s: float
    """Of everything on the machine."""

    @classmethod
    def until_now(cls, cluster: int) -> "Spent":
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        programs = Path(f"/proc/{cluster}/task/{cluster}/children").read_text().split()
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in programs)
        cluster_s = tick_s * sum(int(each[11]) + int(each[12]) for each in fields)
        user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
        machine_s = tick_s * (user + nice + system + sum(interrupts))
        return cls(time.monotonic(), time.process_time(), cluster_s, machine_s)

    def since(self, before: "Spent", what: str) -> Figures:
        ours, cluster = self.ours_s - before.ours_s, self.cluster_s - before.cluster_s
        return {
            f"all {what}, s": self.time_s - before.time_s,
            f"{what}: our CPU s": ours,
            f"{what}: the control plane's CPU s": cluster,
            f"{what}: others' CPU s": self.machine_s - before.machine_s - ours - cluster,
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
