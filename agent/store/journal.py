"""Writes events, and with each of them what it changes in the records: parts of a transaction."""

from typing import Any

import sqlalchemy
from sqlalchemy import func, insert, update

from agent.store.base import USER_EVENTS, RunRecord, RunResult, TaskRecord, select
from agent.store.database import Transaction
from agent.store.derive import advance, task_status
from agent.store.queue import charge
from agent.store.reasoning import sealed
from agent.store.rows import EVENT_FIELDS, read_runs, save_run
from agent.store.spending import add_run
from agent.store.tables import events, projects, runs, tasks
from agent.store.webhooks import announce
from agent.types import Event, Status, StopReason

CANCELLED = RunResult(status=Status.CANCELLED, stop_reason=StopReason.CANCELLED)


async def write_event(
    transaction: Transaction,
    task_id: str,
    kind: str,
    body: dict[str, Any],
    *,
    run_id: str | None = None,
    generation: int = 0,
) -> Event:
    """Append to the log of a task, whose row this locks."""
    change: dict[Any, Any] = {tasks.c.last_seq: tasks.c.last_seq + 1, tasks.c.updated_at: transaction.now}
    if kind in USER_EVENTS or kind == "task.cancel_requested":
        change[tasks.c.last_user_seq] = tasks.c.last_seq + 1
    following = (
        update(tasks).where(tasks.c.task_id == task_id).values(change).returning(tasks.c.last_seq, tasks.c.project_id)
    )
    seq, project_id = (await transaction.db.execute(following)).one()
    event = Event(
        task_id=task_id, seq=seq, run_id=run_id, generation=generation, type=kind, body=body, at=transaction.now
    )
    row = {name: getattr(event, name) for name in EVENT_FIELDS} | {"body": sealed(transaction.db, task_id, body)}
    await transaction.db.execute(insert(events).values(row | {"project_id": project_id}))
    await announce(transaction, project_id, event)
    transaction.touched.add(task_id)
    return event


async def end_run(transaction: Transaction, task_id: str, run: RunRecord, result: RunResult) -> None:
    body = {
        "attempt": run.attempt,
        "status": result.status,
        "stop_reason": result.stop_reason,
        "verdict": result.verdict.kind if result.verdict else None,
        "error": result.error,
    }
    event = await write_event(transaction, task_id, "run.finished", body, run_id=run.run_id, generation=run.generation)
    ended = advance(run, event).model_copy(update={"verdict": result.verdict, "patch": result.patch})
    await let_go(transaction, run.run_id)
    await save_run(transaction.db, ended, patch=result.patch)
    await add_run(transaction, run.run_id)


async def end_unbegun(transaction: Transaction, task: TaskRecord) -> None:
    """Cancel the attempts that no worker ever had."""
    for run in task.runs:
        if run.generation == 0 and not run.status.terminal:
            await end_run(transaction, task.id, run, CANCELLED)


async def requeue(transaction: Transaction, task_id: str, run: RunRecord, by: str) -> None:
    """Queue a parked run again, at the place it had."""
    event = await write_event(
        transaction, task_id, "run.requeued", {"by": by}, run_id=run.run_id, generation=run.generation
    )
    await save_run(transaction.db, advance(run, event), lease_until=None, idle_since=transaction.now)


async def let_go(transaction: Transaction, run_id: str) -> None:
    """Nobody has the run from now on; what its worker took is charged to the project."""
    row = (
        await transaction.db.execute(
            update(runs)
            .where(runs.c.run_id == run_id)
            .values(lease_until=None)
            .returning(runs.c.project_id, runs.c.claimed_at)
        )
    ).one()
    if row.claimed_at is None:
        return
    cost_s = charge(row.claimed_at, transaction.now)
    await transaction.db.execute(
        update(projects).where(projects.c.project_id == row.project_id).values(used_s=projects.c.used_s + cost_s)
    )
    await transaction.db.execute(update(runs).where(runs.c.run_id == run_id).values(claimed_at=None))


async def derive_task(transaction: Transaction, task_id: str) -> None:
    """Write what the runs say about their task; with the last of them the task ends."""
    owned = (await read_runs(transaction.db, runs.c.task_id == task_id))[task_id]
    status = task_status(owned)
    change: dict[str, Any] = {"status": status}
    if status.terminal:
        query = sqlalchemy.select(tasks.c.selected_run).where(tasks.c.task_id == task_id)
        chosen = (await transaction.db.execute(query)).scalar()
        best = next((run for run in owned if run.run_id == chosen), None) or select(owned)
        status = change["status"] = best.status
        body = {
            "status": status,
            "stop_reason": best.stop_reason,
            "verdict": best.verdict.kind if best.verdict else None,
            "run_id": best.run_id,
            "error": best.error,
        }
        event = await write_event(transaction, task_id, "task.finished", body)
        change["finished_at"] = event.at
    await transaction.db.execute(update(tasks).where(tasks.c.task_id == task_id).values(change))


async def begin_task(transaction: Transaction, task_id: str) -> None:
    started_at = func.coalesce(tasks.c.started_at, transaction.now)
    await transaction.db.execute(update(tasks).where(tasks.c.task_id == task_id).values(started_at=started_at))
