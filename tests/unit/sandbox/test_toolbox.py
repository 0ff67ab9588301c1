"""The toolbox over simulated machines: whose turn it is, what is asked again, and what never is."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import NotStarted, Overdue, SandboxLost, SandboxRejected
from sandbox.registry import RecordedBackend, Registry
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.testing.simulated import Conditions, SimulatedBackend, SimulatedHosts
from sandbox.toolbox.calls import Caller, ExecutorLost, Port, Trace
from sandbox.toolbox.config import RateLimit, ResourceClass, ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.fair_queue import FairQueue
from sandbox.toolbox.placement import choose
from sandbox.toolbox.toolbox import Alone, Executors, RunTools, Toolbox
from sandbox.types import Command, Exited, Resources, Sandbox, SandboxSpec, TimedOut

pytestmark = pytest.mark.anyio


def now() -> float:
    return asyncio.get_running_loop().time()


class Bench:
    """A toolbox in this process, and what can be seen of it."""

    def __init__(self, settings: ToolboxSettings | None = None, **conditions: object) -> None:
        self.hosts = SimulatedHosts(Conditions(**conditions))  # type: ignore[arg-type]
        self.traces: list[Trace] = []
        settings = settings or ToolboxSettings()
        backend = SimulatedBackend(self.hosts)
        self.executor = Executor(backend, settings)
        self.toolbox = Toolbox(
            Alone(self.executor),
            settings,
            name=backend.name,
            capabilities=backend.capabilities,
            on_trace=self.traces.append,
        )

    def of(self, run: str = "run", job: str = "job", tenant: str = "tenant", weight: float = 1.0) -> RunTools:
        return self.toolbox.of(Caller(run, job, tenant, weight))

    async def sandbox(self, **caller: Any) -> Sandbox:
        return await self.of(**caller).acquire(SandboxSpec())

    def ended(self, tool: str) -> list[str]:
        return [trace.ended for trace in self.traces if trace.tool == tool]


def command(name: str, line: str = "true", timeout_s: float = 60) -> Command:
    return Command(line, name, timeout_s)


async def test_a_sandbox_of_the_toolbox_is_a_sandbox_like_any_other() -> None:
    async with Bench().of() as tools:
        sandbox = await tools.acquire(SandboxSpec())
        await sandbox.write("/workspace/a", b"content")
        assert await sandbox.read("/workspace/a") == b"content"
        outcome = await sandbox.exec(command("1", "cat /workspace/a"))
        assert isinstance(outcome, Exited)
        assert (outcome.code, outcome.output) == (0, b"content")
        assert isinstance(await sandbox.exec(command("2", "sleep 9", timeout_s=3)), TimedOut)
        with pytest.raises(FileNotFoundError):
            await sandbox.read("/workspace/b")
        with pytest.raises(SandboxRejected):
            await sandbox.read("/workspace/a", 3)
        await sandbox.close()
        await sandbox.close()
        with pytest.raises(SandboxLost):
            await sandbox.read("/workspace/a")


async def test_a_run_that_ends_takes_its_own_sandboxes_and_no_others() -> None:
    bench = Bench()
    await bench.sandbox(run="other")
    async with bench.of(run="this") as tools:
        await tools.acquire(SandboxSpec())
        await tools.acquire(SandboxSpec())
        assert bench.hosts.alive == 3
    assert bench.hosts.alive == 1


# --- turns ---------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=2), st.integers(20, 60))
def test_jobs_that_wait_are_served_by_their_weights(weights: dict[str, int], num_served: int) -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(num_served):
        for job, weight in weights.items():
            queue.push(job, weight, job)
    served = Counter(queue.pop(lambda job: True) for _ in range(num_served))
    for one in weights:
        for other in weights:
            assert abs(served[one] / weights[one] - served[other] / weights[other]) <= 1 + 1 / weights[other]


@given(st.lists(st.sampled_from("abc")))
def test_a_job_is_served_in_its_own_order(jobs: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, job in enumerate(jobs):
        queue.push(job, {"a": 1.0, "b": 2.0, "c": 0.5}[job], (job, number))
    popped = [item for _ in jobs if (item := queue.pop(lambda item: True)) is not None]
    assert len(queue) == 0
    assert sorted(popped, key=lambda item: item[0]) == sorted((job, number) for number, job in enumerate(jobs))


async def test_a_job_with_a_thousand_calls_does_not_keep_another_waiting() -> None:
    bench = Bench(ToolboxSettings(short_slots=4, short_s=100), call_s=0.1)
    busy, quiet = await bench.sandbox(job="busy"), await bench.sandbox(job="quiet")
    crowd = [asyncio.create_task(busy.exec(command(f"busy-{number}"))) for number in range(1000)]
    await asyncio.sleep(0.35)
    begun = now()
    await quiet.exec(command("quiet"))
    assert now() - begun < 0.4
    await asyncio.gather(*crowd)


async def test_long_commands_do_not_keep_short_ones_waiting() -> None:
    bench = Bench(ToolboxSettings(short_slots=2, long_slots=2, short_s=2))
    sandbox = await bench.sandbox()
    long = [asyncio.create_task(sandbox.exec(command(f"long-{number}", "sleep 50"))) for number in range(20)]
    await asyncio.sleep(0)
    begun = now()
    await sandbox.exec(command("short"))
    assert now() - begun < 25, "two of them leave the lane every two seconds"
    begun = now()
    await sandbox.exec(command("another"))
    assert now() - begun < 1
    await asyncio.gather(*long)


async def test_what_says_that_it_is_long_waits_with_the_long_ones() -> None:
    bench = Bench(ToolboxSettings(short_slots=1, long_slots=1, long_from_s=100))
    sandbox = await bench.sandbox()
    tests = [asyncio.create_task(sandbox.exec(command(f"t{number}", "sleep 50", 100))) for number in range(3)]
    await asyncio.sleep(0)
    begun = now()
    await sandbox.exec(command("short"))
    assert now() == begun
    await asyncio.gather(*tests)
    assert now() - begun == pytest.approx(150)
    assert [trace.lane for trace in bench.traces if trace.name.startswith("t")] == ["long"] * 3


async def test_a_tenant_calls_a_tool_no_more_often_than_its_rate() -> None:
    bench = Bench(ToolboxSettings(rates={"exec": RateLimit(per_s=2, burst=4)}))
    mine, other = await bench.sandbox(tenant="mine"), await bench.sandbox(tenant="other")
    begun = now()
    await asyncio.gather(*(mine.exec(command(f"mine-{number}")) for number in range(24)))
    assert now() - begun == pytest.approx(10)
    begun = now()
    await other.exec(command("other"))
    await mine.write("/workspace/a", b"")
    assert now() == begun


async def test_a_call_whose_turn_comes_too_late_is_dropped_and_never_runs() -> None:
    bench = Bench(ToolboxSettings(short_slots=1, short_s=100, patience_s=5))
    sandbox = await bench.sandbox()
    first = asyncio.create_task(sandbox.exec(command("first", "sleep 20")))
    await asyncio.sleep(0)
    with pytest.raises(Overdue):
        await sandbox.exec(command("second"))
    assert now() < 20
    await first
    await sandbox.exec(command("third"))
    assert bench.hosts.runs == {"first": 1, "third": 1}


async def test_a_rate_that_makes_a_call_too_late_drops_it_at_once() -> None:
    bench = Bench(ToolboxSettings(rates={"exec": RateLimit(per_s=0.1)}, patience_s=5))
    sandbox = await bench.sandbox()
    await sandbox.exec(command("1"))
    begun = now()
    with pytest.raises(Overdue):
        await sandbox.exec(command("2"))
    assert now() == begun
    await asyncio.sleep(10)
    await sandbox.exec(command("3"))


async def test_who_gives_up_while_waiting_leaves_the_turn_to_others() -> None:
    bench = Bench(ToolboxSettings(short_slots=1, short_s=100))
    sandbox = await bench.sandbox()
    first = asyncio.create_task(sandbox.exec(command("first", "sleep 20")))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(sandbox.exec(command(f"waiting-{number}"))) for number in range(5)]
    await asyncio.sleep(1)
    for each in waiting[:4]:
        each.cancel()
    await asyncio.gather(first, waiting[4])
    assert bench.hosts.runs == {"first": 1, "waiting-4": 1}
    assert (await bench.executor.health()).num_running == 0


# --- quotas --------------------------------------------------------------------------------------------------------


async def test_a_tenant_over_its_quota_waits_for_its_own_and_nobody_else_does() -> None:
    bench = Bench(ToolboxSettings(max_per_tenant=2))
    first = await bench.sandbox(tenant="mine")
    await bench.sandbox(tenant="mine")
    third = asyncio.create_task(bench.of(tenant="mine").acquire(SandboxSpec()))
    await asyncio.sleep(1)
    assert not third.done()
    await bench.sandbox(tenant="other")
    await first.close()
    await third


async def test_a_sandbox_waits_for_room_as_long_as_it_takes() -> None:
    tools = Bench(ToolboxSettings(max_sandboxes=1, patience_s=1)).of()
    first = await tools.acquire(SandboxSpec())
    second = asyncio.create_task(tools.acquire(SandboxSpec()))
    await asyncio.sleep(200)
    assert not second.done()
    await first.close()
    await second


async def test_large_sandboxes_are_bounded_apart_and_too_large_ones_are_refused() -> None:
    small = ResourceClass(name="small", up_to=Resources(memory_mib=512), max_sandboxes=10)
    large = ResourceClass(name="large", up_to=Resources(memory_mib=4096), max_sandboxes=1)
    tools = Bench(ToolboxSettings(classes=(small, large), room_patience_s=1)).of()

    def spec(memory_mib: int) -> SandboxSpec:
        return SandboxSpec(resources=Resources(memory_mib=memory_mib))

    await tools.acquire(spec(2048))
    with pytest.raises(Overdue):
        await tools.acquire(spec(2048))
    await tools.acquire(spec(256))
    with pytest.raises(SandboxRejected):
        await tools.acquire(spec(8192))


# --- once, and again -----------------------------------------------------------------------------------------------


async def test_what_did_not_start_is_asked_again_and_runs_once() -> None:
    bench = Bench(not_started=0.4, seed=3)
    sandbox = await bench.sandbox()
    names = [f"c{number}" for number in range(40)]
    outcomes = await asyncio.gather(*(sandbox.exec(command(name)) for name in names), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {Exited, NotStarted}
    assert Counter(name.partition("~")[0] for name in bench.hosts.runs.elements()) == Counter(
        name for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, Exited)
    )
    assert max(trace.attempts for trace in bench.traces) > 1


async def test_what_began_is_never_asked_again() -> None:
    bench = Bench(lost=1.0)
    sandbox = await bench.sandbox()
    with pytest.raises(SandboxLost):
        await sandbox.exec(command("1"))
    assert bench.hosts.runs == {"1": 1}
    assert bench.ended("exec") == ["SandboxLost"]


async def test_a_slow_read_is_asked_twice_and_a_slow_write_is_not() -> None:
    bench = Bench(slow_calls=0.02, slow_call_s=30, call_s=0.001, seed=5)
    sandbox = await bench.sandbox()
    await sandbox.write("/workspace/a", b"content")
    begun = now()
    for _ in range(300):
        assert await sandbox.read("/workspace/a") == b"content"
    assert now() - begun < 5
    assert 0 < sum(trace.hedged for trace in bench.traces) < 20
    for number in range(300):
        await sandbox.write(f"/workspace/{number}", b"")
    assert now() - begun > 30
    assert not any(trace.hedged for trace in bench.traces if trace.tool != "read")


class Two(Executors):
    """Two executors on one set of machines, each of which may be ended as if killed."""

    def __init__(self, settings: ToolboxSettings, registry: Registry, hosts: SimulatedHosts) -> None:
        self._make: Callable[[str], tuple[Executor, SimulatedBackend]] = lambda name: _recorded(
            name, settings, registry, hosts
        )
        self._all = {name: self._make(name) for name in ("one", "two")}

    def place(self, run: str) -> str:
        return choose(run, self._all)

    def port(self, name: str) -> Port:
        if name not in self._all:
            raise ExecutorLost(name)
        return _Mortal(self._all[name][0], lambda: name in self._all)  # type: ignore[return-value]

    async def recover(self, name: str) -> None:
        await asyncio.sleep(1)

    def kill(self, name: str) -> None:
        self._all.pop(name)[1].vanish()


class _Mortal:
    """An executor elsewhere: where it is killed, those who wait for it are told."""

    def __init__(self, executor: Executor, lives: Callable[[], bool]) -> None:
        self._executor = executor
        self._lives = lives

    def __getattr__(self, name: str) -> object:
        async def ask(*arguments: object) -> object:
            asked = asyncio.ensure_future(getattr(self._executor, name)(*arguments))
            while not (await asyncio.wait({asked}, timeout=0.1))[0]:
                if not self._lives():
                    raise ExecutorLost(name)
            return asked.result()

        return ask


def _recorded(
    name: str, settings: ToolboxSettings, registry: Registry, hosts: SimulatedHosts
) -> tuple[Executor, SimulatedBackend]:
    backend = SimulatedBackend(hosts)
    recorded = RecordedBackend(backend, registry, owner=name, now=now)
    return Executor(recorded, settings, registry=registry), backend


async def test_a_command_goes_on_while_its_executor_is_killed_and_runs_once() -> None:
    hosts, registry, settings = SimulatedHosts(), MemoryRegistry(), ToolboxSettings()
    executors = Two(settings, registry, hosts)
    toolbox = Toolbox(executors, settings, name="simulated", capabilities=SimulatedBackend.capabilities)
    tools = toolbox.of(Caller("run", "job", "tenant"))
    sandbox = await tools.acquire(SandboxSpec())
    running = asyncio.create_task(sandbox.exec(command("once", "sleep 10")))
    await asyncio.sleep(5)
    executors.kill(executors.place("run"))
    outcome = await running
    assert isinstance(outcome, Exited)
    assert now() == pytest.approx(10, abs=0.5)
    assert hosts.runs == {"once": 1}
    await sandbox.write("/workspace/a", b"on the new executor")
    await tools.close()
    assert (hosts.alive, await registry.all()) == (0, [])


async def test_an_executor_that_drains_opens_nothing_more_and_ends_what_runs() -> None:
    bench = Bench()
    sandbox = await bench.sandbox()
    running = asyncio.create_task(sandbox.exec(command("1", "sleep 10")))
    await asyncio.sleep(1)
    draining = asyncio.create_task(bench.executor.drain())
    await asyncio.sleep(1)
    assert not draining.done()
    with pytest.raises(ExecutorLost):
        await bench.executor.open(Caller("r", "j", "t"), SandboxSpec())
    await draining
    assert running.done()


@given(st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=12), st.lists(st.text(), max_size=30))
def test_where_an_executor_goes_only_its_own_runs_move(executors: set[str], runs: list[str]) -> None:
    gone = min(executors)
    for run in runs:
        before = choose(run, executors)
        assert before == choose(run, sorted(executors, reverse=True))
        if before != gone:
            assert choose(run, executors - {gone}) == before


def test_runs_are_spread_over_all_executors() -> None:
    names = [f"executor-{number}" for number in range(8)]
    spread = Counter(choose(f"run-{number}", names) for number in range(4000))
    assert set(spread) == set(names)
    assert max(spread.values()) < 1.3 * min(spread.values())
