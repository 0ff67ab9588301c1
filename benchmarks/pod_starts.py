"""How long until a pod serves, when it is made for whoever asks, and when one was held ready?

    python -m benchmarks.pod_starts [--rounds 40] [--at-once 4] [--cluster FOLDER]

From asking to the end of the first command, on real pods of the test cluster with the image present. Four ways: a pod
made then, one of the service's own warm pool, and both by a claim, which a stand-in for the agent-sandbox controller
answers (so these two speak of our side and of what a controller must do at least, not of that controller). Prints a
table and writes build/bench/pod_starts.json.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.cluster.cluster import Cluster, find, start
from sandbox.backends import open_backend
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.kubernetes import claim_manifest
from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import WarmPool
from sandbox.types import Backend, Command, Exited, Resources, SandboxSpec
from tests.conformance.sandbox import pods

OUT = Path("build/bench/pod_starts.json")
SPEC = SandboxSpec(resources=Resources(memory_mib=64, processes=64, disk_mib=16))
_ids = map(str, itertools.count())


def main(rounds: int, at_once: int, folder: Path | None) -> dict[str, list[float]]:
    with _cluster(folder) as cluster:
        with pods.namespace(cluster) as own:
            measured = asyncio.run(_own_pods(own, rounds, at_once))
        with pods.namespace(cluster, provider="claims", accept_open_network=True) as claimed:
            return measured | asyncio.run(_claims(cluster, claimed, rounds, at_once))


@contextmanager
def _cluster(folder: Path | None) -> Iterator[Cluster]:
    with ExitStack() as stack:
        if folder is None:
            kept = stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-cluster-"))
            cluster = start(Path(kept, "state"), "starts", with_us=True)
            stack.callback(cluster.stop)
            yield cluster
        else:
            found = find(folder)
            assert found is not None, f"no cluster runs in {folder}"
            yield found


async def _own_pods(settings: KubernetesSettings, rounds: int, at_once: int) -> dict[str, list[float]]:
    backend = open_backend("kubernetes", SandboxSettings(kubernetes=settings))
    await (await backend.acquire(SPEC)).close()
    cold = await _starts(backend, rounds, 1, _at_once)
    async with WarmPool.open(backend, PoolSettings(min_per_key=at_once, max_per_key=at_once)) as pool:

        async def ready() -> None:
            pool.expect([SPEC] * at_once)
            while pool.num_ready < at_once:  # noqa: ASYNC110  # nobody tells us
                await asyncio.sleep(0.2)

        warm = await _starts(pool, rounds, at_once, ready)
        assert pool.counts.cold == 0, pool.counts
    return {"pod, made then": cold, "pod, of the service's warm pool": warm}


async def _claims(cluster: Cluster, settings: KubernetesSettings, rounds: int, at_once: int) -> dict[str, list[float]]:
    backend = open_backend("kubernetes", SandboxSettings(kubernetes=settings))
    await (await backend.acquire(SPEC)).close()
    cold = await _starts(backend, rounds, 1, _at_once)
    await backend.close()
    held = settings.model_copy(update={"warm": at_once})
    backend = open_backend("kubernetes", SandboxSettings(kubernetes=held))
    await (await backend.acquire(SPEC)).close()
    name, _, _ = claim_manifest.kind(SPEC, held, at_once)
    wanted = f"--for=jsonpath={{.status.readyReplicas}}={at_once}"
    arguments = ("wait", f"sandboxwarmpool/{name}", f"--namespace={held.namespace}", wanted, "--timeout=120s")

    async def ready() -> None:
        await asyncio.to_thread(cluster.kubectl, *arguments)

    warm = await _starts(backend, rounds, at_once, ready)
    await backend.close()
    return {"claim, pod made then": cold, "claim, pod held ready": warm}


async def _at_once() -> None:
    """Nothing has to be ready."""


async def _starts(backend: Backend, rounds: int, at_once: int, ready: Callable[[], Awaitable[None]]) -> list[float]:
    """Seconds from asking to the end of the first command."""

    async def one() -> float:
        begun = time.perf_counter()
        sandbox = await backend.acquire(SPEC)
        outcome = await sandbox.exec(Command("true", next(_ids), 60.0))
        taken = time.perf_counter() - begun
        assert isinstance(outcome, Exited), outcome
        await sandbox.close()
        return taken

    taken: list[float] = []
    while len(taken) < rounds:
        await ready()
        taken += await asyncio.gather(*(one() for _ in range(at_once)))
    return taken


def _report(measured: dict[str, list[float]]) -> None:
    table = Table("what", "rounds", "p50 s", "p90 s", "p99 s", "max s", title="From asking to the first command's end")
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    }
    for name, taken in measured.items():
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        figures = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(taken)}
        table.add_row(name, str(len(taken)), *(f"{figure:.2f}" for figure in figures.values()))
        result[name] = {"rounds": len(taken), **figures}
    Console().print(table, result["machine"])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=4, help="claimed at the same time, of what is held ready")
    parser.add_argument("--cluster", metavar="FOLDER", type=Path, help="of one that runs")
    arguments = parser.parse_args()
    _report(main(arguments.rounds, arguments.at_once, arguments.cluster))
