"""Workers: owning runs, losing them, giving them back, and surviving bugs."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from sqlalchemy import select, text, update

from agent.model import Completion, Delta, StreamGuard
from agent.orchestrator.worker import MAX_FRUITLESS_CLAIMS, Worker
from agent.store.base import Claim, TaskRecord
from agent.store.journal import write_event
from agent.store.rows import read_run
from agent.store.sql import SqlStore
from agent.store.tables import tasks
from agent.testing import ScriptedModel, turns
from agent.types import Message, ModelOptions, Status, TaskRequest, WaitingOn
from tests.integration.orchestrator.conftest import PATCH, REPAIR, Clock, users
from tests.integration.orchestrator.processes import over, seen

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
MakeWorker = Callable[..., Worker]


class HeldModel(ScriptedModel):
    """Follows a script, but from the given answer on only once ``go`` is set; ``asked`` says that it is waited for."""

    def __init__(self, *, held_from: int) -> None:
        super().__init__(turns(*REPAIR))
        self._held_from = held_from
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        if sum(message["role"] == "assistant" for message in messages) >= self._held_from:
            self.asked.set()
            await self.go.wait()
        return await super().complete(messages, tools, options, on_delta, watch)


class BuggyModel(ScriptedModel):
    """Raises what nobody expects, once."""

    def __init__(self) -> None:
        super().__init__(turns(*REPAIR))
        self._fixed = False

    async def complete(self, *args: Any, **kwargs: Any) -> Completion:
        if not self._fixed:
            self._fixed = True
            raise KeyError("nobody thought of this")
        return await super().complete(*args, **kwargs)


async def events(store: SqlStore, task: TaskRecord) -> list[tuple[str, int]]:
    log = await users(store).events(task.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    return [(event.type, event.generation) for event in log]


async def test_bug_in_one_run_fails_that_run_and_the_worker_goes_on(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (
        await users(store).submit(make_request()),
        await users(store).submit(make_request()),
    )

    with caplog.at_level(logging.ERROR):
        await make_worker(model=BuggyModel()).drain()

    failed = await users(store).get(first.id)
    assert (failed.status, failed.stop_reason) == (Status.FAILED, None)
    assert failed.error == "internal error: KeyError: 'nobody thought of this'"
    assert "Traceback" in caplog.text
    assert first.id in caplog.text
    assert (await users(store).get(second.id)).status is Status.SUCCEEDED


async def test_a_run_of_which_nothing_can_be_stored_any_more_ends_no_other_of_the_worker(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, sound = (
        await users(store).submit(make_request()),
        await users(store).submit(make_request()),
    )

    class DamagingModel(ScriptedModel):
        """Meanwhile somebody writes into the database."""

        async def complete(self, *args: Any, **kwargs: Any) -> Completion:
            async with store.database.writing() as transaction:
                change = update(tasks).where(tasks.c.task_id == damaged.id).values(request={})
                await transaction.db.execute(change)
            return await super().complete(*args, **kwargs)

    with caplog.at_level(logging.ERROR):
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(make_worker(model=DamagingModel(turns(*REPAIR))).run(stopping))
            ended = await over(store, sound)
            stopping.set()

    assert ended.status is Status.SUCCEEDED
    assert f"action=abandon task={damaged.id}" in caplog.text


async def test_stopping_worker_gives_its_run_back_and_another_finishes_it(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    model, stopping = HeldModel(held_from=2), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(make_worker(model=model).run(stopping))
        await model.asked.wait()
        stopping.set()
    assert (await users(store).get(task.id)).status is Status.RUNNING
    await make_worker(*REPAIR, worker_id="worker-2").drain()

    ended = await users(store).get(task.id)
    assert ended.status is Status.SUCCEEDED
    assert ended.patch == PATCH
    log = await events(store, task)
    assert ("run.released", 1) in log
    assert [kind for kind, _ in log].count("tool.intent") == 3


async def test_idle_worker_stops_when_asked(store: SqlStore, make_worker: MakeWorker) -> None:
    stopping = asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(make_worker(concurrency=3).run(stopping))
        await anyio.wait_all_tasks_blocked()
        stopping.set()


async def test_worker_that_lost_its_lease_stops_writing_and_takes_the_next_task(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    lost = await users(store).submit(make_request())
    model, stopping = HeldModel(held_from=2), asyncio.Event()
    worker = make_worker(model=model, lease_ttl_s=0.6)

    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(stopping))
        await model.asked.wait()
        claim = await _take_over(store, clock)
        following = await users(store).submit(
            make_request()
        )  # Only now: the other worker must find nothing else to claim.
        model.go.set()
        while not (await users(store).get(following.id)).status.terminal:
            await users(store).wait_for_events(
                following.id, after=(await users(store).get(following.id)).last_seq, timeout_s=1
            )
        stopping.set()

    assert claim.task.id == lost.id
    assert (await users(store).get(following.id)).status is Status.SUCCEEDED
    log = await events(store, lost)
    taken_over = log.index(("run.claimed", 2))
    assert [generation for _, generation in log[taken_over:]] == [2]


async def test_worker_that_was_too_slow_to_keep_its_run_goes_on_with_it(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    task = await users(store).submit(make_request())
    model, stopping = HeldModel(held_from=2), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(make_worker(model=model, concurrency=2, lease_ttl_s=600).run(stopping))
        await model.asked.wait()
        clock.advance(700)
        await seen(store, task, lambda event: event.type == "run.claimed" and event.generation == 2)
        model.go.set()
        ended = await over(store, task)
        following = await over(store, await users(store).submit(make_request()))
        stopping.set()

    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    assert following.status is Status.SUCCEEDED
    log = await events(store, task)
    assert {generation for _, generation in log[log.index(("run.claimed", 2)) : -1]} == {2}


async def _take_over(store: SqlStore, clock: Clock) -> Claim:
    """Another worker claims the run, whose lease has just ended; its owner may renew it in between."""
    while True:
        clock.advance(10)
        if (claim := await store.claim("worker-2", 3600)) is not None:
            return claim


async def test_run_that_changes_hands_between_live_workers_ends_once(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    task = await users(store).submit(make_request())
    models = HeldModel(held_from=1), HeldModel(held_from=2)
    workers = [
        make_worker(model=model, worker_id=f"worker-{number}", lease_ttl_s=60) for number, model in enumerate(models)
    ]

    async with asyncio.TaskGroup() as group:
        group.create_task(workers[0].drain())
        await models[0].asked.wait()
        clock.advance(120)
        group.create_task(workers[1].drain())
        await models[1].asked.wait()
        models[0].go.set()  # The old owner goes on, and everything it writes is refused.
        models[1].go.set()

    ended = await users(store).get(task.id)
    assert ended.status is Status.SUCCEEDED
    assert ended.patch == PATCH
    kinds = [kind for kind, _ in await events(store, task)]
    assert (kinds.count("run.finished"), kinds.count("tool.completed")) == (1, 3)


async def test_cancel_reaches_a_worker_that_waits_for_the_model(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    model = HeldModel(held_from=2)

    async with asyncio.TaskGroup() as group:
        group.create_task(make_worker(model=model).drain())
        await model.asked.wait()
        await users(store).cancel(task.id)

    ended = await users(store).get(task.id)
    assert ended.status is Status.CANCELLED
    assert "+    return a + b" in ended.patch


async def test_run_that_takes_its_workers_with_it_is_given_up(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    task = await users(store).submit(make_request())
    for _ in range(MAX_FRUITLESS_CLAIMS):
        assert await store.claim("doomed", 1) is not None
        clock.advance(2)

    await make_worker(*REPAIR).drain()

    ended = await users(store).get(task.id)
    assert (ended.status, ended.error) == (Status.FAILED, "5 workers vanished while they did this run")


async def test_one_worker_does_several_runs_at_once(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    tasks = [await users(store).submit(make_request()) for _ in range(2)]
    model = HeldModel(held_from=0)

    async with asyncio.TaskGroup() as group:
        group.create_task(make_worker(model=model, concurrency=2).drain())
        for task in tasks:
            while (await users(store).get(task.id)).status is not Status.RUNNING:
                await users(store).wait_for_events(
                    task.id, after=(await users(store).get(task.id)).last_seq, timeout_s=1
                )
        model.go.set()

    assert {(await users(store).get(task.id)).status for task in tasks} == {Status.SUCCEEDED}


NEWER = [
    ("moon.landed", {}),
    ("step.started", {"step": 1, "of_tomorrow": 1}),
    ("guard.tripped", {"step": 1, "pattern": "rotation", "action": "think_of_tomorrow"}),
]


@pytest.mark.parametrize(("kind", "body"), NEWER, ids=[kind for kind, _ in NEWER])
async def test_a_run_whose_log_a_newer_release_wrote_is_left_to_a_newer_worker(
    kind: str, body: dict[str, Any], store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    first, other = [await users(store).submit(make_request()) for _ in range(2)]
    newer = await store.claim("newer", 60)
    assert newer is not None
    await store.append(newer.run_id, newer.generation, kind, body)
    await store.release(newer.run_id, newer.generation)

    for _ in range(MAX_FRUITLESS_CLAIMS + 2):
        await make_worker(*REPAIR).drain()
        left = await users(store).get(first.id)
        assert (left.status, left.waiting_on) == (Status.WAITING, WaitingOn.CAPACITY)
        clock.advance(61)

    assert (await users(store).get(other.id)).status is Status.SUCCEEDED
    reason = (await users(store).queue_position(first.id)).reason
    assert "a newer one wrote it" in reason or "waits for a worker" in reason
    assert await store.claim("newer", 60) is not None


@pytest.mark.parametrize(
    ("table", "column", "content"),
    [
        ("tasks", "request", '{"repository": '),
        ("tasks", "request", '{"repository": 5}'),
        ("tasks", "request", "[]"),
        ("runs", "usage", '{"prompt_tokens": '),
        ("runs", "verdict", '{"kind": "verified", "evidence": 5}'),
        ("events", "body", "{"),
    ],
)
async def test_a_run_of_which_something_is_damaged_fails_and_keeps_no_other_waiting(
    table: str,
    column: str,
    content: str,
    store: SqlStore,
    make_worker: MakeWorker,
    make_request: MakeRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged = await users(store).submit(make_request())
    claim = await store.claim("dead", 60)
    assert claim is not None
    await store.release(claim.run_id, claim.generation)
    other = await users(store).submit(make_request())
    async with store.database.writing() as transaction:
        what = text(f"UPDATE {table} SET {column} = :content WHERE task_id = :task_id")
        await transaction.db.execute(what, {"content": content, "task_id": damaged.id})

    with caplog.at_level(logging.ERROR):
        await make_worker(*REPAIR).drain()

    assert (await users(store).get(other.id)).status is Status.SUCCEEDED
    assert [record for record in caplog.records if damaged.id in record.getMessage()]
    async with store.database.reading() as db:
        run = await read_run(db, claim.run_id)
        assert (await db.execute(select(tasks.c.status).where(tasks.c.task_id == damaged.id))).scalar() == "failed"
    assert run.status is Status.FAILED
    assert "damaged" in (run.error or "")


@pytest.mark.parametrize("kind", ["message.added", "message.of_tomorrow"])
async def test_a_run_is_left_to_a_newer_worker_when_its_user_says_what_only_that_one_knows(
    kind: str, store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    model = HeldModel(held_from=1)
    async with anyio.create_task_group() as group:
        group.start_soon(make_worker(model=model).drain)
        await model.asked.wait()
        async with store.database.writing() as transaction:
            body = {"message_id": "m1", "text": "Hello.", "of_tomorrow": 1}
            event = await write_event(transaction, task.id, kind, body)
            await transaction.db.execute(update(tasks).values(last_user_seq=event.seq))

    left = await users(store).get(task.id)
    assert (left.status, left.waiting_on) == (Status.WAITING, WaitingOn.CAPACITY)


async def test_a_run_whose_user_said_what_cannot_be_read_fails_alone(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    model = HeldModel(held_from=1)
    async with anyio.create_task_group() as group:
        group.start_soon(make_worker(model=model).drain)
        await model.asked.wait()
        async with store.database.writing() as transaction:
            event = await write_event(transaction, task.id, "message.added", {"message_id": "m1", "text": 5})
            await transaction.db.execute(update(tasks).values(last_user_seq=event.seq))

    failed = await users(store).get(task.id)
    assert failed.status is Status.FAILED
    assert "is damaged" in (failed.error or "")
