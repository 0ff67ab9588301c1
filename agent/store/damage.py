"""Runs of which something stored cannot be read: set aside one by one, so that the queue goes on with the others."""

import logging
from datetime import timedelta
from json import JSONDecodeError

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import StoreDamaged, StoreTooNew
from agent.store.base import RunResult
from agent.store.database import Transaction
from agent.store.journal import derive_task, end_run, let_go
from agent.store.rows import read_run
from agent.store.tables import runs
from agent.types import Status, Usage

Unreadable = JSONDecodeError | StoreDamaged | StoreTooNew
UNREADABLE = (JSONDecodeError, StoreDamaged, StoreTooNew)
"""What reading a row raises for what is in it."""

_LEFT_TO_NEWER = timedelta(minutes=1)
"""So long a run that a newer release wrote is offered to nobody."""

_log = logging.getLogger(__name__)


async def set_aside(transaction: Transaction, task_id: str, run_id: str, error: Unreadable) -> None:
    """Leave the run to a newer worker where a newer release wrote it, and fail it where it is damaged. Its task's row
    is locked."""
    if isinstance(error, StoreTooNew):
        _log.warning("action=leave_to_newer task=%s run=%s reason=%r", task_id, run_id, str(error))
        await let_go(transaction, run_id)
        later = transaction.now + _LEFT_TO_NEWER
        await transaction.db.execute(update(runs).where(runs.c.run_id == run_id).values(lease_until=later))
        return
    _log.error("action=fail_damaged task=%s run=%s error=%r", task_id, run_id, str(error))
    await _make_readable(transaction.db, task_id)
    run = await read_run(transaction.db, run_id)
    said = f"what is stored of the task is damaged, so it cannot go on; submit it again: {error}"
    await end_run(transaction, task_id, run, RunResult(status=Status.FAILED, patch=run.patch, error=said))
    await derive_task(transaction, task_id)


async def _make_readable(db: AsyncConnection, task_id: str) -> None:
    """Blank what the runs of a task say of themselves, where it cannot be read: their ends, and that of the task, are
    derived from it."""
    blank = {"usage": Usage().model_dump(), "copied_usage": None, "verdict": None, "stop_reason": None, "steps": 0}
    for run_id in (await db.execute(select(runs.c.run_id).where(runs.c.task_id == task_id))).scalars().all():
        try:
            await read_run(db, run_id)
        except (JSONDecodeError, StoreDamaged):
            await db.execute(update(runs).where(runs.c.run_id == run_id).values(blank))
