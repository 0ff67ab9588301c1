"""What is kept, for how long, and how it is taken out."""

import asyncio
import json
from datetime import timedelta
from typing import cast

import pytest

from agent.errors import StoreError, UnknownProject, UnknownTask
from agent.identity import DEFAULT_PROJECT, AuditEntry, Deed
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.store.base import Project, RunResult, TaskRecord
from agent.store.export import Export
from agent.store.retention import Retention
from agent.store.sql import SqlStore
from agent.store.webhooks import Outcome, Webhooks
from agent.types import Event, Status, TaskRequest, WaitingOn
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")
DAY = timedelta(days=1)


async def ended(store: SqlStore, project_id: str) -> TaskRecord:
    await store.of(project_id).submit(REQUEST, idempotency_key="once")
    claim = await store.claim("worker", 15)
    assert claim is not None
    return await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED, patch="diff"))


async def test_tasks_are_deleted_once_their_project_keeps_them_no_longer(store: SqlStore, clock: Clock) -> None:
    await store.make_project(Project(project_id="short", retention_days=7))
    old, kept = await ended(store, "short"), await ended(store, DEFAULT_PROJECT)
    waiting = await store.of("short").submit(REQUEST)
    retention = Retention(store.database)
    clock.advance(6 * DAY.total_seconds())
    assert await retention.delete_old() == 0
    clock.advance(2 * DAY.total_seconds())

    assert await retention.delete_old() == 1

    with pytest.raises(UnknownTask):
        await store.of("short").get(old.id)
    assert (await store.of("short").list_tasks()).tasks == (waiting,)
    assert await store.of(DEFAULT_PROJECT).get(kept.id) == kept


async def test_audit_log_says_in_one_entry_what_a_sweep_deleted(store: SqlStore, clock: Clock) -> None:
    await store.make_project(Project(project_id="short", retention_days=7))
    for _ in range(3):
        await store.of("short").submit(REQUEST)
        claim = await store.claim("worker", 15)
        assert claim is not None
        await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
        clock.advance(3600)
    retention = Retention(store.database)
    clock.advance(7 * DAY.total_seconds())

    assert [await retention.delete_old() for _ in range(2)] == [3, 0]

    (entry,) = (await store.identities.audit("short")).entries
    assert (entry.subject, entry.action, entry.at) == ("retention", "delete", clock.now)
    assert entry.target == "/v1/tasks: 3 that ended 2026-01-01T00:00:00Z to 2026-01-01T02:00:00Z"


async def test_messages_of_webhooks_are_kept_for_a_time_and_until_they_are_sent(store: SqlStore, clock: Clock) -> None:
    webhooks = Webhooks(store.database)
    hook, _ = await webhooks.create(DEFAULT_PROJECT, "http://a", ("task.submitted",), created_by="me")
    for _ in range(2):
        await store.of(DEFAULT_PROJECT).submit(REQUEST)
        clock.advance(1)
    sent = await webhooks.take_due(1, timedelta(minutes=1))
    await webhooks.record(sent[0], Outcome(status=200, error=None, duration_s=0.1), retry_in=timedelta(minutes=1))
    clock.advance(30 * DAY.total_seconds() - 60)
    await store.tidy(400 * DAY)
    assert len((await webhooks.log(DEFAULT_PROJECT, hook.id))[0]) == 2
    clock.advance(120)

    await store.tidy(400 * DAY)

    (left,) = (await webhooks.log(DEFAULT_PROJECT, hook.id))[0]
    assert (left.status, left.id == sent[0].id) == ("pending", False)


async def test_export_holds_everything_of_the_project_and_nothing_else(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team"))
    mine, _ = await ended(store, "team"), await ended(store, DEFAULT_PROJECT)

    lines = [json.loads(line) async for line in Export(store.database, "team").lines()]

    assert [next(iter(line)) for line in lines] == ["project", "task", *["event"] * mine.last_seq]
    assert TaskRecord.model_validate(lines[1]["task"]) == mine
    assert tuple(Event.model_validate(line["event"]) for line in lines[2:]) == await store.of("team").events(mine.id)


async def test_purge_leaves_nothing_of_the_project(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team"))
    mine, theirs = await ended(store, "team"), await ended(store, DEFAULT_PROJECT)
    retention = Retention(store.database)

    assert await retention.purge("team") == 1

    with pytest.raises(UnknownTask):
        await store.of("team").get(mine.id)
    with pytest.raises(UnknownProject):
        await retention.purge("team")
    assert await store.of(DEFAULT_PROJECT).get(theirs.id) == theirs


async def test_a_purge_is_in_the_audit_log_and_leaves_what_stood_there(store: SqlStore, clock: Clock) -> None:
    await store.make_project(Project(project_id="team"))
    before = Deed(
        project_id="team", subject="ada", kind="key", action="made", target="it", status=201, request_id="req_1"
    )
    await store.identities.record(before)
    await Retention(store.database).purge("team", by="bob")

    newest, oldest = (await store.identities.audit("team")).entries
    assert (newest.subject, newest.action, newest.target, newest.at) == ("bob", "purge", "/v1/projects/team", clock())
    assert oldest == AuditEntry(**before.model_dump(), at=clock())


async def test_default_project_that_was_purged_is_there_and_empty(store: SqlStore) -> None:
    await store.change_project(DEFAULT_PROJECT, {"max_running": 1})
    gone = await ended(store, DEFAULT_PROJECT)

    assert await Retention(store.database).purge(DEFAULT_PROJECT) == 1

    assert await store.project(DEFAULT_PROJECT) == Project(project_id=DEFAULT_PROJECT)
    assert (await store.of(DEFAULT_PROJECT).submit(REQUEST)).id != gone.id


async def test_project_with_a_run_at_work_is_not_purged(store: SqlStore) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    await store.claim("worker", 15)

    with pytest.raises(StoreError, match="cancel its tasks"):
        await Retention(store.database).purge(DEFAULT_PROJECT)
    assert (await store.of(DEFAULT_PROJECT).get(task.id)).status is Status.PROVISIONING


async def test_what_is_needed_is_told_from_what_is_gone(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team"))
    team, retention = store.of("team"), Retention(store.database)
    source, over = await ended(store, "team"), await ended(store, DEFAULT_PROJECT)
    forked = await team.fork(source.id, source.last_seq)
    await retention.delete("team", source.id)
    ids = [record.id for record in (source, over, forked)]
    run_ids = [record.runs[0].run_id for record in (source, over, forked)]

    needed = await retention.needed([*ids, *run_ids, "team", "gone", "task_gone"])
    assert needed == {*ids, run_ids[2], "team"}

    await team.cancel(forked.id)
    assert await retention.needed([*ids, *run_ids, *(f"task_{number}" for number in range(1000))]) == {*ids[1:]}
    assert await retention.mark() == await retention.mark() != ""


async def test_runs_that_wait_too_long_expire(store: SqlStore, clock: Clock) -> None:
    mine = store.of(DEFAULT_PROJECT)
    waiting = await mine.submit(REQUEST)
    claim = await store.claim("worker", 15)
    assert claim is not None
    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.QUESTION, {})
    queued = await mine.submit(REQUEST)
    clock.advance(DAY.total_seconds() + 1)
    fresh = await mine.submit(REQUEST)

    assert await Retention(store.database).expire(DAY) == 2

    records = [await mine.get(task.id) for task in (waiting, queued, fresh)]
    assert [record.status for record in records] == [Status.EXPIRED, Status.EXPIRED, Status.QUEUED]
    assert records[0].error == "nothing went on for 1 day, 0:00:00"
    assert (await mine.events(queued.id))[-1].type == "task.finished"


async def test_worker_tidies_up(store: SqlStore, clock: Clock) -> None:
    await store.make_project(Project(project_id="short", retention_days=1))
    await ended(store, "short")
    waiting = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    clock.advance(8 * DAY.total_seconds())
    runner = cast(Runner, None)  # It claims nothing, so it never asks.
    stopping = asyncio.Event()
    worker = Worker(store, runner, worker_id="worker", may_claim=lambda: False, tidy_every_s=0.01)

    working = asyncio.ensure_future(worker.run(stopping))
    async with asyncio.timeout(60):
        log = await store.of(DEFAULT_PROJECT).wait_for_events(waiting.id, after=1, timeout_s=60)
    stopping.set()
    await working

    assert log[0].body["status"] == Status.EXPIRED
    assert (await store.of("short").list_tasks()).tasks == ()
