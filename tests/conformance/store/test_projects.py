"""What keeps projects apart, and how they share the workers."""

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event, insert, text

from agent.errors import IdempotencyConflict, InvalidCursor, ProjectExists, UnknownProject, UnknownTask
from agent.events import StepCompleted, StepMessage
from agent.identity import DEFAULT_PROJECT
from agent.store.accounts import Accounts
from agent.store.base import Claim, Project, RunResult, Store
from agent.store.open import open_store
from agent.store.retention import Retention
from agent.store.sql import SqlStore
from agent.store.tables import runs
from agent.types import AssistantMessage, Priority, Status, TaskRequest, Usage, WaitingOn
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

DONE = RunResult(status=Status.SUCCEEDED)


def request(**fields: Any) -> TaskRequest:
    return TaskRequest(repository="/repository", problem_statement="Repair it.", **fields)


async def claimed(store: Store) -> Claim:
    claim = await store.claim("worker", 15)
    assert claim is not None
    return claim


async def test_default_project_is_there_and_others_are_made(store: Store) -> None:
    await store.make_project(Project(project_id="team", weight=2, max_running=3))
    assert await store.change_project("team", {"weight": 4}) == Project(project_id="team", weight=4, max_running=3)
    with pytest.raises(ProjectExists):
        await store.make_project(Project(project_id="team"))
    with pytest.raises(UnknownProject):
        await store.change_project("nobody", {"weight": 4})

    assert await store.project("team") == Project(project_id="team", weight=4, max_running=3)
    assert [project.project_id for project in await store.projects()] == [DEFAULT_PROJECT, "team"]


async def test_unknown_project_takes_no_task(store: Store) -> None:
    with pytest.raises(UnknownProject, match="nobody"):
        await store.of("nobody").submit(request())
    with pytest.raises(UnknownProject, match="nobody"):
        await store.project("nobody")


async def test_nothing_of_another_project_can_be_seen_or_changed(store: Store) -> None:
    await store.make_project(Project(project_id="theirs"))
    mine, theirs = store.of(DEFAULT_PROJECT), store.of("theirs")
    task = await mine.submit(request(), created_by="ada")

    for ask in (theirs.get, theirs.events, theirs.cancel, theirs.queue_position):
        with pytest.raises(UnknownTask, match=task.id):
            await ask(task.id)
    with pytest.raises(UnknownTask, match=task.id):
        await theirs.tell(task.id, "task.paused", {})
    with pytest.raises(UnknownTask, match=task.id):
        await theirs.wait_for_events(task.id, after=0, timeout_s=0)
    assert (await theirs.list_tasks()).tasks == ()
    assert await mine.get(task.id) == task
    assert (task.project_id, task.created_by) == (DEFAULT_PROJECT, "ada")


async def test_list_keeps_to_one_user_and_to_a_time(store: Store, clock: Clock) -> None:
    mine = store.of(DEFAULT_PROJECT)
    early = await mine.submit(request(), created_by="ada")
    clock.advance(60)
    noon = clock()
    late = await mine.submit(request(), created_by="bob")

    assert (await mine.list_tasks(created_by="ada")).tasks == (early,)
    assert (await mine.list_tasks(since=noon)).tasks == (late,)
    assert (await mine.list_tasks(until=noon)).tasks == (early,)


@pytest.mark.parametrize("text", ["task_\0", "\0"])
async def test_id_with_a_zero_byte_is_an_unknown_task(store: Store, text: str) -> None:
    mine = store.of(DEFAULT_PROJECT)
    for ask in (mine.get, mine.events, mine.cancel):
        with pytest.raises(UnknownTask):
            await ask(text)
    assert (await mine.list_tasks(created_by=text)).tasks == ()


# The same request sent twice.


async def test_same_key_and_request_give_one_task(store: Store) -> None:
    mine = store.of(DEFAULT_PROJECT)
    seen: set[str] = set()

    async def submit() -> None:
        seen.add((await mine.submit(request(), idempotency_key="once")).id)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(submit)

    assert len(seen) == 1
    assert len((await mine.list_tasks()).tasks) == 1


async def test_same_key_with_another_request_is_refused(store: Store) -> None:
    await store.make_project(Project(project_id="theirs"))
    await store.of(DEFAULT_PROJECT).submit(request(), idempotency_key="once")

    with pytest.raises(IdempotencyConflict, match="once"):
        await store.of(DEFAULT_PROJECT).submit(request(attempts=2), idempotency_key="once")
    await store.of("theirs").submit(request(attempts=2), idempotency_key="once")


# Turns.


async def test_projects_are_served_by_weight(store: Store) -> None:
    await store.make_project(Project(project_id="heavy", weight=3))
    await store.make_project(Project(project_id="light", weight=1))
    for _ in range(12):
        for project_id in ("light", "heavy"):
            await store.of(project_id).submit(request())

    claims = [await claimed(store) for _ in range(8)]

    assert Counter(claim.task.project_id for claim in claims) == {"heavy": 6, "light": 2}


async def test_worker_time_is_what_is_shared(store: Store, clock: Clock) -> None:
    for project_id in ("long", "short"):
        await store.make_project(Project(project_id=project_id))
        for _ in range(20):
            await store.of(project_id).submit(request())
    served: Counter[str] = Counter()
    for _ in range(12):
        claim = await claimed(store)
        served[claim.task.project_id] += 1
        clock.advance(100 if claim.task.project_id == "long" else 20)
        await store.renew(claim.run_id, claim.generation, 15)
        await store.finish(claim.run_id, claim.generation, DONE)

    assert served == {"long": 2, "short": 10}


async def test_caps_of_projects_and_users_hold_and_say_so(store: Store) -> None:
    await store.make_project(Project(project_id="team", max_running=2, max_running_per_user=1))
    team = store.of("team")
    tasks = [await team.submit(request(), created_by=user) for user in ("ada", "ada", "bob", "carl")]

    first = await claimed(store)
    assert (await team.queue_position(tasks[1].id)).reason == (
        "ada has 1 runs at work in the project, and at most 1 at once"
    )
    second = await claimed(store)

    assert [first.task.id, second.task.id] == [tasks[0].id, tasks[2].id]
    assert await store.claim("worker", 15) is None
    assert (await team.queue_position(tasks[3].id)).reason == "the project has 2 runs at work, and at most 2 at once"
    await store.finish(first.run_id, first.generation, DONE)
    assert (await claimed(store)).task.id == tasks[1].id


async def test_project_that_used_its_tokens_of_today_begins_no_run_before_midnight(store: Store, clock: Clock) -> None:
    await store.make_project(Project(project_id="team", daily_tokens=100))
    team = store.of("team")
    tasks = [await team.submit(request()) for _ in range(3)]
    clock.advance(3600)

    await use(store, await claimed(store), prompt_tokens=1000, cached_tokens=950, completion_tokens=49)
    await use(store, await claimed(store), completion_tokens=5)

    assert await store.claim("worker", 15) is None
    said = "the project has used 104 of its 100 tokens of today (UTC)"
    assert (await team.queue_position(tasks[2].id)).reason == said
    other = await store.of(DEFAULT_PROJECT).submit(request())
    assert (await claimed(store)).task.id == other.id
    clock.advance(86_400)
    assert {(await claimed(store)).task.id for _ in range(2)} == {tasks[2].id, other.id}


async def test_more_tokens_a_day_let_the_next_run_begin(store: Store) -> None:
    await store.make_project(Project(project_id="team", daily_tokens=100))
    for _ in range(2):
        await store.of("team").submit(request())
    await use(store, await claimed(store), completion_tokens=100)
    assert await store.claim("worker", 15) is None

    await store.change_project("team", {"daily_tokens": 200})

    assert await store.claim("worker", 15) is not None


async def test_user_who_used_his_tokens_of_today_does_not_hold_up_the_others(store: Store) -> None:
    await store.make_project(Project(project_id="team", daily_tokens_per_user=100))
    team = store.of("team")
    tasks = [await team.submit(request(), created_by=user) for user in ("ada", "ada", "bob")]
    await use(store, await claimed(store), completion_tokens=100)

    assert (await claimed(store)).task.id == tasks[2].id
    assert await store.claim("worker", 15) is None
    said = "ada has used 100 of 100 tokens of today (UTC) in the project"
    assert (await team.queue_position(tasks[1].id)).reason == said


async def test_run_that_goes_on_over_midnight_counts_on_both_days(store: Store, clock: Clock) -> None:
    await store.make_project(Project(project_id="team", daily_tokens=100))
    team = store.of("team")
    for _ in range(2):
        await team.submit(request())
    clock.advance(86_340)
    night = await claimed(store)
    await answer(store, night, completion_tokens=100)
    clock.advance(120)
    await store.renew(night.run_id, night.generation, 15)

    assert await store.claim("worker", 15) is None
    await store.finish(night.run_id, night.generation, DONE)
    assert await store.claim("worker", 15) is None
    clock.advance(86_400)
    assert await store.claim("worker", 15) is not None


async def test_project_that_spent_its_money_of_today_begins_no_run_before_midnight(store: Store, clock: Clock) -> None:
    await store.make_project(Project(project_id="team", daily_cost=0.5))
    tasks = [await store.of("team").submit(request()) for _ in range(3)]
    clock.advance(3600)

    await use(store, await claimed(store), prompt_tokens=1_000_000, cached_tokens=1_000_000)
    await use(store, await claimed(store), completion_tokens=40_000)

    assert await store.claim("worker", 15) is None
    said = "the project has used 0.5 of its 0.5 units of money of today (UTC)"
    assert (await store.of("team").queue_position(tasks[2].id)).reason == said
    assert await store.overspent({("team", "local")}) == {("team", "local"): said}
    clock.advance(86_400)
    assert (await claimed(store)).task.id == tasks[2].id


async def test_user_who_spent_the_money_of_a_month_waits_for_the_next_one(store: Store, clock: Clock) -> None:
    await store.make_project(Project(project_id="team", monthly_cost_per_user=1, daily_cost_per_user=5))
    tasks = [await store.of("team").submit(request(), created_by=user) for user in ("ada", "ada", "bob")]
    await use(store, await claimed(store), completion_tokens=123_456)

    assert (await claimed(store)).task.id == tasks[2].id
    clock.advance(86_400)
    said = "ada has used 1.23456 of 1 units of money of this month (UTC) in the project"
    assert (await store.of("team").queue_position(tasks[1].id)).reason == said
    clock.advance(30 * 86_400)
    assert tasks[1].id in {(await claimed(store)).task.id for _ in range(2)}


@pytest.mark.parametrize("limit", ["daily_cost", "monthly_cost"])
async def test_no_run_that_ended_is_read_to_know_what_was_spent(store: SqlStore, clock: Clock, limit: str) -> None:
    clock.advance(20 * 86_400)
    await store.make_project(Project(project_id="team", **{limit: 1000}))
    task = await store.of("team").submit(request())
    await ended_by_the_program_before(store, clock, 5000, task.id, prompt_tokens=1)
    await store.tidy(timedelta(days=7))
    engine = store.database.engine
    async with engine.begin() as db:
        await db.execute(text("ANALYZE"))
        ended = await db.execute(text("SELECT count(*) FROM runs WHERE finished_at IS NOT NULL AND summed_at IS NULL"))
        assert ended.scalar() == 0

    asked: list[tuple[str, Any]] = []

    def hear(_db: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", hear)
    assert (await claimed(store)).task.id == task.id
    event.remove(engine.sync_engine, "before_cursor_execute", hear)

    [(statement, parameters)] = [each for each in asked if "finished_at >=" in each[0]]
    explain = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    async with engine.begin() as db:
        plan = "\n".join(map(str, (await db.exec_driver_sql(f"{explain} {statement}", parameters)).all()))
    assert plan.count("runs_not_summed") == 2, plan
    assert "Seq Scan on runs" not in plan
    assert "SCAN runs" not in plan


async def test_what_the_program_before_ended_counts_once_whether_it_is_summed_or_not(
    store: SqlStore, clock: Clock
) -> None:
    clock.advance(20 * 86_400)
    await store.make_project(Project(project_id="team", monthly_cost=0.5))
    task = await store.of("team").submit(request())
    await use(store, await claimed(store), prompt_tokens=1000)
    await ended_by_the_program_before(store, clock, 1200, task.id, prompt_tokens=500)
    said = {("team", "local"): "the project has used 0.601 of its 0.5 units of money of this month (UTC)"}

    assert await store.overspent({("team", "local")}) == said
    for _ in range(2):
        await store.tidy(timedelta(days=7))
        assert await store.overspent({("team", "local")}) == said
    clock.advance(15 * 86_400)
    assert await store.overspent({("team", "local")}) == {}


async def test_what_was_spent_stays_spent_when_its_tasks_are_deleted(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team", monthly_cost=1))
    for _ in range(2):
        await store.of("team").submit(request())
    claim = await claimed(store)
    await use(store, claim, completion_tokens=100_000)

    await Retention(store.database).delete("team", claim.task.id)

    assert await store.claim("worker", 15) is None


async def ended_by_the_program_before(store: SqlStore, clock: Clock, num_runs: int, task_id: str, **used: int) -> None:
    """Runs that ended within this month, in no sum."""
    ended = {"project_id": "team", "task_id": task_id, "attempt": 1, "status": Status.SUCCEEDED, "patch": ""}
    ended |= {"steps": 1, "usage": Usage(**used).model_dump(), "generation": 1, "created_by": "ada"}
    ends = [clock.now - timedelta(seconds=number) for number in range(num_runs)]
    rows = [ended | {"run_id": f"run_{number}", "finished_at": end} for number, end in enumerate(ends)]
    async with store.database.engine.begin() as db:
        await db.execute(insert(runs), rows)


async def test_where_nothing_has_a_price_a_limit_of_money_holds_everybody_back(url: str, clock: Clock) -> None:
    async with open_store(url, clock=clock) as store:
        await store.make_project(Project(project_id="team", daily_cost=1))
        task = await store.of("team").submit(request())

        assert await store.claim("worker", 15) is None
        said = "the project has a limit of units of money of today (UTC), and the service knows no prices"
        assert (await store.of("team").queue_position(task.id)).reason == said


async def use(store: Store, claim: Claim, **tokens: int) -> None:
    await answer(store, claim, **tokens)
    await store.finish(claim.run_id, claim.generation, DONE)


async def answer(store: Store, claim: Claim, **tokens: int) -> None:
    await store.append(claim.run_id, claim.generation, "step.started", {"step": 1})
    said = StepMessage(
        step=1, message=AssistantMessage(), usage=Usage(**tokens), duration_s=0.0, temperature=0.0, thinking=False
    )
    await store.append(claim.run_id, claim.generation, "step.message", said.model_dump(mode="json"))


async def test_position_and_reason_say_who_comes_first(store: Store, clock: Clock) -> None:
    await store.make_project(Project(project_id="team"))
    mine = store.of(DEFAULT_PROJECT)
    tasks = []
    for _ in range(2):
        tasks.append(await mine.submit(request()))
        await store.of("team").submit(request())
        clock.advance(1)

    assert (await mine.queue_position(tasks[0].id)).reason == "it is next, and waits for a worker"
    second = await mine.queue_position(tasks[1].id)
    assert (second.position, second.reason) == (3, "1 runs of the project and 1 of others come first")
    await claimed(store)
    assert (await mine.queue_position(tasks[0].id)).position is None


async def test_urgent_tasks_come_first_and_late_ones_do_not_overtake_for_ever(store: Store, clock: Clock) -> None:
    mine = store.of(DEFAULT_PROJECT)
    low = await mine.submit(request(priority=Priority.LOW))
    normal = await mine.submit(request())
    clock.advance(60)
    high = await mine.submit(request(priority=Priority.HIGH))
    clock.advance(3600)
    late = await mine.submit(request(priority=Priority.HIGH))

    assert [(await claimed(store)).task.id for _ in range(4)] == [high.id, normal.id, low.id, late.id]


async def test_background_tasks_have_every_tenth_turn_and_their_position_says_so(store: Store, clock: Clock) -> None:
    mine = store.of(DEFAULT_PROJECT)
    first = await mine.submit(request(priority=Priority.BACKGROUND))
    second = await mine.submit(request(priority=Priority.BACKGROUND))
    clock.advance(10 * 86_400)
    others = [await mine.submit(request()) for _ in range(12)]
    expected = [*others[:9], first, *others[9:], second]
    positions = [(await mine.queue_position(task.id)).position for task in expected]

    served = []
    for _ in expected:
        claim = await claimed(store)
        served.append(claim.task.id)
        await store.finish(claim.run_id, claim.generation, DONE)
    assert served == [task.id for task in expected]
    assert positions == list(range(1, 15))


async def test_background_task_that_is_made_urgent_waits_with_the_others(store: Store) -> None:
    mine = store.of(DEFAULT_PROJECT)
    await mine.submit(request())
    background = await mine.submit(request(priority=Priority.BACKGROUND))

    await mine.tell(background.id, "task.updated", {"priority": "high"})

    assert (await claimed(store)).task.id == background.id


async def test_priority_can_be_changed_while_a_task_waits(store: Store) -> None:
    mine = store.of(DEFAULT_PROJECT)
    await mine.submit(request())
    second = await mine.submit(request())

    await mine.tell(second.id, "task.updated", {"priority": "high", "title": "Soon", "labels": {"for": "today"}})

    claim = await claimed(store)
    assert claim.task.id == second.id
    assert (claim.task.priority, claim.task.title, claim.task.labels) == (Priority.HIGH, "Soon", {"for": "today"})
    assert claim.task.request == second.request


async def test_cancelled_task_goes_first_whatever_becomes_of_its_priority(store: Store) -> None:
    await store.make_project(Project(project_id="team", daily_tokens=100))
    team = store.of("team")
    task = await team.submit(request())
    claim = await claimed(store)
    await answer(store, claim, completion_tokens=100)
    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.QUESTION, {})
    await team.cancel(task.id)

    await team.tell(task.id, "task.updated", {"priority": "low"})

    assert (await claimed(store)).task.id == task.id


async def test_task_that_is_deleted_while_a_page_is_read_is_not_on_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_store(f"sqlite:///{path}") as store:
        mine = store.of(DEFAULT_PROJECT)
        gone, stays = [await mine.submit(request()) for _ in range(2)]

        def delete(_db: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FROM runs" in statement:
                with closing(sqlite3.connect(path)) as other, other:
                    for table in ("events", "runs", "tasks"):
                        other.execute(f"DELETE FROM {table} WHERE task_id = ?", (gone.id,))

        event.listen(store.database.engine.sync_engine, "before_cursor_execute", delete)

        assert [task.id for task in (await mine.list_tasks()).tasks] == [stays.id]


async def test_cursor_of_a_page_is_of_use_in_its_project_alone_and_says_nothing(store: SqlStore) -> None:
    await store.make_project(Project(project_id="theirs"))
    for project_id in ("theirs", DEFAULT_PROJECT):
        for _ in range(3):
            await store.of(project_id).submit(request())
    mine, theirs = store.of(DEFAULT_PROJECT), store.of("theirs")

    cursors = [(await project.list_tasks(limit=2)).next_cursor for project in (mine, theirs, mine)]

    assert len(set(cursors)) == 3
    assert {len(cursor or "") for cursor in cursors} == {len(cursors[0] or "")}
    for stranger, cursor in ((theirs, cursors[0]), (mine, cursors[1]), (store.of("nobody"), cursors[0])):
        with pytest.raises(InvalidCursor):
            await stranger.list_tasks(cursor=cursor)
    for cursor in (cursors[0], cursors[2]):
        assert len((await mine.list_tasks(cursor=cursor)).tasks) == 1


async def test_page_goes_on_where_it_ended_though_its_last_task_was_deleted(store: SqlStore) -> None:
    mine = store.of(DEFAULT_PROJECT)
    oldest, last, _ = [await mine.submit(request()) for _ in range(3)]
    page = await mine.list_tasks(limit=2)
    assert page.tasks[-1].id == last.id
    await mine.cancel(last.id)
    await Retention(store.database).delete(DEFAULT_PROJECT, last.id)
    await mine.submit(request())

    rest = await mine.list_tasks(cursor=page.next_cursor)

    assert ([task.id for task in rest.tasks], rest.next_cursor) == ([oldest.id], None)


async def test_what_a_fork_began_with_is_spent_once(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team", daily_tokens=107))
    team = store.of("team")
    await team.submit(request())
    source = await claimed(store)
    await answer(store, source, completion_tokens=100)
    done = StepCompleted(step=1, tree=None, usage=Usage(), duration_s=0.0)
    await store.append(source.run_id, source.generation, "step.completed", done.model_dump(mode="json"))

    forked = await team.fork(source.task.id, (await team.get(source.task.id)).last_seq)
    fork = await claimed(store)
    unspent = [await store.overspent({("team", "local")})]
    await store.finish(source.run_id, source.generation, DONE)
    unspent.append(await store.overspent({("team", "local")}))
    await use(store, fork, completion_tokens=7)

    assert unspent == [{}, {}]
    said = "the project has used 107 of its 107 tokens of today (UTC)"
    assert await store.overspent({("team", "local")}) == {("team", "local"): said}
    (used,) = await Accounts(store.database).used("team")
    assert (used.usage.completion_tokens, used.num_steps) == (107, 1)
    ended = await team.get(forked.id)
    assert (ended.usage.completion_tokens, ended.runs[0].spent.completion_tokens) == (107, 7)
