"""Records out of rows, and back."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import LeaseLost, UnknownProject
from agent.store.base import Project, RunRecord, TaskRecord
from agent.store.reasoning import opened
from agent.store.tables import events, projects, runs, tasks
from agent.stored import stored
from agent.types import Event, Status, TaskRequest, Verdict

LIVING = tuple(status.value for status in Status if not status.terminal)
EVENT_FIELDS = tuple(Event.model_fields)

MOST_IDS = 500
"""Of one statement; databases bound their number."""

_RUN_FIELDS = tuple(RunRecord.model_fields)


async def read_task(db: AsyncConnection, where: ColumnElement[bool], *, lock: bool = False) -> TaskRecord | None:
    """The one task that fits, with its runs; its row is locked where asked."""
    query = select(tasks).where(where)
    row = (await db.execute(query.with_for_update() if lock else query)).mappings().first()
    if row is None:
        return None
    owned = (await read_runs(db, runs.c.task_id == row["task_id"]))[row["task_id"]]
    return task_record(row, owned, await _submitted(db, row))


async def _submitted(db: AsyncConnection, row: RowMapping) -> TaskRequest:
    """With what was said before, as the log has it: nothing else in a request is sealed."""
    request = stored_request(row["task_id"], row["request"])
    if not request.conversation:
        return request
    query = select(events.c.body).where(events.c.task_id == row["task_id"], events.c.seq == 1)
    body = opened(db, row["task_id"], (await db.execute(query)).scalar_one())
    # The rest is the row's: it leaves out what an older release may not know.
    return stored_request(row["task_id"], row["request"] | {"conversation": body["request"]["conversation"]})


async def know_task(db: AsyncConnection, task_id: str) -> TaskRecord:
    """A task that is known to exist."""
    task = await read_task(db, tasks.c.task_id == task_id)
    assert task is not None, task_id
    return task


async def read_run(db: AsyncConnection, run_id: str) -> RunRecord:
    """A run that is known to exist."""
    return run_record((await db.execute(select(runs).where(runs.c.run_id == run_id))).mappings().one())


async def read_runs(
    db: AsyncConnection, where: ColumnElement[bool], *, brief: bool = False
) -> dict[str, tuple[RunRecord, ...]]:
    """Runs by task, in the order of their attempts; ``brief`` leaves out patches and outputs."""
    columns = [column for column in runs.c if not (brief and column.name == "patch")]
    found: dict[str, tuple[RunRecord, ...]] = {}
    for row in (await db.execute(select(*columns).where(where).order_by(runs.c.position))).mappings():
        run = run_record(row)
        if brief and run.verdict:
            run = run.model_copy(update={"verdict": _without_output(run.verdict)})
        found[row["task_id"]] = (*found.get(row["task_id"], ()), run)
    return found


async def read_events(db: AsyncConnection, where: ColumnElement[bool], limit: int | None = None) -> tuple[Event, ...]:
    columns = [events.c[name] for name in EVENT_FIELDS]
    query = select(*columns).where(where).order_by(events.c.seq).limit(limit)
    rows = (await db.execute(query)).mappings()
    return tuple(_event(db, row) for row in rows)


def _event(db: AsyncConnection, row: RowMapping) -> Event:
    content = {**row, "body": opened(db, row["task_id"], row["body"])}
    return stored(Event, f"event {row['seq']} of task {row['task_id']}", content)


async def read_project(db: AsyncConnection, project_id: str, *, lock: bool = False) -> Project:
    """
    Raises:
        UnknownProject: there is none of this id.
    """
    query = select(projects).where(projects.c.project_id == project_id)
    row = (await db.execute(query.with_for_update() if lock else query)).mappings().first()
    if row is None:
        raise UnknownProject(f"no project {project_id}")
    return project_record(row)


async def owned_run(db: AsyncConnection, run_id: str, generation: int) -> tuple[RowMapping, RunRecord]:
    """The run as row and as record, its task's row locked, if the caller's generation is the one that owns it.

    Raises:
        LeaseLost: it is not, or the run ended.
    """
    # The lock first, then the reading: Postgres reads a row that it does not lock as it was before the wait.
    mine = select(runs.c.task_id).where(runs.c.run_id == run_id).scalar_subquery()
    await db.execute(select(tasks.c.position).where(tasks.c.task_id == mine).with_for_update())
    row = (await db.execute(select(runs).where(runs.c.run_id == run_id))).mappings().first()
    if row is None:
        raise LeaseLost(f"no run {run_id}")
    verify_owner(row, generation)
    return row, run_record(row)


def verify_owner(row: RowMapping, generation: int) -> None:
    """
    Raises:
        LeaseLost: the generation is not the one that owns the run, or the run ended.
    """
    run_id = row["run_id"]
    if row["generation"] != generation:
        raise LeaseLost(f"run {run_id} is at generation {row['generation']}, this worker's is {generation}")
    if Status(row["status"]).terminal:
        raise LeaseLost(f"run {run_id} has ended")
    if row["claimed_at"] is None:
        raise LeaseLost(f"run {run_id} was let go")


async def save_run(db: AsyncConnection, run: RunRecord, **columns: Any) -> None:
    await db.execute(update(runs).where(runs.c.run_id == run.run_id).values(run_values(run) | columns))


def run_values(run: RunRecord) -> dict[str, Any]:
    """What stands in the row of a run, but for what is written once: its patch, and what it copied."""
    values = run.model_dump(mode="python", exclude={"run_id", "attempt", "patch", "verdict", "usage", "copied_usage"})
    values["usage"] = run.usage.model_dump()
    values["verdict"] = run.verdict.model_dump(mode="json") if run.verdict else None
    return values


def run_record(row: RowMapping) -> RunRecord:
    """
    Raises:
        StoreDamaged: no release wrote it so.
        StoreTooNew: it has what this release does not know.
    """
    values = {name: row[name] for name in _RUN_FIELDS if name in row}
    return stored(RunRecord, f"run {row['run_id']}", values | {"copied_usage": row["copied_usage"] or {}})


def stored_request(task_id: str, content: Mapping[str, Any]) -> TaskRequest:
    """
    Raises:
        StoreDamaged: no release wrote it so.
        StoreTooNew: it has what this release does not know.
    """
    return stored(TaskRequest, f"task {task_id}", content)


def task_record(row: RowMapping, owned: tuple[RunRecord, ...], request: TaskRequest | None = None) -> TaskRecord:
    """
    Args:
        request: as it was submitted; None for what the row has of it.
    """
    request = request or stored_request(row["task_id"], row["request"])
    return TaskRecord(
        id=row["task_id"],
        project_id=row["project_id"],
        created_by=row["created_by"],
        request=request,
        title=row["title"],
        labels=request.labels if row["labels"] is None else row["labels"],
        priority=row["priority"],
        status=row["status"],
        runs=owned,
        cancel_requested=row["cancel_requested"],
        chosen=row["selected_run"],
        last_seq=row["last_seq"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def project_record(row: RowMapping) -> Project:
    return Project.model_validate({name: row[name] for name in Project.model_fields})


def _without_output(verdict: Verdict) -> Verdict:
    evidence = tuple(item.model_copy(update={"output": ""}) for item in verdict.evidence)
    return verdict.model_copy(update={"evidence": evidence})
