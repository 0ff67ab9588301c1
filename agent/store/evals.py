"""Evaluations: tasks that are submitted together, in the background, and counted together."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, RowMapping, and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.store.base import TaskRecord
from agent.store.cursors import page_of
from agent.store.database import Database, whole
from agent.store.idempotency import Keyed, keep_answer
from agent.store.ids import new_id
from agent.store.rows import read_project, read_runs, task_record
from agent.store.tables import evals, runs, tasks
from agent.store.tasks import submit_task
from agent.types import Priority, Status, TaskRequest


class Evaluation(BaseModel):
    """What some tasks have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    suite: str | None = Field(description="Where its tasks come from; null where the caller gave them.")
    num_tasks: int = Field(description="When it was submitted; some may have been deleted since.")
    statuses: dict[Status, int] = Field(description="How many of its tasks are in which state.")
    cancel_requested: bool
    created_by: str
    created_at: datetime


Submitted = tuple[Evaluation, tuple[TaskRecord, ...]]


class Evals:
    """Of all projects; every call names one."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @whole
    async def submit(
        self,
        project_id: str,
        name: str,
        requests: Sequence[TaskRequest],
        *,
        suite: str | None,
        created_by: str,
        trace: Callable[[], str | None] = lambda: None,
        keyed: Keyed[Submitted] | None = None,
    ) -> Submitted:
        """All of its tasks, or none; the evaluation and its tasks in their order.

        Args:
            trace: what the runs of a task are within, for each of them.
            keyed: the request that this does; its answer is kept with the evaluation.

        Raises:
            UnknownProject: there is no such project.
        """
        async with self.database.writing() as transaction:
            await read_project(transaction.db, project_id)
            eval_id = new_id("eval")
            values = {
                "eval_id": eval_id,
                "project_id": project_id,
                "name": name,
                "suite": suite,
                "num_tasks": len(requests),
                "cancel_requested": False,
                "created_by": created_by,
                "created_at": transaction.now,
            }
            await transaction.db.execute(insert(evals).values(values))
            for request in requests:
                await submit_task(
                    transaction,
                    project_id,
                    request.model_copy(update={"priority": Priority.BACKGROUND}),
                    created_by=created_by,
                    eval_id=eval_id,
                    traceparent=trace(),
                )
            submitted = await _read(transaction.db, project_id, eval_id)
            assert submitted is not None, eval_id
            await keep_answer(transaction, project_id, keyed, submitted)
            return submitted

    @whole
    async def all(
        self, project_id: str, *, cursor: str | None = None, limit: int = 20
    ) -> tuple[tuple[Evaluation, ...], str | None]:
        """Those of a project, newest first, and the cursor of the next page; None at the end.

        Raises:
            InvalidCursor: no page of them ended in it.
        """
        query = select(evals).where(evals.c.project_id == project_id)
        page, next_cursor = await page_of(self.database, project_id, query, evals.c.position, cursor, limit)
        async with self.database.reading() as db:
            its = tasks.c.eval_id.in_([row["eval_id"] for row in page])
            counted = select(tasks.c.eval_id, tasks.c.status, func.count().label("num")).where(its)
            counts = (await db.execute(counted.group_by(tasks.c.eval_id, tasks.c.status))).all()
        found = tuple(
            _evaluation(row, {Status(each.status): each.num for each in counts if each.eval_id == row["eval_id"]})
            for row in page
        )
        return found, next_cursor

    @whole
    async def get(self, project_id: str, eval_id: str) -> Submitted | None:
        """An evaluation and its tasks in their order, without patches and without the output of evidence."""
        async with self.database.reading() as db:
            return await _read(db, project_id, eval_id)

    @whole
    async def request_cancel(self, project_id: str, eval_id: str) -> None:
        """Write down that it is to end; its tasks are cancelled one by one."""
        async with self.database.writing() as transaction:
            change = update(evals).where(_its(project_id, eval_id)).values(cancel_requested=True)
            await transaction.db.execute(change)


async def _read(db: AsyncConnection, project_id: str, eval_id: str) -> Submitted | None:
    row = (await db.execute(select(evals).where(_its(project_id, eval_id)))).mappings().first()
    if row is None:
        return None
    query = select(tasks).where(tasks.c.eval_id == eval_id, tasks.c.project_id == project_id)
    rows = (await db.execute(query.order_by(tasks.c.position))).mappings().all()
    mine = select(tasks.c.task_id).where(tasks.c.eval_id == eval_id)
    owned = await read_runs(db, runs.c.task_id.in_(mine), brief=True)
    records = tuple(task_record(each, owned[each["task_id"]]) for each in rows)
    return _evaluation(row, Counter(record.status for record in records)), records


def _its(project_id: str, eval_id: str) -> ColumnElement[bool]:
    return and_(evals.c.project_id == project_id, evals.c.eval_id == eval_id)


def _evaluation(row: RowMapping, statuses: dict[Status, int]) -> Evaluation:
    shown = {name: row[name] for name in Evaluation.model_fields if name not in ("id", "statuses")}
    return Evaluation.model_validate(shown | {"id": row["eval_id"], "statuses": dict(statuses)})
