"""What is kept of a project, and for how long."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update

from agent.errors import StoreError, TaskNotOver, UnknownTask
from agent.identity import DEFAULT_PROJECT, Deed
from agent.store.artifacts import Artifacts
from agent.store.base import Project, RunResult
from agent.store.damage import UNREADABLE, set_aside
from agent.store.database import Database, Transaction, whole
from agent.store.journal import derive_task, end_run
from agent.store.rows import (
    LIVING,
    MOST_IDS,
    project_record,
    read_project,
    read_run,
    read_runs,
)
from agent.store.tables import (
    artifacts,
    audit_log,
    events,
    idempotent_answers,
    metadata,
    projects,
    runs,
    tasks,
    webhook_deliveries,
    webhooks,
)
from agent.types import Status

_FORKED_SEQ = 2
"""Where a fork's log says what it was forked from."""

_KEPT = frozenset({"audit_log"})
"""What stays of a project that is purged: who did it."""


class Retention:
    """On a database whose tables exist."""

    def __init__(self, database: Database, kept: Artifacts | None = None) -> None:
        """
        Args:
            kept: the artifacts; None where none are kept.
        """
        self.database = database
        self._kept = kept

    @whole
    async def purge(self, project_id: str, *, by: str = "operator") -> int:
        """Delete the project and all it has, but for the audit log, which says so too; the number of its tasks.

        The default project is empty then, with no limits: it is always there.

        Args:
            by: who does it, for the audit log.

        Raises:
            UnknownProject: there is no such project.
            StoreError: a worker has one of its runs.
        """
        async with self.database.writing() as transaction:
            db = transaction.db
            await read_project(db, project_id, lock=True)
            made = select(projects.c.project_id, projects.c.created_at).where(projects.c.project_id == project_id)
            row = (await db.execute(made)).mappings().one()
            at_work = and_(runs.c.project_id == project_id, runs.c.claimed_at.is_not(None))
            if (await db.execute(select(runs.c.run_id).where(at_work).limit(1))).first() is not None:
                raise StoreError(
                    f"project {project_id} has runs at work; cancel its tasks, and purge it when they ended"
                )
            if self._kept is not None:
                await self._kept.forget(project_id)
            num_tasks = await _delete(transaction, tasks.c.project_id == project_id)
            its_hooks = select(webhooks.c.webhook_id).where(webhooks.c.project_id == project_id)
            await db.execute(delete(webhook_deliveries).where(webhook_deliveries.c.webhook_id.in_(its_hooks)))
            for table in reversed(metadata.sorted_tables):
                if "project_id" in table.c and table.name not in _KEPT:
                    await db.execute(delete(table).where(table.c.project_id == project_id))
            if project_id == DEFAULT_PROJECT:
                await db.execute(insert(projects).values(dict(row)))
            deed = _deed(project_id, by, "command", "purge", f"/v1/projects/{project_id}")
            await db.execute(insert(audit_log).values(deed.model_dump() | {"at": transaction.now}))
            return num_tasks

    @whole
    async def delete_old(self) -> int:
        """Delete the tasks that ended longer ago than their project keeps them; how many there were. The audit log of a
        project says in one entry what went."""
        async with self.database.reading() as db:
            kept = (await db.execute(select(projects).where(projects.c.retention_days.is_not(None)))).mappings()
            limited = tuple(map(project_record, kept))
            now = await self.database.now(db)
        num_deleted = 0
        for project in limited:
            query = select(tasks.c.task_id, tasks.c.finished_at).where(_outlived(project, now))
            async with self.database.reading() as db:
                gone = (await db.execute(query.order_by(tasks.c.finished_at))).all()
            sweep = _Sweep(project.project_id)
            for task_id, finished_at in gone:
                await self._delete_task(project.project_id, task_id, partial(sweep.note, finished_at))
            num_deleted += sweep.num_tasks
        return num_deleted

    @whole
    async def forget_deliveries(self, kept_for: timedelta) -> int:
        """Delete the messages of webhooks that were written longer ago, and are not to be sent again; how many."""
        deliveries = webhook_deliveries.c
        async with self.database.writing() as transaction:
            old = and_(deliveries.created_at < transaction.now - kept_for, deliveries.due.is_(None))
            return (await transaction.db.execute(delete(webhook_deliveries).where(old))).rowcount

    @whole
    async def mark(self) -> str:
        """Tells this store from any other: when its first project was made."""
        async with self.database.reading() as db:
            made: datetime | None = (await db.execute(select(func.min(projects.c.created_at)))).scalar()
        return made.isoformat() if made else ""

    @whole
    async def needed(self, ids: Collection[str]) -> set[str]:
        """Which of these there still are: tasks, and those that an unfinished task was forked from; runs that have not
        ended; projects."""
        origin = and_(events.c.task_id == tasks.c.task_id, events.c.seq == _FORKED_SEQ, events.c.type == "run.forked")
        forks = select(events.c.body).join(tasks, origin).where(tasks.c.status.in_(LIVING))
        wanted = list(ids)
        async with self.database.reading() as db:
            found = {body["task_id"] for body in (await db.execute(forks)).scalars()}
            for start in range(0, len(wanted), MOST_IDS):
                some = wanted[start : start + MOST_IDS]
                for query in (
                    select(tasks.c.task_id).where(tasks.c.task_id.in_(some)),
                    select(runs.c.run_id).where(runs.c.run_id.in_(some), runs.c.status.in_(LIVING)),
                    select(projects.c.project_id).where(projects.c.project_id.in_(some)),
                ):
                    found.update((await db.execute(query)).scalars())
        return found

    @whole
    async def delete(self, project_id: str, task_id: str) -> None:
        """Delete an ended task and all it has; what was done to it stays in the audit log.

        Raises:
            UnknownTask: the project has no such task.
            TaskNotOver: it has not ended.
        """
        mine = and_(tasks.c.project_id == project_id, tasks.c.task_id == task_id)
        async with self.database.reading() as db:
            status = (await db.execute(select(tasks.c.status).where(mine))).scalar()
        if status is None:
            raise UnknownTask(f"no task {task_id}")
        if not Status(status).terminal:
            raise TaskNotOver(f"task {task_id} is {status}")
        await self._delete_task(project_id, task_id)

    @whole
    async def expire(self, max_idle: timedelta) -> int:
        """End the runs that were queued, or waited for their user, for longer than that; how many there were."""
        async with self.database.reading() as db:
            idle = _idle_since(await self.database.now(db) - max_idle)
            found = (await db.execute(select(runs.c.task_id, runs.c.run_id).where(idle))).all()
        num_expired = 0
        for task_id, run_id in found:
            async with self.database.writing() as transaction:
                num_expired += await self._end_idle(transaction, task_id, run_id, max_idle)
        return num_expired

    async def _end_idle(self, transaction: Transaction, task_id: str, run_id: str, max_idle: timedelta) -> bool:
        """Whether it was still idle, once its task's row was locked."""
        await transaction.db.execute(select(tasks.c.position).where(tasks.c.task_id == task_id).with_for_update())
        query = select(runs.c.run_id).where(runs.c.run_id == run_id, _idle_since(transaction.now - max_idle))
        if (await transaction.db.execute(query)).first() is None:
            return False
        try:
            run = await read_run(transaction.db, run_id)
            await read_runs(transaction.db, runs.c.task_id == task_id)
        except UNREADABLE as error:
            await set_aside(transaction, task_id, run_id, error)
            return False
        said = f"nothing went on for {max_idle}"
        result = RunResult(status=Status.EXPIRED, stop_reason=run.stop_reason, patch=run.patch, error=said)
        await end_run(transaction, task_id, run, result)
        await derive_task(transaction, task_id)
        return True

    async def _delete_task(
        self, project_id: str, task_id: str, note: Callable[[Transaction], Awaitable[None]] | None = None
    ) -> None:
        """The bytes first: where this is interrupted, the rows still say that there is something to delete.

        Args:
            note: part of the transaction, where the task was still there.
        """
        if self._kept is not None:
            await self._kept.forget(project_id, task_id)
        async with self.database.writing() as transaction:
            if await _delete(transaction, tasks.c.task_id == task_id) and note is not None:
                await note(transaction)


@dataclass(slots=True)
class _Sweep:
    """What went of a project at one time, and its entry in the audit log: it is true after each of the tasks."""

    project_id: str
    num_tasks: int = 0
    _oldest: datetime | None = None
    _position: int | None = None

    async def note(self, finished_at: datetime, transaction: Transaction) -> None:
        self.num_tasks += 1
        self._oldest = self._oldest or finished_at
        ended = " to ".join(f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (self._oldest, finished_at))
        target = f"/v1/tasks: {self.num_tasks} that ended {ended}"
        if self._position is None:
            deed = _deed(self.project_id, "retention", "retention", "delete", target)
            values = deed.model_dump() | {"at": transaction.now}
            written = await transaction.db.execute(insert(audit_log).values(values).returning(audit_log.c.position))
            self._position = written.scalar_one()
        else:
            its = audit_log.c.position == self._position
            await transaction.db.execute(update(audit_log).where(its).values(target=target))


async def _delete(transaction: Transaction, which: ColumnElement[bool]) -> int:
    gone = select(tasks.c.task_id).where(which)
    for table in (idempotent_answers, artifacts, events, runs):
        await transaction.db.execute(delete(table).where(table.c.task_id.in_(gone)))
    return (await transaction.db.execute(delete(tasks).where(which))).rowcount


def _deed(project_id: str, by: str, kind: str, action: str, target: str) -> Deed:
    """As the API notes what callers do; nobody called here."""
    return Deed(
        project_id=project_id, subject=by, kind=kind, action=action, target=target, status=200, request_id="none"
    )


def _idle_since(since: datetime) -> ColumnElement[bool]:
    """Runs that no worker has, since before that."""
    idle = runs.c.status.in_((Status.QUEUED, Status.WAITING, Status.PAUSED))
    return and_(idle, runs.c.claimed_at.is_(None), runs.c.idle_since < since)


def _outlived(project: Project, now: datetime) -> ColumnElement[bool]:
    assert project.retention_days is not None, project
    oldest = now - timedelta(days=project.retention_days)
    return and_(tasks.c.project_id == project.project_id, tasks.c.finished_at < oldest)
