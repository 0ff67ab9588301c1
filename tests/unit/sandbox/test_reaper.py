"""The reaper over simulated machines, whose services are killed."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.inventory import Found
from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import WarmPool
from sandbox.reaper.reaper import Reaper, condemned
from sandbox.registry import Record, RecordedBackend
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.testing.simulated import Conditions, SimulatedBackend, SimulatedHosts
from sandbox.types import SandboxSpec

pytestmark = pytest.mark.anyio

LEASE_S = 60.0
GRACE_S = 30.0
# The line under test: simulated sandboxes do not end by themselves here.
FOREVER = 1e9


def now() -> float:
    return asyncio.get_running_loop().time()


def reaper(hosts: SimulatedHosts, registry: MemoryRegistry) -> Reaper:
    return Reaper(SimulatedBackend(hosts), registry, grace_s=GRACE_S, now=now)


async def test_what_a_killed_service_had_is_gone_a_sweep_after_its_lease() -> None:
    hosts, registry = SimulatedHosts(Conditions(lease_s=FOREVER)), MemoryRegistry()
    backend = SimulatedBackend(hosts)
    recorded = RecordedBackend(backend, registry, owner="killed", lease_s=LEASE_S, now=now)  # which renews nothing
    await asyncio.gather(*(recorded.acquire(SandboxSpec()) for _ in range(100)))
    backend.vanish()
    sweeping = asyncio.create_task(reaper(hosts, registry).run(every_s=30))
    await asyncio.sleep(LEASE_S - 1)
    assert hosts.alive == 100
    await asyncio.sleep(2 + 30)
    assert hosts.alive == 0
    sweeping.cancel()


async def test_the_living_keep_theirs_and_what_waits_in_their_pool() -> None:
    hosts, registry = SimulatedHosts(Conditions(lease_s=FOREVER)), MemoryRegistry()
    backend = SimulatedBackend(hosts)
    async with (
        RecordedBackend.open(backend, registry, owner="living", lease_s=LEASE_S, now=now) as recorded,
        WarmPool.open(recorded, PoolSettings()) as pool,
    ):
        pool.expect([SandboxSpec(image="a")] * 5)
        await pool.acquire(SandboxSpec(image="b"))
        await asyncio.sleep(1)
        for _ in range(6):
            assert not (await reaper(hosts, registry).sweep()).condemned
            await asyncio.sleep(LEASE_S / 2)
        assert hosts.alive == 6
    assert (hosts.alive, await registry.all()) == (0, [])


async def test_a_removal_that_was_accepted_is_repeated_until_the_sandbox_is_really_gone() -> None:
    hosts, registry = SimulatedHosts(Conditions(lease_s=FOREVER, ignored_removals=0.7, seed=1)), MemoryRegistry()
    for _ in range(50):
        await hosts.create(SandboxSpec())
    await asyncio.sleep(GRACE_S + 1)
    sweeper = reaper(hosts, registry)
    first = await sweeper.sweep()
    assert (len(first.asked), first.refused, first.stuck) == (50, [], [])
    assert hosts.alive > 20
    stuck: set[str] = set()
    for _ in range(30):
        stuck.update((await sweeper.sweep()).stuck)
    assert hosts.alive == 0
    assert stuck, "somebody is told of those that take many requests"


class Slow:
    """Machines that agree to every end, and take their time."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def found(self) -> list[Found]:
        return [Found("a", created_at=0, ends_at=1, ending="a" in self.removed)]

    async def remove(self, id: str) -> None:  # noqa: A002  # the field's name
        self.removed.append(id)


async def test_an_end_that_was_promised_is_asked_for_again_only_when_it_is_late() -> None:
    slow = Slow()
    sweeper = Reaper(slow, MemoryRegistry(), grace_s=GRACE_S, now=lambda: 1000.0)
    for _ in range(4):
        assert list((await sweeper.sweep()).condemned) == ["a"]
    assert slow.removed == ["a"]
    assert (await sweeper.sweep()).stuck == ["a"]
    assert slow.removed == ["a", "a"]


async def test_a_sandbox_that_is_being_made_is_not_taken_for_lost() -> None:
    hosts, registry = SimulatedHosts(Conditions(create_s=20)), MemoryRegistry()
    making = asyncio.create_task(SimulatedBackend(hosts).acquire(SandboxSpec()))
    await asyncio.sleep(10)
    swept = await reaper(hosts, registry).sweep()
    assert (swept.num_found, swept.condemned) == (1, {})
    await making


async def test_a_sandbox_whose_closing_failed_is_nobodys() -> None:
    hosts, registry = SimulatedHosts(Conditions(lease_s=FOREVER, ignored_removals=1.0)), MemoryRegistry()
    backend = SimulatedBackend(hosts)
    async with RecordedBackend.open(backend, registry, owner="living", lease_s=LEASE_S, now=now) as recorded:
        await (await recorded.acquire(SandboxSpec())).close()
        assert hosts.alive == 1
        await asyncio.sleep(GRACE_S + 1)
        assert list((await reaper(hosts, registry).sweep()).condemned.values()) == ["it is on nobody's record"]


async def test_records_of_what_is_gone_are_forgotten() -> None:
    hosts, registry = SimulatedHosts(), MemoryRegistry()
    async with RecordedBackend.open(SimulatedBackend(hosts), registry, owner="o", lease_s=LEASE_S, now=now) as recorded:
        sandbox = await recorded.acquire(SandboxSpec())
        hosts.remove(sandbox.handle.id, 0)
        await reaper(hosts, registry).sweep()
        assert len(await registry.all()) == 1, "its owner may not know yet"
    await asyncio.sleep(LEASE_S + GRACE_S + 1)
    await reaper(hosts, registry).sweep()
    assert await registry.all() == []


ids = st.sampled_from("abcdef")
times = st.floats(0, 1000)
things = st.lists(st.builds(Found, id=ids, created_at=times, ends_at=times), unique_by=lambda found: found.id)
records = st.lists(
    st.builds(
        Record,
        id=ids,
        spec=st.just(SandboxSpec()),
        address=st.just("a"),
        boot_id=st.just("b"),
        key=st.just(b"k"),
        run=st.just("r"),
        tenant=st.just("t"),
        owner=st.sampled_from(["", "o"]),
        lease_until=times,
    ),
    unique_by=lambda record: record.id,
)


@given(things, records, times)
def test_only_what_nobody_cares_for_is_condemned_and_all_of_it(
    found: list[Found], known: list[Record], at: float
) -> None:
    by_id = {record.id: record for record in known}
    reasons = condemned(found, by_id, at, grace_s=GRACE_S)
    for each in found:
        cared_for = each.id in by_id and at <= by_id[each.id].lease_until
        young = each.id not in by_id and at <= each.created_at + GRACE_S
        within_its_life = at <= each.ends_at + GRACE_S
        assert (each.id not in reasons) == (within_its_life and (cared_for or young))
