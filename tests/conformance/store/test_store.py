"""What every store promises."""

import asyncio
import logging
from typing import Any

import anyio
import pytest
from sqlalchemy import select, update

from agent.errors import InvalidCursor, LeaseLost, StoreTooNew, TaskNotOver, UnknownRun, UnknownTask
from agent.events import RunStopped, StepMessage
from agent.identity import DEFAULT_PROJECT
from agent.store.base import Claim, ProjectStore, RunRecord, RunResult, Store, TaskRecord
from agent.store.derive import replay
from agent.store.rows import know_task
from agent.store.sql import SqlStore
from agent.store.tables import tasks
from agent.types import (
    AssistantMessage,
    Event,
    Evidence,
    Status,
    StopReason,
    TaskRequest,
    Usage,
    Verdict,
    VerdictKind,
)
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

FINISHED = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED)


def users(store: Store) -> ProjectStore:
    return store.of(DEFAULT_PROJECT)


def request(problem: str = "Repair it.", **fields: Any) -> TaskRequest:
    return TaskRequest(repository="/repository", problem_statement=problem, **fields)


def message(step: int, reasoning: str | None = "") -> dict[str, Any]:
    answer = AssistantMessage(content="done", reasoning_content=reasoning)
    usage = Usage(prompt_tokens=10, completion_tokens=step)
    body = StepMessage(step=step, message=answer, usage=usage, duration_s=0.1, temperature=0.3, thinking=True)
    return body.model_dump(mode="json")


def stopped(reason: StopReason) -> dict[str, Any]:
    return RunStopped(stop_reason=reason).model_dump(mode="json")


def evidence(output: str = "1 passed") -> Evidence:
    return Evidence(command="pytest", exit_code=0, passed=True, output=output, tree="f00", duration_s=1.0)


async def claimed(store: Store, worker_id: str = "worker-1", ttl_s: float = 15.0) -> Claim:
    claim = await store.claim(worker_id, ttl_s)
    assert claim is not None
    return claim


async def types(store: Store, task: TaskRecord) -> list[str]:
    return [event.type for event in await users(store).events(task.id)]


# Submitting and reading.


async def test_submitted_task_is_queued_and_reads_back_as_it_was(store: Store, clock: Clock) -> None:
    submitted = await users(store).submit(request(labels={"team": "a"}, attempts=2))

    assert submitted == await users(store).get(submitted.id)
    assert submitted.id.startswith("task_")
    assert submitted.status is Status.QUEUED
    assert submitted.request == request(labels={"team": "a"}, attempts=2)
    assert [run.attempt for run in submitted.runs] == [1, 2]
    assert submitted.created_at == submitted.updated_at == clock.now
    assert (submitted.started_at, submitted.finished_at, submitted.duration_s) == (None, None, None)


async def test_a_task_keeps_only_what_differs_from_the_defaults_so_that_older_releases_can_read_it(
    store: SqlStore,
) -> None:
    task = await users(store).submit(request(labels={"team": "a"}))

    async with store.database.reading() as db:
        kept = (await db.execute(select(tasks.c.request))).scalar_one()

    assert set(kept) == {"repository", "problem_statement", "labels"}
    assert (await users(store).get(task.id)).request == task.request


async def test_a_task_of_a_newer_release_is_said_to_be_one(store: SqlStore) -> None:
    task = await users(store).submit(request())
    async with store.database.writing() as transaction:
        newer = task.request.model_dump(mode="json", exclude_defaults=True) | {"limits": {"of_tomorrow": 1}}
        await transaction.db.execute(update(tasks).values(request=newer))

    with pytest.raises(StoreTooNew, match=r"limits\.of_tomorrow"):
        await users(store).get(task.id)
    other = await users(store).submit(request())
    claim = await store.claim("worker", 60)
    assert claim is not None
    assert claim.task.id == other.id
    assert await store.claim("worker", 60) is None


async def test_what_is_read_at_once_is_of_one_moment(store: SqlStore, url: str) -> None:
    if url == "sqlite://":
        pytest.skip("one connection: nobody writes while somebody reads")
    task = await users(store).submit(request())

    async with store.database.reading() as db:
        before = await know_task(db, task.id)
        await users(store).cancel(task.id)
        after = await know_task(db, task.id)

    assert after == before
    assert (await users(store).get(task.id)).status is Status.CANCELLED


async def test_submission_is_the_first_event(store: Store) -> None:
    task = await users(store).submit(request())

    (event,) = await users(store).events(task.id)

    assert (event.seq, event.type, event.run_id) == (1, "task.submitted", None)
    assert TaskRequest.model_validate(event.body["request"]) == task.request


async def test_unknown_task_is_an_error_everywhere(store: Store) -> None:
    for ask in (users(store).get, users(store).events, users(store).cancel):
        with pytest.raises(UnknownTask, match="task_none"):
            await ask("task_none")
    with pytest.raises(UnknownTask):
        await users(store).wait_for_events("task_none", after=0, timeout_s=1)


async def test_pages_are_newest_first_and_do_not_shift(store: Store) -> None:
    old = [await users(store).submit(request(str(number))) for number in range(5)]
    first = await users(store).list_tasks(limit=2)
    await users(store).submit(request("late"))
    second = await users(store).list_tasks(limit=2, cursor=first.next_cursor)
    third = await users(store).list_tasks(limit=2, cursor=second.next_cursor)

    seen = [task.id for page in (first, second, third) for task in page.tasks]
    assert seen == [task.id for task in reversed(old)]
    assert third.next_cursor is None


async def test_list_keeps_to_one_status(store: Store) -> None:
    first, second = await users(store).submit(request()), await users(store).submit(request())
    await users(store).cancel(first.id)

    assert [task.id for task in (await users(store).list_tasks(status=Status.CANCELLED)).tasks] == [first.id]
    assert [task.id for task in (await users(store).list_tasks(status=Status.QUEUED)).tasks] == [second.id]


async def test_tasks_are_found_by_repository_label_and_text(store: Store) -> None:
    mine = users(store)
    texts = ("Add() subtracts 100%", "Sort is slow", "Sort loses 100 rows")
    made = [
        await mine.submit(TaskRequest(repository=f"/{number}", problem_statement=text, labels=labels))
        for number, (text, labels) in enumerate(zip(texts, ({"team": "web"}, {"team": "data"}, {}), strict=True))
    ]
    await mine.tell(made[2].id, "task.updated", {"title": "ROWS", "labels": {"team": "data", "urgent": ""}})

    async def found(**filters: Any) -> list[int]:
        return [made.index(task) for task in reversed(made) if task.id in await ids(**filters)]

    async def ids(**filters: Any) -> list[str]:
        return [task.id for task in (await mine.list_tasks(**filters)).tasks]

    assert await found(repository="/1") == [1]
    assert await found(labels={"team": "data"}) == [2, 1]
    assert await found(labels={"team": None, "urgent": None}) == [2]
    assert await found(text="sort") == [2, 1]
    assert await found(text="100%") == [0]
    assert await found(text="rows", labels={"team": "web"}) == await found(text="\0", repository="\0") == []


async def test_attempt_that_a_user_chose_is_the_result(store: Store) -> None:
    task = await users(store).submit(request(attempts=2))
    for kind in (VerdictKind.PARTLY_VERIFIED, VerdictKind.REGRESSED):
        with pytest.raises(TaskNotOver):
            await users(store).choose(task.id, 1)
        claim = await claimed(store)
        result = FINISHED.model_copy(update={"verdict": Verdict(kind=kind), "patch": kind.value})
        if kind is VerdictKind.REGRESSED:
            result = result.model_copy(update={"status": Status.FAILED})
        await store.finish(claim.run_id, claim.generation, result)
    before = await users(store).get(task.id)

    after = await users(store).choose(task.id, 2)

    assert (before.patch, before.status) == ("partly_verified", Status.SUCCEEDED)
    assert (after.patch, after.status) == ("regressed", Status.FAILED)
    assert [each.id for each in (await users(store).list_tasks(status=Status.FAILED)).tasks] == [task.id]
    with pytest.raises(UnknownRun):
        await users(store).choose(task.id, 3)


async def test_list_leaves_out_patches_and_outputs(store: Store) -> None:
    await users(store).submit(request())
    claim = await claimed(store)
    verdict = Verdict(kind=VerdictKind.VERIFIED, evidence=(evidence("long"),))
    result = FINISHED.model_copy(update={"verdict": verdict, "patch": "diff"})
    await store.finish(claim.run_id, claim.generation, result)

    (task,) = (await users(store).list_tasks()).tasks

    assert task.patch == ""
    assert task.verdict is not None
    assert task.verdict.evidence[0].output == ""
    full = await users(store).get(task.id)
    assert (full.patch, full.verdict) == ("diff", verdict)


@pytest.mark.parametrize("cursor", ["", "x", "cDE=cDE", "é", "cC0x", "eDE", "cDk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
async def test_cursor_that_no_page_gave_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await users(store).list_tasks(cursor=cursor)


# Claiming.


async def test_nothing_to_claim_in_an_empty_store(store: Store) -> None:
    assert await store.claim("worker-1", 15) is None


async def test_oldest_task_is_claimed_first(store: Store) -> None:
    tasks = [await users(store).submit(request(str(number))) for number in range(3)]

    assert [(await claimed(store)).task.id for _ in tasks] == [task.id for task in tasks]
    assert await store.claim("worker-1", 15) is None


async def test_attempts_are_claimed_one_by_one_and_share_the_log(store: Store) -> None:
    task = await users(store).submit(request(attempts=2))
    first, second = await claimed(store, "worker-1"), await claimed(store, "worker-2")
    await store.append(second.run_id, second.generation, "step.message", message(1))
    await store.append(first.run_id, first.generation, "step.message", message(1))

    assert first.run_id != second.run_id
    log = await users(store).events(task.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event.run_id for event in log[1:]] == [first.run_id, second.run_id, second.run_id, first.run_id]
    assert {event.run_id for event in (await _reclaimed(store, first)).events} == {first.run_id}


async def _reclaimed(store: Store, claim: Claim) -> Claim:
    await store.release(claim.run_id, claim.generation)
    return await claimed(store)


async def test_many_workers_at_once_never_own_one_run(store: Store) -> None:
    for number in range(6):
        await users(store).submit(request(str(number), attempts=2))
    claims: list[Claim | None] = []

    async def take(worker: int) -> None:
        claims.append(await store.claim(f"worker-{worker}", 15))

    async with anyio.create_task_group() as group:
        for worker in range(16):
            group.start_soon(take, worker)

    owned = [claim.run_id for claim in claims if claim]
    assert len(owned) == len(set(owned)) == 12
    assert claims.count(None) == 4


async def test_lease_that_ended_goes_to_another_worker_with_what_was_done(store: Store, clock: Clock) -> None:
    await users(store).submit(request())
    first = await claimed(store, "worker-1", ttl_s=15)
    await store.append(first.run_id, 1, "run.provisioned", {})
    clock.advance(14)
    assert await store.claim("worker-2", 15) is None
    clock.advance(2)

    second = await claimed(store, "worker-2")

    assert (second.run_id, second.generation) == (first.run_id, 2)
    assert [event.type for event in second.events] == ["run.claimed", "run.provisioned", "run.claimed"]
    assert second.task.started_at == first.task.started_at


async def test_renewed_lease_stays(store: Store, clock: Clock) -> None:
    await users(store).submit(request())
    claim = await claimed(store, ttl_s=15)
    for _ in range(3):
        clock.advance(14)
        await store.renew(claim.run_id, claim.generation, 15)

    assert await store.claim("worker-2", 15) is None


async def test_released_run_is_claimed_at_once_and_is_not_queued_again(store: Store) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store)
    await store.append(claim.run_id, claim.generation, "run.provisioned", {})

    await store.release(claim.run_id, claim.generation)

    assert (await users(store).get(task.id)).status is Status.RUNNING
    assert (await claimed(store, "worker-2")).generation == 2


# Writing under a lease.


async def test_every_write_of_an_old_generation_is_refused(store: Store, clock: Clock) -> None:
    task = await users(store).submit(request())
    old = await claimed(store, ttl_s=1)
    clock.advance(2)
    new = await claimed(store)
    before = await users(store).events(task.id)

    for write in _writes(store, old):
        with pytest.raises(LeaseLost, match="generation 2"):
            await write
    assert await users(store).events(task.id) == before
    await store.append(new.run_id, new.generation, "run.provisioned", {})


async def test_writes_after_the_end_are_refused(store: Store) -> None:
    await users(store).submit(request())
    claim = await claimed(store)
    await store.finish(claim.run_id, claim.generation, FINISHED)

    for write in _writes(store, claim):
        with pytest.raises(LeaseLost, match="ended"):
            await write


def _writes(store: Store, claim: Claim) -> list[Any]:
    run = (claim.run_id, claim.generation)
    return [
        store.append(*run, "run.provisioned", {}),
        store.renew(*run, 15),
        store.finish(*run, FINISHED),
        store.release(*run),
    ]


async def test_late_write_of_the_owner_is_kept_while_nobody_else_claimed(store: Store, clock: Clock) -> None:
    await users(store).submit(request())
    claim = await claimed(store, ttl_s=1)
    clock.advance(10)

    await store.append(claim.run_id, claim.generation, "run.provisioned", {})
    await store.renew(claim.run_id, claim.generation, 15)

    assert await store.claim("worker-2", 15) is None


async def test_body_comes_back_as_it_was_written(store: Store) -> None:
    await users(store).submit(request())
    claim = await claimed(store)
    body = {"text": "a\x00b \ud800 é \u2028 \r\n", "empty": "", "none": None, "number": 0.1, "list": [1, {"x": True}]}

    written = await store.append(claim.run_id, claim.generation, "note", body)

    (read,) = await users(store).events(claim.task.id, after=written.seq - 1)
    assert read == written
    assert read.body == body


@pytest.mark.parametrize("reasoning", [None, "", " because\n\n"])
async def test_reasoning_keeps_its_three_states(store: Store, reasoning: str | None) -> None:
    await users(store).submit(request())
    claim = await claimed(store)

    event = await store.append(claim.run_id, claim.generation, "step.message", message(1, reasoning))

    (read,) = await users(store).events(claim.task.id, after=event.seq - 1)
    assert StepMessage.model_validate(read.body).message.reasoning_content == reasoning


async def test_concurrent_writers_leave_no_hole(store: Store) -> None:
    task = await users(store).submit(request(attempts=3))
    claims = [await claimed(store) for _ in range(3)]

    async def write(claim: Claim) -> None:
        for number in range(10):
            await store.append(claim.run_id, claim.generation, "note", {"number": number})

    async with anyio.create_task_group() as group:
        for claim in claims:
            group.start_soon(write, claim)

    log = await users(store).events(task.id)
    assert [event.seq for event in log] == list(range(1, 1 + 1 + 3 + 30))
    for claim in claims:
        own = [e.body["number"] for e in log if e.run_id == claim.run_id and e.type == "note"]
        assert own == list(range(10))


async def test_write_that_cannot_be_made_fails_alone(store: Store) -> None:
    task = await users(store).submit(request(attempts=3))
    claims = [await claimed(store) for _ in range(3)]
    bodies: list[dict[str, Any]] = [{"number": 1}, {"number": object()}, {"number": 3}]

    outcomes = await asyncio.gather(
        *(store.append(claim.run_id, 1, "note", body) for claim, body in zip(claims, bodies, strict=True)),
        return_exceptions=True,
    )

    assert [isinstance(outcome, Event) for outcome in outcomes] == [True, False, True]
    log = await users(store).events(task.id)
    assert [event.body["number"] for event in log if event.type == "note"] == [1, 3]
    assert [event.seq for event in log] == list(range(1, len(log) + 1))


async def test_caller_cancelled_in_a_write_leaves_a_whole_transaction(store: Store) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store)

    writing = asyncio.ensure_future(store.append(claim.run_id, claim.generation, "note", {}))
    await asyncio.sleep(0)
    writing.cancel()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.append(claim.run_id, claim.generation, "note", {})

    assert writing.cancelled()
    log = await users(store).events(task.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    await store.append(claim.run_id, claim.generation, "note", {})


async def test_failure_that_a_cancelled_caller_can_no_longer_be_told_is_logged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await users(store).submit(request())
    claim = await claimed(store)
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))

    with caplog.at_level(logging.INFO, "agent.store"):
        renewing = asyncio.ensure_future(store.renew(claim.run_id, claim.generation, 5))
        await asyncio.sleep(0)
        renewing.cancel()
        await asyncio.wait([renewing])
        with anyio.fail_after(10):
            while "has ended" not in caplog.text:  # noqa: ASYNC110 - nobody waits for it any more
                await asyncio.sleep(0.01)

    assert renewing.cancelled()


# The life of a run, and what is derived from it.


async def test_status_follows_the_log(store: Store) -> None:
    task = await users(store).submit(request())
    seen = [task.status]
    claim = await claimed(store)
    seen.append(claim.task.status)
    for kind, body in (
        ("run.provisioned", {}),
        ("step.message", message(1)),
        ("run.stopped", stopped(StopReason.FINISHED)),
    ):
        await store.append(claim.run_id, claim.generation, kind, body)
        seen.append((await users(store).get(task.id)).status)
    seen.append((await store.finish(claim.run_id, claim.generation, FINISHED)).status)

    assert seen == ["queued", "provisioning", "running", "running", "finalizing", "succeeded"]


async def test_steps_and_usage_are_sums_over_the_answers(store: Store) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store)
    for step in (1, 2, 2, 3):  # The second step was sampled twice.
        await store.append(claim.run_id, claim.generation, "step.message", message(step))

    record = await users(store).get(task.id)

    assert record.steps == 3
    assert record.usage == Usage(prompt_tokens=40, completion_tokens=8)


async def test_finished_run_shows_its_result_and_frees_the_lease(store: Store, clock: Clock) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store)
    await store.append(claim.run_id, claim.generation, "run.stopped", stopped(StopReason.STEP_LIMIT))
    clock.advance(30)
    verdict = Verdict(kind=VerdictKind.PARTLY_VERIFIED, evidence=(evidence(),))
    result = RunResult(
        status=Status.FAILED, stop_reason=StopReason.STEP_LIMIT, verdict=verdict, patch="diff", error="50 steps"
    )

    record = await store.finish(claim.run_id, claim.generation, result)

    assert record == await users(store).get(task.id)
    assert (record.status, record.stop_reason) == (Status.FAILED, StopReason.STEP_LIMIT)
    assert (record.verdict, record.patch, record.error) == (verdict, "diff", "50 steps")
    assert record.duration_s == 30
    assert (await types(store, task))[-2:] == ["run.finished", "task.finished"]
    clock.advance(1000)
    assert await store.claim("worker-2", 15) is None


async def test_stopped_run_that_changes_hands_is_still_finalizing(store: Store) -> None:
    await users(store).submit(request())
    claim = await claimed(store)
    await store.append(claim.run_id, claim.generation, "run.stopped", stopped(StopReason.FINISHED))
    await store.release(claim.run_id, claim.generation)

    again = await claimed(store)

    assert again.task.status is Status.FINALIZING
    assert again.task.runs[0].stop_reason is StopReason.FINISHED


async def test_record_is_what_a_replay_of_the_log_gives(store: Store, clock: Clock) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store, ttl_s=1)
    await store.append(claim.run_id, 1, "run.provisioned", {})
    await store.append(claim.run_id, 1, "step.message", message(1))
    clock.advance(5)
    await claimed(store)
    await store.append(claim.run_id, 2, "step.message", message(2))
    await store.append(claim.run_id, 2, "run.stopped", stopped(StopReason.FINISHED))
    verdict = Verdict(kind=VerdictKind.NO_CHANGE)
    await store.append(claim.run_id, 2, "verdict.reached", {"verdict": verdict.model_dump(mode="json")})
    record = await store.finish(claim.run_id, 2, FINISHED.model_copy(update={"verdict": verdict}))

    fresh = RunRecord(run_id=claim.run_id, attempt=1, status=Status.QUEUED, generation=0)
    assert replay(fresh, await users(store).events(task.id)) == record.runs[0]


# Attempts.


async def test_task_ends_with_its_last_run_and_shows_the_best(store: Store) -> None:
    task = await users(store).submit(request(attempts=3))
    claims = [await claimed(store) for _ in range(3)]
    kinds = (VerdictKind.UNVERIFIED, VerdictKind.VERIFIED, VerdictKind.VERIFIED)
    for claim, kind, steps in zip(claims, kinds, (1, 3, 2), strict=True):
        assert not (await users(store).get(task.id)).status.terminal
        await store.append(claim.run_id, claim.generation, "step.message", message(steps))
        result = FINISHED.model_copy(update={"verdict": Verdict(kind=kind), "patch": f"{steps} steps"})
        await store.finish(claim.run_id, claim.generation, result)

    record = await users(store).get(task.id)

    assert record.selected is not None
    assert record.selected.attempt == 3
    assert (record.patch, record.steps, record.status) == ("2 steps", 2, Status.SUCCEEDED)
    assert [run.patch for run in record.runs] == ["1 steps", "3 steps", "2 steps"]
    assert (await types(store, task)).count("task.finished") == 1


async def test_every_task_gets_a_first_attempt_before_any_gets_a_second(store: Store) -> None:
    tasks = [await users(store).submit(request(str(number), attempts=2)) for number in range(2)]

    claims = [await claimed(store) for _ in range(4)]

    assert [claim.task.id for claim in claims] == [tasks[0].id, tasks[1].id, tasks[0].id, tasks[1].id]


async def test_attempts_nobody_began_are_cancelled_once_one_is_verified(store: Store) -> None:
    task = await users(store).submit(request(attempts=4))
    claims = [await claimed(store) for _ in range(3)]
    kinds = (VerdictKind.UNVERIFIED, VerdictKind.VERIFIED, VerdictKind.UNVERIFIED)
    for claim, kind in zip(claims, kinds, strict=True):
        await store.finish(claim.run_id, 1, FINISHED.model_copy(update={"verdict": Verdict(kind=kind)}))

    record = await users(store).get(task.id)

    done = Status.SUCCEEDED
    assert [run.status for run in record.runs] == [done, done, done, Status.CANCELLED]
    assert record.selected is not None
    assert (record.status, record.selected.attempt) == (done, 2)
    assert await store.claim("worker-1", 15) is None


async def test_failed_attempt_gives_way_to_one_that_was_judged(store: Store) -> None:
    task = await users(store).submit(request(attempts=2))
    first, second = await claimed(store), await claimed(store)
    await store.finish(first.run_id, 1, RunResult(status=Status.FAILED, error="a bug"))
    unverified = Verdict(kind=VerdictKind.UNVERIFIED)
    await store.finish(second.run_id, 1, FINISHED.model_copy(update={"verdict": unverified}))

    record = await users(store).get(task.id)

    assert (record.status, record.error) == (Status.SUCCEEDED, None)


# Cancelling.


async def test_cancel_ends_a_queued_task_at_once(store: Store) -> None:
    task = await users(store).submit(request(attempts=2))

    record = await users(store).cancel(task.id)

    assert (record.status, record.stop_reason) == (Status.CANCELLED, StopReason.CANCELLED)
    assert record.finished_at is not None
    assert await types(store, task) == [
        "task.submitted",
        "task.cancel_requested",
        "run.finished",
        "run.finished",
        "task.finished",
    ]
    assert await store.claim("worker-1", 15) is None


async def test_cancel_of_a_running_task_asks_its_worker_and_ends_the_queued_rest(store: Store) -> None:
    task = await users(store).submit(request(attempts=2))
    claim = await claimed(store)
    assert await store.said([task.id]) == {}

    record = await users(store).cancel(task.id)

    assert [event.type for event in await store.user_events(task.id)] == ["task.cancel_requested"]
    assert await store.said([task.id]) == {task.id: record.last_seq - 1}
    assert [run.status for run in record.runs] == [Status.PROVISIONING, Status.CANCELLED]
    assert not record.status.terminal
    result = RunResult(status=Status.CANCELLED, stop_reason=StopReason.CANCELLED, patch="half")
    ended = await store.finish(claim.run_id, claim.generation, result)
    assert (ended.status, ended.runs[0].patch) == (Status.CANCELLED, "half")


async def test_cancel_twice_or_after_the_end_changes_nothing(store: Store) -> None:
    cancelled, finished = await users(store).submit(request()), await users(store).submit(request())
    await users(store).cancel(cancelled.id)
    claim = await claimed(store)
    await store.finish(claim.run_id, claim.generation, FINISHED)

    for task in (cancelled, finished):
        before = await users(store).get(task.id)
        assert await users(store).cancel(task.id) == before


# Waiting.


async def test_events_come_in_pages_after_a_number(store: Store) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store)
    for number in range(5):
        await store.append(claim.run_id, claim.generation, "note", {"number": number})

    page = await users(store).events(task.id, after=2, limit=2)

    assert [event.seq for event in page] == [3, 4]
    assert await users(store).events(task.id, after=100) == ()


async def test_waiter_wakes_with_the_event(store: Store) -> None:
    task = await users(store).submit(request())
    claim = await claimed(store)
    seen: list[tuple[Event, ...]] = []

    async def wait() -> None:
        seen.append(await users(store).wait_for_events(task.id, after=2, timeout_s=30))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await store.append(claim.run_id, claim.generation, "note", {})

    assert [event.type for event in seen[0]] == ["note"]


async def test_waiter_gives_up_with_nothing(store: Store) -> None:
    task = await users(store).submit(request())

    assert await users(store).wait_for_events(task.id, after=1, timeout_s=0.05) == ()


async def test_cancelled_waiter_leaves_the_store_usable(store: Store) -> None:
    task = await users(store).submit(request())

    with anyio.move_on_after(0.05):
        await users(store).wait_for_events(task.id, after=1, timeout_s=30)

    assert (await users(store).get(task.id)).status is Status.QUEUED
