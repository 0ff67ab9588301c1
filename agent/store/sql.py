"""The store over SQL: what workers do, and the way in for users, whose calls are in ``tasks``."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import and_, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import ProjectExists, StoreTooNew
from agent.log import Entry
from agent.store.artifacts import Artifacts
from agent.store.base import (
    DELIVERIES_KEPT_FOR,
    USER_EVENTS,
    Claim,
    Project,
    ProjectStore,
    RunRecord,
    RunResult,
    TaskRecord,
)
from agent.store.batches import Batches
from agent.store.blobs import Blobs
from agent.store.claims import claimable, overspent_in, take_turn
from agent.store.damage import UNREADABLE, set_aside
from agent.store.database import Database, Transaction, whole
from agent.store.derive import advance
from agent.store.drafts import Drafts
from agent.store.identity import Identities
from agent.store.journal import begin_task, derive_task, end_run, end_unbegun, let_go, requeue, write_event
from agent.store.retention import Retention
from agent.store.rows import (
    MOST_IDS,
    know_task,
    owned_run,
    project_record,
    read_events,
    read_project,
    save_run,
)
from agent.store.spending import Spending
from agent.store.tables import events, projects, runs, tasks
from agent.store.tasks import SqlProjectStore
from agent.types import Event, Status, VerdictKind, WaitingOn

_FIRST_RETRY_S = 5.0
"""So long a run that waits on quota or capacity is left alone; each time in a row twice as long, up to the last."""
_LAST_RETRY_S = 60.0

_RETRIED = (WaitingOn.QUOTA, WaitingOn.CAPACITY)


class SqlStore:
    """An :class:`~agent.store.base.Store` on a database whose tables exist; ``open_store`` makes both."""

    def __init__(self, database: Database, drafts: Drafts, blobs: Blobs | None = None) -> None:
        self.database = database
        self.drafts = drafts
        self.artifacts = Artifacts(database, blobs) if blobs else None
        self.identities = Identities(database)
        self._batches = Batches(database)

    def of(self, project_id: str, *, reasoning: bool = True) -> ProjectStore:
        return SqlProjectStore(self.database, project_id, self.artifacts, reasoning=reasoning)

    async def close(self) -> None:
        await self.database.close()

    # Projects.

    @whole
    async def make_project(self, project: Project) -> None:
        try:
            async with self.database.writing() as transaction:
                values = project.model_dump() | {"created_at": transaction.now}
                await transaction.db.execute(projects.insert().values(values))
        except IntegrityError as error:
            raise ProjectExists(f"there is a project {project.project_id!r} already") from error

    @whole
    async def change_project(self, project_id: str, changes: Mapping[str, Any]) -> Project:
        async with self.database.writing() as transaction:
            if changes:
                its = projects.c.project_id == project_id
                await transaction.db.execute(update(projects).where(its).values(**changes))
            return await read_project(transaction.db, project_id)

    @whole
    async def project(self, project_id: str) -> Project:
        async with self.database.reading() as db:
            return await read_project(db, project_id)

    @whole
    async def projects(self) -> tuple[Project, ...]:
        async with self.database.reading() as db:
            rows = (await db.execute(select(projects).order_by(projects.c.project_id))).mappings()
            return tuple(map(project_record, rows))

    # What workers do.

    @whole
    async def claim(self, worker_id: str, ttl_s: float) -> Claim | None:
        while await self._anything_waits():
            async with self.database.writing() as transaction:
                taken = await take_turn(transaction, self.database.prices)
                if taken is None:
                    return None
                try:
                    task = await know_task(transaction.db, taken.task_id)
                    log = await read_events(transaction.db, events.c.run_id == taken.run_id)
                except UNREADABLE as error:
                    await set_aside(transaction, taken.task_id, taken.run_id, error)
                else:
                    run = next(run for run in task.runs if run.run_id == taken.run_id)
                    return await _give(transaction, task.id, run, log, worker_id, ttl_s)
        return None

    async def _anything_waits(self) -> bool:
        async with self.database.reading() as db:
            waiting = select(runs.c.run_id).where(claimable(await self.database.now(db))).limit(1)
            return (await db.execute(waiting)).first() is not None

    async def tidy(self, max_idle: timedelta, *, deliveries_kept_for: timedelta = DELIVERIES_KEPT_FOR) -> None:
        await Spending(self.database).tidy()  # First: what a deleted task used still counts.
        retention = Retention(self.database, self.artifacts)
        await retention.delete_old()
        await retention.expire(max_idle)
        await retention.forget_deliveries(deliveries_kept_for)

    async def wait_for_work(self, timeout_s: float) -> None:
        changes = self.database.changes
        await changes.wait(changes.of_any(), timeout_s)

    @whole
    async def renew(self, run_id: str, generation: int, ttl_s: float) -> None:
        await self._batches.renew(run_id, generation, ttl_s)

    @whole
    async def said(self, task_ids: Collection[str]) -> dict[str, int]:
        query = select(tasks.c.task_id, tasks.c.last_user_seq).where(tasks.c.last_user_seq > 0)
        ids, found = list(task_ids), dict[str, int]()
        async with self.database.reading() as db:
            for start in range(0, len(ids), MOST_IDS):
                rows = await db.execute(query.where(tasks.c.task_id.in_(ids[start : start + MOST_IDS])))
                found |= {row.task_id: row.last_user_seq for row in rows}
        return found

    @whole
    async def overspent(self, owners: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        async with self.database.reading() as db:
            return await overspent_in(db, await self.database.now(db), self.database.prices, owners)

    @whole
    async def user_events(self, task_id: str, *, after: int = 0) -> tuple[Event, ...]:
        newest = select(tasks.c.last_user_seq).where(tasks.c.task_id == task_id)
        async with self.database.reading() as db:
            last_seq = (await db.execute(newest)).scalar() or 0
            if last_seq <= after:
                return ()
            found = await read_events(db, _said(task_id, after))
        if not found or found[-1].seq < last_seq:
            raise StoreTooNew(
                f"event {last_seq} of task {task_id} is a word of the user that this release does not know"
            )
        return found

    async def append(self, run_id: str, generation: int, type: str, body: dict[str, Any]) -> Event:  # noqa: A002
        (event,) = await self.extend(run_id, generation, [(type, body)])
        return event

    @whole
    async def extend(self, run_id: str, generation: int, entries: Sequence[Entry]) -> tuple[Event, ...]:
        return await self._batches.extend(run_id, generation, entries)

    @whole
    async def finish(self, run_id: str, generation: int, result: RunResult, *, chosen: str | None = None) -> TaskRecord:
        async with self.database.writing() as transaction:
            row, run = await owned_run(transaction.db, run_id, generation)
            task_id = row["task_id"]
            await end_run(transaction, task_id, run, result)
            if result.verdict and result.verdict.kind is VerdictKind.VERIFIED:
                await end_unbegun(transaction, await know_task(transaction.db, task_id))
            if chosen is not None:
                change = update(tasks).where(tasks.c.task_id == task_id).values(selected_run=chosen)
                await transaction.db.execute(change)
            await derive_task(transaction, task_id)
            return await know_task(transaction.db, task_id)

    @whole
    async def release(self, run_id: str, generation: int) -> None:
        async with self.database.writing() as transaction:
            row, _ = await owned_run(transaction.db, run_id, generation)
            await write_event(transaction, row["task_id"], "run.released", {}, run_id=run_id, generation=generation)
            await let_go(transaction, run_id)

    @whole
    async def park(
        self,
        run_id: str,
        generation: int,
        status: Literal[Status.PAUSED, Status.WAITING],
        waiting_on: WaitingOn | None,
        body: dict[str, Any],
        *,
        seen: int | None = None,
    ) -> None:
        assert (status is Status.WAITING) == (waiting_on is not None), (status, waiting_on)
        async with self.database.writing() as transaction:
            row, run = await owned_run(transaction.db, run_id, generation)
            task_id, db = row["task_id"], transaction.db
            if seen is None:
                seen = (await db.execute(select(func.max(events.c.seq)).where(events.c.run_id == run_id))).scalar_one()
            body = body | {"status": status, "waiting_on": waiting_on}
            event = await write_event(transaction, task_id, "run.parked", body, run_id=run_id, generation=generation)
            parked = advance(run, event)
            await let_go(transaction, run_id)
            until, since = None, event.at
            if waiting_on in _RETRIED:
                waits = await _waits_in_a_row(db, run_id)
                until, since = event.at + _pause(len(waits)), waits[0].at
            await save_run(db, parked, lease_until=until, idle_since=since)
            ended_by = await _ends_wait(db, task_id, waiting_on or "paused", seen)
            if ended_by is not None:
                await requeue(transaction, task_id, parked, ended_by)
            await derive_task(transaction, task_id)


async def _give(
    transaction: Transaction, task_id: str, run: RunRecord, log: Sequence[Event], worker_id: str, ttl_s: float
) -> Claim:
    """
    Args:
        log: of the run.
    """
    await let_go(transaction, run.run_id)
    generation = run.generation + 1
    body = {"worker_id": worker_id, "attempt": run.attempt}
    event = await write_event(transaction, task_id, "run.claimed", body, run_id=run.run_id, generation=generation)
    lease = {"lease_until": transaction.now + timedelta(seconds=ttl_s), "claimed_at": transaction.now}
    await save_run(transaction.db, advance(run, event), **lease)
    await begin_task(transaction, task_id)
    await derive_task(transaction, task_id)
    task = await know_task(transaction.db, task_id)
    return Claim(run_id=run.run_id, task=task, generation=generation, events=(*log, event))


async def _waits_in_a_row(db: AsyncConnection, run_id: str) -> Sequence[Event]:
    """The waits between which the model said nothing, the newest included."""
    its = events.c.run_id == run_id
    said = select(func.coalesce(func.max(events.c.seq), 0)).where(its, events.c.type == "step.message")
    waits = and_(its, events.c.type == "run.parked", events.c.seq > said.scalar_subquery())
    return [wait for wait in await read_events(db, waits) if wait.body["waiting_on"] in _RETRIED]


def _pause(num_waits: int) -> timedelta:
    return timedelta(seconds=min(_FIRST_RETRY_S * 2 ** min(num_waits - 1, 10), _LAST_RETRY_S))


def _said(task_id: str, after: int) -> Any:
    kinds = (*USER_EVENTS, "task.cancel_requested")
    return and_(events.c.task_id == task_id, events.c.seq > after, events.c.type.in_(kinds))


async def _ends_wait(db: AsyncConnection, task_id: str, wait: WaitingOn | Literal["paused"], seen: int) -> str | None:
    """The word in the log that ends the wait before it began."""
    kinds = [kind for kind, ended in USER_EVENTS.items() if wait in ended]
    last_words = ("task.paused", "task.cancel_requested")
    said = await read_events(db, and_(_said(task_id, 0), events.c.type.in_((*kinds, *last_words))))
    if any(event.type == "task.cancel_requested" for event in said):  # A worker ends it, whatever this one has read.
        return "task.cancel_requested"
    if wait == "paused" and said:  # The user's last word counts, read or not.
        return said[-1].type if said[-1].type == "task.resumed" else None
    return next((event.type for event in said if event.seq > seen and event.type in kinds), None)
