"""The warm pool over simulated machines."""

import asyncio

import pytest

from sandbox.errors import SandboxLost, UnknownImage
from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import WarmPool
from sandbox.testing.simulated import Conditions, SimulatedBackend, SimulatedHosts
from sandbox.types import Command, NetworkMode, SandboxSpec

pytestmark = pytest.mark.anyio

START_S = 3.0


def simulated(**conditions: object) -> tuple[SimulatedHosts, SimulatedBackend]:
    hosts = SimulatedHosts(Conditions(**{"create_s": START_S, **conditions}))  # type: ignore[arg-type]
    return hosts, SimulatedBackend(hosts)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_the_queue_names_is_ready_when_it_is_asked_for() -> None:
    _, backend = simulated()
    queue = [SandboxSpec(image=name) for name in "aab"]
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect(queue)
        await asyncio.sleep(2 * START_S)
        begun = now()
        for spec in queue:
            await pool.acquire(spec)
        assert now() == begun
        assert (pool.counts.warm, pool.counts.cold) == (3, 0)


async def test_a_miss_is_made_at_once_and_counted() -> None:
    _, backend = simulated()
    async with WarmPool.open(backend, PoolSettings()) as pool:
        begun = now()
        await pool.acquire(SandboxSpec(image="unexpected"))
        assert now() - begun == pytest.approx(START_S)
        assert (pool.counts.warm, pool.counts.cold) == (0, 1)


async def test_without_a_proxy_it_does_not_matter_whose_sandbox_it_is() -> None:
    _, backend = simulated()
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect([SandboxSpec(run_id="one")])
        await asyncio.sleep(2 * START_S)
        await pool.acquire(SandboxSpec(run_id="another"))
        assert (pool.counts.warm, pool.counts.cold) == (1, 0)


async def test_a_sandbox_with_the_proxy_of_one_run_is_made_when_it_is_asked_for_and_counted() -> None:
    hosts, backend = simulated()
    spec = SandboxSpec(network=NetworkMode.PROXY, allow_hosts=("packages.example.org",), run_id="one")
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect([spec])
        await asyncio.sleep(2 * START_S)
        assert hosts.alive == 0
        await pool.acquire(spec)
        assert (pool.counts.warm, pool.counts.cold) == (0, 1)


async def test_a_sandbox_whose_claim_is_given_up_in_the_middle_is_ended() -> None:
    hosts, backend = simulated(call_s=1.0)
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect([SandboxSpec()])
        await asyncio.sleep(2 * START_S)
        claim = asyncio.create_task(pool.acquire(SandboxSpec()))
        await asyncio.sleep(0.5)
        claim.cancel()
        await asyncio.sleep(5)
        assert hosts.alive == 0


async def test_a_used_sandbox_is_ended_and_never_given_out_again() -> None:
    hosts, backend = simulated()
    spec = SandboxSpec(image="a")
    async with WarmPool.open(backend, PoolSettings()) as pool:
        seen = set()
        for _ in range(5):
            pool.expect([spec])
            await asyncio.sleep(2 * START_S)
            sandbox = await pool.acquire(spec)
            await sandbox.write("/workspace/left", b"by the one before")
            seen.add(sandbox.boot_id)
            await sandbox.close()
        assert len(seen) == 5
    assert hosts.alive == 0


async def test_a_sandbox_that_died_while_it_waited_is_not_given_out() -> None:
    hosts, backend = simulated()
    spec = SandboxSpec(image="a")
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect([spec])
        await asyncio.sleep(2 * START_S)
        [waiting] = hosts.found()
        hosts.remove(waiting.id, 0)
        sandbox = await pool.acquire(spec)
        await sandbox.exec(Command("true", "a", 5))
        assert (pool.counts.dead, pool.counts.cold) == (1, 1)


async def test_a_pooled_sandbox_lives_no_longer_than_was_asked_for() -> None:
    _, backend = simulated()
    spec = SandboxSpec(image="a", lifetime_s=100)
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect([spec])
        await asyncio.sleep(2 * START_S)
        sandbox = await pool.acquire(spec)
        assert pool.counts.warm == 1
        await asyncio.sleep(99)
        await sandbox.exec(Command("true", "a", 5))
        await asyncio.sleep(2)
        with pytest.raises(SandboxLost):
            await sandbox.exec(Command("true", "b", 5))


async def test_a_sandbox_that_must_live_longer_than_the_pools_is_made_for_itself() -> None:
    _, backend = simulated()
    settings = PoolSettings(longest_lifetime_s=50)
    spec = SandboxSpec(image="a", lifetime_s=100)
    async with WarmPool.open(backend, settings) as pool:
        pool.expect([spec])
        await asyncio.sleep(2 * START_S)
        await pool.acquire(spec)
        assert pool.counts.cold == 1


async def test_sandboxes_that_nobody_wants_end_with_their_age() -> None:
    hosts, backend = simulated()
    async with WarmPool.open(backend, PoolSettings(max_age_s=60)) as pool:
        pool.expect([SandboxSpec(image="a")])
        await asyncio.sleep(2 * START_S)
        pool.expect([])
        assert hosts.alive == 1
        await asyncio.sleep(70)
        assert (hosts.alive, pool.counts.expired) == (0, 1)


async def test_room_is_made_for_what_is_needed_sooner() -> None:
    hosts, backend = simulated()
    a, b = SandboxSpec(image="a"), SandboxSpec(image="b")
    async with WarmPool.open(backend, PoolSettings(max_ready=2)) as pool:
        pool.expect([a, a])
        await asyncio.sleep(2 * START_S)
        pool.expect([b, b, a])
        await asyncio.sleep(2 * START_S)
        assert sorted(host.spec.image for host in hosts.found()) == ["b", "b"]
        assert pool.counts.evicted == 2


async def test_a_missing_image_is_not_asked_for_again_and_again_and_does_not_stop_the_others() -> None:
    hosts, backend = simulated(unknown_images=frozenset({"missing"}))
    queue = [SandboxSpec(image="missing"), SandboxSpec(image="a")]
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect(queue)
        await asyncio.sleep(50)
        assert (hosts.alive, pool.counts.failed) == (1, 1)
        with pytest.raises(UnknownImage):
            await pool.acquire(queue[0])


async def test_sandboxes_made_though_their_making_failed_open_the_breaker() -> None:
    hosts, backend = simulated(orphaned_creates=1.0, lease_s=10_000)
    async with WarmPool.open(backend, PoolSettings(failures=10_000, census_s=1)) as pool:
        pool.expect([SandboxSpec(image="a")] * 100)
        await asyncio.sleep(200)
        assert pool.counts.broken > 0
        assert hosts.peak == 8 * 1.5


async def test_no_more_are_made_a_second_than_the_budget_allows() -> None:
    hosts, backend = simulated()
    settings = PoolSettings(max_ready=1000, max_per_key=1000, ahead=1000, creates_per_s=10, max_creates_per_s=10)
    async with WarmPool.open(backend, settings) as pool:
        pool.expect([SandboxSpec(image="a")] * 1000)
        await asyncio.sleep(20)
        assert hosts.num_created <= 10 + 20 * 10
        assert hosts.num_created > 150


async def test_the_pool_leaves_nothing_behind() -> None:
    hosts, backend = simulated()
    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect([SandboxSpec(image="a")] * 8)
        await pool.acquire(SandboxSpec(image="b"))
        await asyncio.sleep(START_S / 2)  # in the midst of making
    assert hosts.alive == 0
