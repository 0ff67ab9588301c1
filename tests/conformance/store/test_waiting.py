"""What users say to a task after it was submitted, and runs that wait for it."""

from datetime import timedelta
from typing import Any, Literal

import pytest

from agent.errors import LeaseLost, TaskOver
from agent.identity import DEFAULT_PROJECT
from agent.store.base import Claim, ProjectStore, RunResult, Store
from agent.types import Status, StopReason, TaskRequest, WaitingOn
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")

Parked = Literal[Status.PAUSED, Status.WAITING]


def users(store: Store) -> ProjectStore:
    return store.of(DEFAULT_PROJECT)


async def claimed(store: Store) -> Claim:
    claim = await store.claim("worker", 15)
    assert claim is not None
    return claim


async def parked(store: Store, waiting_on: WaitingOn | None, **fields: Any) -> Claim:
    """A run that its worker let go of."""
    claim = await claimed(store)
    status: Parked = Status.PAUSED if waiting_on is None else Status.WAITING
    await store.park(claim.run_id, claim.generation, status, waiting_on, {}, **fields)
    return claim


async def test_worker_reads_what_the_user_said_and_nothing_else(store: Store) -> None:
    task = await users(store).submit(REQUEST)
    claim = await claimed(store)
    assert await store.user_events(task.id) == ()
    said = await users(store).tell(task.id, "message.added", {"text": "also the tests"})
    await store.append(claim.run_id, claim.generation, "note", {})
    await users(store).cancel(task.id)

    events = await store.user_events(task.id)

    assert events[0] == said
    assert (said.run_id, said.generation, said.body) == (None, 0, {"text": "also the tests"})
    assert [event.type for event in events] == ["message.added", "task.cancel_requested"]
    assert await store.user_events(task.id, after=events[0].seq) == events[1:]
    assert await store.user_events(task.id, after=events[1].seq) == ()


async def test_task_that_is_over_hears_nothing(store: Store) -> None:
    task = await users(store).submit(REQUEST)
    await users(store).cancel(task.id)
    log = await users(store).events(task.id)

    with pytest.raises(TaskOver, match="cancelled"):
        await users(store).tell(task.id, "message.added", {})
    assert await users(store).events(task.id) == log


async def test_users_cannot_write_what_workers_write(store: Store) -> None:
    task = await users(store).submit(REQUEST)

    with pytest.raises(ValueError, match=r"verdict\.reached"):
        await users(store).tell(task.id, "verdict.reached", {})


@pytest.mark.parametrize(
    ("waiting_on", "word", "others"),
    [
        (None, "task.resumed", ("message.added", "approval.decided")),
        (WaitingOn.APPROVAL, "approval.decided", ("message.added", "task.resumed")),
        (WaitingOn.QUESTION, "message.added", ("task.resumed", "budget.granted")),
        (WaitingOn.BUDGET, "budget.granted", ("message.added", "task.resumed")),
    ],
)
async def test_run_waits_until_the_word_that_ends_its_wait(
    store: Store, clock: Clock, waiting_on: WaitingOn | None, word: str, others: tuple[str, ...]
) -> None:
    task = await users(store).submit(REQUEST)
    await parked(store, waiting_on)
    seen = await users(store).get(task.id)
    assert (seen.status, seen.waiting_on) == (Status.WAITING if waiting_on else Status.PAUSED, waiting_on)
    for other in others:
        await users(store).tell(task.id, other, {})
    clock.advance(3600)
    assert await store.claim("worker", 15) is None

    await users(store).tell(task.id, word, {})

    queued = await users(store).get(task.id)
    assert (queued.status, queued.waiting_on) == (Status.QUEUED, None)
    again = await claimed(store)
    assert again.generation == 2
    assert [event.type for event in again.events] == ["run.claimed", "run.parked", "run.requeued", "run.claimed"]


@pytest.mark.parametrize("waiting_on", [WaitingOn.QUOTA, WaitingOn.CAPACITY])
async def test_run_that_waits_for_the_service_is_tried_again_by_itself(
    store: Store, clock: Clock, waiting_on: WaitingOn
) -> None:
    await users(store).submit(REQUEST)
    for pause_s in (5, 10, 20, 40, 60, 60):
        await parked(store, waiting_on)
        clock.advance(pause_s - 1)
        assert await store.claim("worker", 15) is None
        clock.advance(2)

    assert (await claimed(store)).task.status is Status.PROVISIONING


async def test_run_that_waits_in_vain_again_and_again_expires(store: Store, clock: Clock) -> None:
    task = await users(store).submit(REQUEST)
    for _ in range(3):
        await parked(store, WaitingOn.CAPACITY)
        clock.advance(3600)
    await parked(store, WaitingOn.CAPACITY)

    await store.tidy(timedelta(hours=2))

    assert (await users(store).get(task.id)).status is Status.EXPIRED


async def test_word_that_came_before_the_wait_ends_it(store: Store) -> None:
    task = await users(store).submit(REQUEST)
    claim = await claimed(store)
    await store.append(claim.run_id, claim.generation, "approval.requested", {})
    await users(store).tell(task.id, "approval.decided", {})

    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.APPROVAL, {})

    assert (await users(store).get(task.id)).status is Status.QUEUED


async def test_word_that_the_worker_has_read_does_not_end_the_wait(store: Store) -> None:
    task = await users(store).submit(REQUEST)
    claim = await claimed(store)
    unread = await users(store).tell(task.id, "message.added", {"text": "stop and ask"})
    await store.append(claim.run_id, claim.generation, "note", {})

    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.QUESTION, {}, seen=unread.seq)

    assert (await users(store).get(task.id)).status is Status.WAITING


async def test_pause_that_was_taken_back_before_the_worker_paused_is_none(store: Store) -> None:
    task = await users(store).submit(REQUEST)
    claim = await claimed(store)
    for word in ("task.paused", "task.resumed"):
        await users(store).tell(task.id, word, {})
    await store.append(claim.run_id, claim.generation, "note", {})

    await store.park(claim.run_id, claim.generation, Status.PAUSED, None, {})

    assert (await users(store).get(task.id)).status is Status.QUEUED


@pytest.mark.parametrize("waiting_on", [None, WaitingOn.QUESTION, WaitingOn.CAPACITY])
async def test_run_that_is_cancelled_just_before_its_worker_lets_go_is_ended(
    store: Store, waiting_on: WaitingOn | None
) -> None:
    task = await users(store).submit(REQUEST)
    claim = await claimed(store)
    await users(store).cancel(task.id)

    status: Parked = Status.PAUSED if waiting_on is None else Status.WAITING
    await store.park(claim.run_id, claim.generation, status, waiting_on, {}, seen=0)

    again = await claimed(store)
    assert (again.run_id, again.task.cancel_requested) == (claim.run_id, True)


async def test_run_that_waits_for_the_service_is_tried_again_though_its_files_went_back(
    store: Store, clock: Clock
) -> None:
    task = await users(store).submit(REQUEST)
    await parked(store, WaitingOn.CAPACITY)

    await users(store).rewind(task.id, 0, "files")

    assert await store.claim("worker", 15) is None
    clock.advance(6)
    assert (await claimed(store)).task.id == task.id


async def test_worker_that_let_go_can_write_no_more(store: Store) -> None:
    await users(store).submit(REQUEST)
    claim = await parked(store, WaitingOn.QUESTION)

    for write in (
        store.append(claim.run_id, claim.generation, "note", {}),
        store.renew(claim.run_id, claim.generation, 15),
        store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED)),
    ):
        with pytest.raises(LeaseLost, match="let go"):
            await write


async def test_cancelled_run_that_waits_goes_to_a_worker_to_be_ended(store: Store) -> None:
    task = await users(store).submit(REQUEST)
    await parked(store, WaitingOn.APPROVAL)
    await users(store).submit(REQUEST)

    record = await users(store).cancel(task.id)

    assert not record.status.terminal
    claim = await claimed(store)
    assert (claim.task.id, claim.task.cancel_requested) == (task.id, True)
    result = RunResult(status=Status.CANCELLED, stop_reason=StopReason.CANCELLED, patch="as far as it came")
    assert (await store.finish(claim.run_id, claim.generation, result)).patch == "as far as it came"
