"""Tasks that are submitted again and again, at the times of a cron expression, in the same database as the tasks.

A schedule is due once at a time. Its task is submitted in the transaction that moves it on to its next time, so it is
submitted once however many processes look; and times that passed while none looked are made up for by one. What
happens while the task before is not over, the schedule's overlap rule says.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, RowMapping, Select, and_, delete, exists, insert, not_, or_, select, update

from agent.errors import StoreDamaged, StoreTooNew, UnusableCron
from agent.identity import Deed
from agent.store.database import Database, Transaction, whole
from agent.store.ids import new_id
from agent.store.rows import read_task
from agent.store.tables import audit_log, projects, schedules, tasks
from agent.store.tasks import cancel_task, submit_task
from agent.stored import stored
from agent.types import Priority, Status, TaskRequest

_log = logging.getLogger(__name__)

_NUM_FIELDS = 5
_MAX_ERROR_CHARS = 2000


Overlap = Literal["skip", "queue", "replace", "allow"]
"""What happens at a time at which the task submitted last is not over: nothing; the next one comes when it is over; it
is cancelled for the next one; or both work at once."""


class Schedule(BaseModel):
    """When which task is submitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    cron: str
    time_zone: str
    task: TaskRequest
    overlap: Overlap
    enabled: bool
    next_run_at: datetime | None = Field(description="Null while it is off.")
    last_run_at: datetime | None = Field(description="When its task was last submitted, or refused; null: never.")
    last_task_id: str | None = Field(description="The task that was submitted last.")
    last_error: str | None = Field(description="Why the last submission was refused; null where it was not.")
    last_skipped_at: datetime | None = Field(
        description="When a time last passed without a task, as the one before was not over; null: never."
    )
    created_by: str = Field(description="Whose tasks they are.")
    created_at: datetime


class Due(BaseModel):
    """A schedule whose time has come, while one process looks at it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    project_id: str
    task: TaskRequest
    any_path: bool
    """Whether the task may name any path of the service's machine."""
    overlap: Overlap
    created_by: str
    at: datetime
    """The time that has come."""


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a time."""

    outcome: Literal["started", "replaced", "skipped", "waits"]
    """``replaced``: started, and the one before was cancelled; ``waits``: it is looked at again."""
    task_id: str | None = None


def next_time(cron: str, time_zone: str, after: datetime) -> datetime:
    """The first time after that one, in UTC. Where clocks are changed, it is as in Debian's cron.

    >>> next_time("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC)).isoformat()
    '2026-03-29T01:00:00+00:00'

    Raises:
        UnusableCron: it is no expression of five fields, there is no such zone, or the time never comes.
    """
    if len(cron.split()) != _NUM_FIELDS:
        raise UnusableCron("not five fields: minute, hour, day of the month, month, day of the week", field="cron")
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UnusableCron(f"no time zone {time_zone[:64]!r} is known here", field="time_zone") from error
    try:
        return next(CronSim(cron, after.astimezone(zone))).astimezone(UTC)
    except CronSimError as error:
        raise UnusableCron(f"not a cron expression: {error}", field="cron") from error
    except StopIteration as error:
        raise UnusableCron("no day has this time", field="cron") from error


class Schedules:
    """Of all projects; every call of a user names his."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # What users ask.

    @whole
    async def create(
        self,
        project_id: str,
        *,
        name: str,
        cron: str,
        time_zone: str,
        task: TaskRequest,
        any_path: bool,
        overlap: Overlap,
        enabled: bool,
        created_by: str,
    ) -> Schedule:
        """
        Raises:
            UnusableCron: its time cannot be.
        """
        schedule_id = new_id("sched")
        async with self.database.writing() as transaction:
            at = next_time(cron, time_zone, transaction.now)
            values = {
                "schedule_id": schedule_id,
                "project_id": project_id,
                "name": name,
                "cron": cron,
                "time_zone": time_zone,
                "task": _kept(task),
                "any_path": any_path,
                "overlap": overlap,
                "enabled": enabled,
                "next_run_at": at if enabled else None,
                "created_by": created_by,
                "created_at": transaction.now,
            }
            await transaction.db.execute(insert(schedules).values(values))
            return await _read(transaction, schedule_id)

    @whole
    async def all(self, project_id: str) -> tuple[Schedule, ...]:
        """Those of a project, oldest first."""
        query = select(schedules).where(schedules.c.project_id == project_id)
        async with self.database.reading() as db:
            rows = (await db.execute(query.order_by(schedules.c.created_at, schedules.c.schedule_id))).mappings()
            return tuple(map(_schedule, rows))

    @whole
    async def get(self, project_id: str, schedule_id: str) -> Schedule | None:
        async with self.database.reading() as db:
            row = (await db.execute(select(schedules).where(_its(project_id, schedule_id)))).mappings().first()
        return None if row is None else _schedule(row)

    @whole
    async def change(
        self,
        project_id: str,
        schedule_id: str,
        changes: Mapping[str, Any],
        *,
        check: Callable[[Schedule], None] = lambda schedule: None,
    ) -> Schedule | None:
        """Set some of its columns, ``task`` to a :class:`TaskRequest`; None where the project has no such schedule.

        A schedule that is switched on, or gets another time, is next due after now.

        Args:
            check: is shown it as it is, which nobody changes meanwhile; what it raises is raised here.

        Raises:
            UnusableCron: its time cannot be.
        """
        its = _its(project_id, schedule_id)
        async with self.database.writing() as transaction:
            row = (await transaction.db.execute(select(schedules).where(its).with_for_update())).mappings().first()
            if row is None:
                return None
            check(_schedule(row))
            then = {**row, **changes}
            # Who looks at it now looks at what it was.
            values = {**changes, "taken_until": None}
            if "task" in changes:
                values["task"] = _kept(changes["task"])
            if any(then[name] != row[name] for name in ("cron", "time_zone", "enabled")):
                at = next_time(then["cron"], then["time_zone"], transaction.now)
                values["next_run_at"] = at if then["enabled"] else None
            await transaction.db.execute(update(schedules).where(its).values(values))
            return await _read(transaction, schedule_id)

    @whole
    async def delete(self, project_id: str, schedule_id: str) -> bool:
        """Whether there was one. Tasks that it submitted stay."""
        async with self.database.writing() as transaction:
            gone = await transaction.db.execute(delete(schedules).where(_its(project_id, schedule_id)))
        return gone.rowcount > 0

    # What processes do.

    @whole
    async def take_due(self, most: int, lease: timedelta) -> tuple[Due, ...]:
        """Schedules of open projects whose time has come; nobody else gets them for as long as the lease is."""
        async with self.database.reading() as db:
            if (await db.execute(_due_at(await self.database.now(db)).limit(1))).first() is None:
                return ()
        async with self.database.writing() as transaction:
            due = _due_at(transaction.now).limit(most).with_for_update(skip_locked=True)
            rows = (await transaction.db.execute(due)).mappings().all()
            found = tuple(filter(None, map(_due_if_known, rows)))
            taken = schedules.c.schedule_id.in_([due.id for due in found])
            await transaction.db.execute(update(schedules).where(taken).values(taken_until=transaction.now + lease))
        return found

    @whole
    async def submit(self, due: Due, request: TaskRequest, *, traceparent: str | None = None) -> Served | None:
        """Submit the task in the background, as far as the overlap rule lets it, and move the schedule on.

        None where the time had been served, or the schedule was changed or deleted meanwhile: nothing is done then.
        """
        async with self.database.writing() as transaction:
            row = await _still(transaction, due)
            if row is None:
                return None
            last = None
            if due.overlap != "allow" and row["last_task_id"] is not None:
                last = await read_task(transaction.db, tasks.c.task_id == row["last_task_id"], lock=True)
            outcome: Literal["started", "replaced"] = "started"
            if last is not None and not last.status.terminal:
                if due.overlap == "queue":
                    await _write(transaction, due.id, {"taken_until": None})
                    return Served("waits")
                if due.overlap == "skip":
                    await _move_on(transaction, row, {"last_skipped_at": transaction.now})
                    return Served("skipped")
                outcome = "replaced"
                if not last.cancel_requested:
                    await cancel_task(transaction, last)
                    await _note(transaction, due, f"/v1/tasks/{last.id}/cancel", "POST /v1/tasks/{task_id}/cancel")
            task_id = await submit_task(
                transaction,
                due.project_id,
                request.model_copy(update={"priority": Priority.BACKGROUND}),
                created_by=due.created_by,
                traceparent=traceparent,
            )
            await _move_on(transaction, row, {"last_task_id": task_id, "last_error": None, **_ran(transaction)})
            await _note(transaction, due, f"/v1/tasks/{task_id}", "POST /v1/tasks")
            return Served(outcome, task_id)

    @whole
    async def refuse(self, due: Due, error: str) -> bool:
        """Write down why its task cannot be submitted, and move the schedule on; whether that was still to be done."""
        async with self.database.writing() as transaction:
            row = await _still(transaction, due)
            if row is None:
                return False
            await _move_on(transaction, row, {"last_error": error[:_MAX_ERROR_CHARS], **_ran(transaction)})
            return True

    @whole
    async def run(self, project_id: str, schedule_id: str, request: TaskRequest, *, created_by: str) -> str | None:
        """Submit its task now, whatever its times and its overlap rule are; the task's id.

        None where the project has no such schedule.
        """
        async with self.database.writing() as transaction:
            its = select(schedules.c.schedule_id).where(_its(project_id, schedule_id)).with_for_update()
            if (await transaction.db.execute(its)).first() is None:
                return None
            task_id = await submit_task(transaction, project_id, request, created_by=created_by)
            await _write(transaction, schedule_id, {"last_task_id": task_id, "last_error": None, **_ran(transaction)})
            return task_id


def _kept(task: TaskRequest) -> dict[str, Any]:
    """Without what is as it is by itself: the release before reads it too, though it knows fewer fields."""
    return task.model_dump(mode="json", exclude_defaults=True)


async def _still(transaction: Transaction, due: Due) -> RowMapping | None:
    """The schedule, locked, where it still waits for the time that has come, with the same task."""
    still = and_(schedules.c.schedule_id == due.id, schedules.c.next_run_at == due.at)
    row = (await transaction.db.execute(select(schedules).where(still).with_for_update())).mappings().first()
    return row if row is not None and _due(row) == due else None


async def _move_on(transaction: Transaction, row: RowMapping, values: Mapping[str, object]) -> None:
    """To the next time after now."""
    at = next_time(row["cron"], row["time_zone"], transaction.now)
    await _write(transaction, row["schedule_id"], {**values, "next_run_at": at, "taken_until": None})


async def _write(transaction: Transaction, schedule_id: str, values: Mapping[str, object]) -> None:
    await transaction.db.execute(update(schedules).where(schedules.c.schedule_id == schedule_id).values(values))


def _ran(transaction: Transaction) -> dict[str, object]:
    return {"last_run_at": transaction.now}


def _due_at(now: datetime) -> Select[Any]:
    """Schedules of open projects that nobody looks at, and whose task need not wait for the one before."""
    free = or_(schedules.c.taken_until.is_(None), schedules.c.taken_until <= now)
    is_open = exists().where(projects.c.project_id == schedules.c.project_id, projects.c.closed_at.is_(None))
    waits = and_(schedules.c.overlap == "queue", _last_works())
    due = select(schedules).where(schedules.c.next_run_at <= now, free, is_open, not_(waits))
    return due.order_by(schedules.c.next_run_at)


def _last_works() -> ColumnElement[bool]:
    """The task that it submitted last is not over."""
    over = [status.value for status in Status if status.terminal]
    return exists().where(tasks.c.task_id == schedules.c.last_task_id, tasks.c.status.not_in(over))


async def _read(transaction: Transaction, schedule_id: str) -> Schedule:
    query = select(schedules).where(schedules.c.schedule_id == schedule_id)
    return _schedule((await transaction.db.execute(query)).mappings().one())


def _its(project_id: str, schedule_id: str) -> ColumnElement[bool]:
    return and_(schedules.c.project_id == project_id, schedules.c.schedule_id == schedule_id)


def _schedule(row: RowMapping) -> Schedule:
    """
    Raises:
        StoreTooNew: it has what this release does not know.
    """
    shown = {name: row[name] for name in Schedule.model_fields if name != "id"}
    return stored(Schedule, f"schedule {row['schedule_id']}", shown | {"id": row["schedule_id"]})


def _due(row: RowMapping) -> Due:
    """
    Raises:
        StoreTooNew: it has what this release does not know.
    """
    same = {name: row[name] for name in ("project_id", "task", "any_path", "overlap", "created_by")}
    return stored(Due, f"schedule {row['schedule_id']}", same | {"id": row["schedule_id"], "at": row["next_run_at"]})


def _due_if_known(row: RowMapping) -> Due | None:
    """None for one that only a process of a newer release can serve, and for a damaged one, which nobody can: the
    others are served all the same."""
    try:
        return _due(row)
    except StoreTooNew as error:
        _log.warning("action=leave_schedule reason=%r", str(error))
    except StoreDamaged as error:
        _log.error("action=leave_schedule reason=%r", str(error))
    return None


async def _note(transaction: Transaction, due: Due, target: str, action: str) -> None:
    """As the gate notes what callers do; nobody called here."""
    deed = Deed(
        project_id=due.project_id,
        subject=due.id,
        kind="schedule",
        action=action,
        target=target,
        status=202,
        request_id=due.id,
    )
    await transaction.db.execute(insert(audit_log).values(deed.model_dump() | {"at": transaction.now}))
