"""What goes wrong around a store, and what is left of it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from agent.errors import LeaseLost, StoreUnavailable
from agent.identity import DEFAULT_PROJECT
from agent.inbox import Inbox
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.store.base import Claim, RunResult, Store, TaskRecord
from agent.store.open import open_store
from agent.types import Event, Status, TaskRequest
from tests.conformance.store.conftest import Clock
from tests.disk import small_disk
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")
COUNTED = "setup.completed"
"""A kind of event that workers know; with any other they leave a run to a newer release."""
NUM_COUNTED = 60


class Counting:
    """A runner that counts: it goes on with the number after the last one in the log."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self, claim: Claim, inbox: Inbox) -> TaskRecord:
        counted = sum(event.type == COUNTED for event in claim.events)
        for number in range(counted, NUM_COUNTED):
            await self._store.append(claim.run_id, claim.generation, COUNTED, {"number": number})
            await asyncio.sleep(0.01)
        return await self._store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))


async def test_run_goes_on_after_its_database_was_restarted(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    async with open_store(url) as store:
        task = await store.of(DEFAULT_PROJECT).submit(REQUEST)
        worker = Worker(store, cast(Runner, Counting(store)), worker_id="worker", lease_ttl_s=1.0)
        stopping = asyncio.Event()
        working = asyncio.ensure_future(worker.run(stopping))
        await _wait_for(store, task.id, lambda log: sum(event.type == COUNTED for event in log) >= NUM_COUNTED // 3)

        postgres.stop(at_once=True)
        await asyncio.sleep(0.2)
        postgres.start()

        log = await _wait_for(store, task.id, lambda log: log[-1].type == "task.finished")
        stopping.set()
        await working
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event.body["number"] for event in log if event.type == COUNTED] == list(range(NUM_COUNTED))


async def _wait_for(store: Store, task_id: str, seen: Callable[[Sequence[Event]], bool]) -> tuple[Event, ...]:
    async with asyncio.timeout(120):
        while True:
            try:
                log = await store.of(DEFAULT_PROJECT).events(task_id)
                if seen(log):
                    return log
                await store.of(DEFAULT_PROJECT).wait_for_events(task_id, after=log[-1].seq, timeout_s=1)
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def test_waiter_hears_of_events_again_after_a_restart(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    async with open_store(url) as reader, open_store(url) as writer:
        task = await writer.of(DEFAULT_PROJECT).submit(REQUEST)
        postgres.stop(at_once=True)
        postgres.start()

        waiting = asyncio.ensure_future(reader.of(DEFAULT_PROJECT).wait_for_events(task.id, after=1, timeout_s=60))
        await writer.of(DEFAULT_PROJECT).cancel(task.id)

        assert (await waiting)[0].type == "task.cancel_requested"


async def test_server_that_takes_no_writes_is_left_for_one_that_does(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    async with open_store(url) as store:
        task = await store.of(DEFAULT_PROJECT).submit(REQUEST)
        claim = await store.claim("worker", 60)
        assert claim is not None
        postgres.demote(url)

        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.append(claim.run_id, claim.generation, "note", {})
        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.renew(claim.run_id, claim.generation, 60)

        postgres.promote(url)
        # A connection from before would still refuse.
        event = await store.append(claim.run_id, claim.generation, "note", {})
        log = await store.of(DEFAULT_PROJECT).events(task.id)
    assert log[-1] == event
    assert [each.seq for each in log] == list(range(1, len(log) + 1))


@pytest.mark.parametrize("url", ["file", "postgres"], indirect=True)  # Memory has one process.
async def test_owner_that_lost_its_lease_in_mid_write_leaves_nothing_behind(url: str, clock: Clock) -> None:
    async with open_store(url, clock=clock) as old, open_store(url, clock=clock) as new:
        task = await old.of(DEFAULT_PROJECT).submit(REQUEST)
        first = await old.claim("old", 1)
        assert first is not None
        writing = [asyncio.ensure_future(_write_for_ever(old, first)) for _ in range(4)]
        await old.of(DEFAULT_PROJECT).wait_for_events(task.id, after=2, timeout_s=60)
        clock.advance(2)

        second = await new.claim("new", 60)
        outcomes = await asyncio.gather(*writing, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [LeaseLost] * 4
        assert second is not None
        log = await new.of(DEFAULT_PROJECT).events(task.id, limit=1_000_000)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    claims = [event.seq for event in log if event.type == "run.claimed"]
    assert all(event.generation == (2 if event.seq >= claims[1] else 1) for event in log[1:])


async def _write_for_ever(store: Store, claim: Claim, written: list[Event] | None = None) -> None:
    while True:
        event = await store.append(claim.run_id, claim.generation, "note", {"text": "x" * 20_000})
        if written is not None:
            written.append(event)


async def test_clock_that_jumps_ahead_ends_leases_and_spoils_nothing(store: Store, clock: Clock) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    first = await store.claim("old", 15)
    assert first is not None
    clock.advance(365 * 86_400)

    second = await store.claim("new", 15)

    assert second is not None
    with pytest.raises(LeaseLost):
        await store.append(first.run_id, first.generation, "note", {})
    await store.finish(second.run_id, second.generation, RunResult(status=Status.SUCCEEDED))
    # The year that was charged is not held against the project for ever.
    following = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    assert (await store.of(DEFAULT_PROJECT).queue_position(following.id)).position == 1
    assert (await store.of(DEFAULT_PROJECT).get(task.id)).status is Status.SUCCEEDED


async def test_clock_that_jumps_back_stops_nobody(store: Store, clock: Clock) -> None:
    tasks = store.of(DEFAULT_PROJECT)
    task = await tasks.submit(REQUEST)
    claim = await store.claim("worker", 15)
    assert claim is not None
    clock.advance(-86_400)

    await store.append(claim.run_id, claim.generation, "note", {})
    await store.renew(claim.run_id, claim.generation, 15)
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
    following = await tasks.submit(REQUEST)

    log = await tasks.events(task.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    again = await store.claim("worker", 15)
    assert again is not None
    assert again.task.id == following.id


async def test_clock_that_jumps_back_keeps_no_run_of_a_dead_worker_waiting(store: Store, clock: Clock) -> None:
    await store.of(DEFAULT_PROJECT).submit(REQUEST)
    first = await store.claim("old", 15)
    assert first is not None
    clock.advance(-60)
    # The lease might still be somebody's.
    assert await store.claim("new", 15) is None
    clock.advance(-86_400)

    second = await store.claim("new", 15)

    assert second is not None
    assert (second.run_id, second.generation) == (first.run_id, first.generation + 1)
    with pytest.raises(LeaseLost):
        await store.renew(first.run_id, first.generation, 15)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


async def test_full_disk_of_artifacts_refuses_them_leaves_no_half_and_passes(disk: Path) -> None:
    async with open_store("sqlite://", artifacts=f"file://{disk}/kept") as store:
        assert store.artifacts is not None
        await store.of(DEFAULT_PROJECT).submit(REQUEST)
        claim = await store.claim("worker", 600)
        assert claim is not None
        await store.artifacts.put(claim, "1/small.txt", b"kept")
        with pytest.raises(StoreUnavailable, match="No space left"):
            await store.artifacts.put(claim, "1/large.bin", bytes(3_000_000))

        names = [found.name for found in await store.artifacts.of_task(DEFAULT_PROJECT, claim.task.id)]
        assert names == ["1/small.txt"]
        assert sum(path.is_file() for path in (disk / "kept").rglob("*")) == 1
        await store.artifacts.put(claim, "1/large.bin", bytes(1_000_000))


async def test_full_disk_refuses_writes_keeps_what_was_written_and_passes(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    async with open_store(f"sqlite:///{disk / 'store.db'}") as store:
        task = await store.of(DEFAULT_PROJECT).submit(REQUEST)
        claim = await store.claim("worker", 600)
        assert claim is not None
        written: list[Event] = []
        with pytest.raises(StoreUnavailable, match="full"):
            await _write_for_ever(store, claim, written)

        assert (await store.of(DEFAULT_PROJECT).events(task.id))[2:] == tuple(written)
        ballast.unlink()
        after = await store.append(claim.run_id, 1, "note", {})
        assert after.seq == written[-1].seq + 1
        ended = await store.finish(claim.run_id, 1, RunResult(status=Status.SUCCEEDED))
        assert ended.status is Status.SUCCEEDED
