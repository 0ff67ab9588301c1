"""What was used, and how much there is of what: sums over the rows of tasks and runs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, String, cast, func, select

from agent.store.database import Database, whole
from agent.store.spending import SPENT
from agent.store.tables import runs, tasks
from agent.types import Priority, Status, Usage

Group = Literal["project", "user", "model", "day"]
"""``user``: the subject that submitted; ``model``: as the task names it; ``day``: of the submission, in UTC."""

GROUPS: tuple[Group, ...] = get_args(Group)


class Used(BaseModel):
    """What the attempts at some tasks used."""

    model_config = ConfigDict(frozen=True)

    group: dict[Group, str | None]
    """What they have in common; a model is None where tasks took the service's default."""
    num_tasks: int
    num_runs: int
    num_steps: int
    usage: Usage


class Accounts:
    """On a database whose tables exist."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @whole
    async def used(
        self,
        project_id: str | None,
        groups: Sequence[Group] = (),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        task_id: str | None = None,
        eval_id: str | None = None,
    ) -> tuple[Used, ...]:
        """Sums over a project's tasks, submitted in ``[since, until)``; all attempts count, whichever was selected.
        What a fork began with counts where it was spent.

        Args:
            project_id: None for the tasks of every project.
        """
        keys = [_GROUPS[group].label(group) for group in groups]
        sums = [func.coalesce(func.sum(spent), 0).label(name) for name, spent in SPENT.items()]
        steps = runs.c.steps - func.coalesce(runs.c.copied_steps, 0)
        query = (
            select(
                *keys,
                func.count(tasks.c.task_id.distinct()).label("num_tasks"),
                func.count(runs.c.run_id).label("num_runs"),
                func.coalesce(func.sum(steps), 0).label("num_steps"),
                *sums,
            )
            .join(runs, runs.c.task_id == tasks.c.task_id)
            .group_by(*(_GROUPS[group] for group in groups))
            .order_by(*(_GROUPS[group] for group in groups))
        )
        if project_id is not None:
            query = query.where(tasks.c.project_id == project_id)
        if since is not None:
            query = query.where(tasks.c.created_at >= since)
        if until is not None:
            query = query.where(tasks.c.created_at < until)
        if task_id is not None:
            query = query.where(tasks.c.task_id == task_id)
        if eval_id is not None:
            query = query.where(tasks.c.eval_id == eval_id)
        async with self.database.reading() as db:
            rows = (await db.execute(query)).mappings().all()
        return tuple(_used(dict(row), groups) for row in rows)

    @whole
    async def num_tasks(self, project_id: str | None = None) -> dict[Status, int]:
        """By status; of a project, or of all."""
        query = select(tasks.c.status, func.count().label("n")).group_by(tasks.c.status)
        if project_id is not None:
            query = query.where(tasks.c.project_id == project_id)
        async with self.database.reading() as db:
            rows = (await db.execute(query)).all()
        return {Status(row.status): row.n for row in rows}

    @whole
    async def oldest_queued(self, project_id: str | None = None) -> datetime | None:
        """When the task was submitted that has waited longest for a worker, of those that are not in the background;
        None where none waits."""
        waits = (tasks.c.status == Status.QUEUED, tasks.c.priority != Priority.BACKGROUND)
        query = select(func.min(tasks.c.created_at)).where(*waits)
        if project_id is not None:
            query = query.where(tasks.c.project_id == project_id)
        async with self.database.reading() as db:
            oldest: datetime | None = (await db.execute(query)).scalar()
        return oldest


_GROUPS: dict[Group, ColumnElement[Any]] = {
    "project": tasks.c.project_id,
    "user": tasks.c.created_by,
    "model": tasks.c.request["model"]["name"].as_string(),
    "day": cast(func.date(tasks.c.created_at), String),
}


def _used(row: dict[str, Any], groups: Sequence[Group]) -> Used:
    return Used(
        group={group: row[group] for group in groups},
        num_tasks=row["num_tasks"],
        num_runs=row["num_runs"],
        num_steps=row["num_steps"],
        usage=Usage(**{name: row[name] for name in Usage.model_fields}),
    )
