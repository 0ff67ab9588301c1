"""A worker whose sandboxes are tried before it takes runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.orchestrator.metrics import WorkerMetrics
from agent.orchestrator.trial import TrialWatch
from sandbox.errors import NoRoom, SandboxError, SandboxUnavailable
from sandbox.pool.config import PoolSettings
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.testing.simulated import Conditions, SimulatedBackend, SimulatedHosts
from sandbox.toolbox.calls import Caller
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import open_toolbox
from sandbox.types import SandboxSpec

pytestmark = pytest.mark.anyio

OPEN = SandboxUnavailable("from inside a sandbox, this cluster lets tcp:10.0.0.1:443 be reached")
FULL = NoRoom("the namespace is full")


class Tried(SimulatedBackend):
    """One whose trials end as they are told, the last way for ever."""

    needs_trial = True

    def __init__(self, *ends: SandboxError | None) -> None:
        super().__init__(SimulatedHosts())
        self._ends = list(ends)

    async def prove(self) -> None:
        end = self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]
        if end is not None:
            raise end


@asynccontextmanager
async def watched(backend: SimulatedBackend) -> AsyncIterator[TrialWatch]:
    async with open_toolbox(backend, ToolboxSettings(), PoolSettings(), MemoryRegistry()) as toolbox:
        watch = TrialWatch(toolbox, every_s=0.01, retry_s=0.01)
        running = asyncio.ensure_future(watch.run())
        yield watch
        running.cancel()
        await asyncio.wait({running})


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("ends", "may_claim", "problem"),
    [([None], True, None), ([OPEN], False, "be reached"), ([FULL], True, "is full"), ([None, FULL], True, None)],
)
async def test_runs_are_taken_unless_a_trial_showed_that_sandboxes_are_open(
    ends: Sequence[SandboxError | None], may_claim: bool, problem: str | None
) -> None:
    backend = Tried(*ends)
    async with watched(backend) as watch:
        assert not watch.may_claim
        assert watch.problem
        await until(lambda: watch.may_claim is may_claim and _says(watch, problem))


async def test_a_worker_is_ready_as_soon_as_a_trial_shows_that_sandboxes_are_held() -> None:
    async with watched(Tried(OPEN, FULL, None)) as watch:
        await until(lambda: watch.problem is None)
        assert watch.may_claim


async def test_where_nothing_has_to_be_tried_runs_are_taken_at_once() -> None:
    async with watched(SimulatedBackend(SimulatedHosts())) as watch:
        assert watch.may_claim
        assert watch.problem is None


async def test_sandboxes_are_counted_by_how_their_start_ended_and_by_who_looks_after_them() -> None:
    metrics = WorkerMetrics()
    backend = SimulatedBackend(SimulatedHosts(Conditions(unknown_images=frozenset({"none"}))))
    opening = open_toolbox(backend, ToolboxSettings(), PoolSettings(), MemoryRegistry(), metrics.traced)
    async with opening as toolbox, toolbox.of(Caller("run", "job", "tenant")) as tools:
        metrics.watch(toolbox.keepers)
        await tools.acquire(SandboxSpec())
        with pytest.raises(SandboxError):
            await tools.acquire(SandboxSpec(image="none"))
        text = metrics.text(taking_runs=True, sandboxes_held=False).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["mimo_sandbox_start_seconds_count", "ok"] == 1
    assert samples["mimo_sandbox_start_seconds_count", "image"] == 1
    assert samples["mimo_sandbox_start_seconds_count", "no_room"] == 0
    assert samples["mimo_worker_sandboxes_held",] == 0
    assert samples["mimo_pool_given_total", "cold"] == 2
    assert samples["mimo_pool_breaker_open",] == 0
    assert ("mimo_reaper_condemned_total",) in samples
    assert samples["mimo_reaper_swept_timestamp_seconds",] > 0


def _says(watch: TrialWatch, problem: str | None) -> bool:
    return watch.problem is None if problem is None else problem in (watch.problem or "")
