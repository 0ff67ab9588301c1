"""What was used in a time, which limits are held against.

What a run used is added to a sum of its day (UTC) and its user in the transaction that ends it. So what a claim costs
does not grow with the runs that ended, and what was used stays used when a task is deleted. Runs that go on are read
one by one, and so are those that a program of before revision 0012 ended, until a worker adds them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, union_all, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.store.database import Database, Transaction, whole
from agent.store.tables import runs, used_by_day
from agent.types import Usage

SPENT: Mapping[str, ColumnElement[int]] = {
    name: runs.c.usage[name].as_integer() - func.coalesce(runs.c.copied_usage[name].as_integer(), 0)
    for name in Usage.model_fields
}
"""What a run used itself, by the fields of usage: of what a fork began with, another had the use."""

UsedByUser = Mapping[str, Usage]

_COUNTED = tuple(Usage.model_fields)
_KEPT_FOR = timedelta(days=62)
"""No limit looks back further than the month that goes on."""
_MOST = 500
"""Runs that one transaction adds."""


def midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def first_of_month(now: datetime) -> datetime:
    return midnight(now).replace(day=1)


async def used_since(db: AsyncConnection, since: datetime, project_ids: Sequence[str]) -> Mapping[str, UsedByUser]:
    """By project and user. A run that worked since then counts with all it used: whoever began it yesterday began
    early.

    Args:
        since: the beginning of a day.
    """
    used: defaultdict[str, dict[str, Usage]] = defaultdict(dict)
    if not project_ids:
        return used
    # Two ranges of one index, apart: SQLite would not take it for either behind an OR.
    ended = runs.c.finished_at >= since
    living = and_(runs.c.finished_at.is_(None), or_(runs.c.started_at >= since, runs.c.claimed_at.is_not(None)))
    each = [SPENT[name].label(name) for name in _COUNTED]
    alone = select(runs.c.project_id, runs.c.created_by, *each).where(
        runs.c.project_id.in_(project_ids), runs.c.summed_at.is_(None)
    )
    sums = select(
        used_by_day.c.project_id, used_by_day.c.created_by, *(used_by_day.c[name] for name in _COUNTED)
    ).where(used_by_day.c.project_id.in_(project_ids), used_by_day.c.day >= since.date())
    parts = union_all(alone.where(ended), alone.where(living), sums).subquery().c
    owner = (parts.project_id, parts.created_by)
    totals = [func.coalesce(func.sum(parts[name]), 0).label(name) for name in _COUNTED]
    for row in (await db.execute(select(*owner, *totals).group_by(*owner))).mappings():
        used[row["project_id"]][row["created_by"]] = Usage(**{name: int(row[name]) for name in _COUNTED})
    return used


async def add_run(transaction: Transaction, run_id: str) -> None:
    """Part of the transaction that ends a run."""
    await _add(transaction, runs.c.run_id == run_id)


class Spending:
    """On a database whose tables exist."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @whole
    async def tidy(self) -> None:
        """Add the runs that a program of before revision 0012 ended this month; forget what no limit looks at."""
        while True:
            async with self.database.writing() as transaction:
                old = used_by_day.c.day < (transaction.now - _KEPT_FOR).date()
                await transaction.db.execute(delete(used_by_day).where(old))
                if await _add(transaction, runs.c.finished_at >= first_of_month(transaction.now)) < _MOST:
                    return


async def _add(transaction: Transaction, which: ColumnElement[bool]) -> int:
    """Add ended runs that are in no sum; how many these were."""
    used = [SPENT[name].label(name) for name in _COUNTED]
    columns = (runs.c.run_id, runs.c.project_id, runs.c.created_by, runs.c.finished_at, *used)
    query = select(*columns).where(which, runs.c.finished_at.is_not(None), runs.c.summed_at.is_(None)).limit(_MOST)
    found = (await transaction.db.execute(query.with_for_update(skip_locked=True))).mappings().all()
    sums: defaultdict[tuple[str, date, str], Usage] = defaultdict(Usage)
    for row in found:
        its = (row["project_id"], row["finished_at"].date(), row["created_by"])
        sums[its] += Usage(**{name: row[name] for name in _COUNTED})
    if found:
        rows = [
            {"project_id": project_id, "day": day, "created_by": user, **usage.model_dump()}
            # In one order, so that no two transactions wait for each other.
            for (project_id, day, user), usage in sorted(sums.items(), key=lambda each: each[0])
        ]
        is_postgres = transaction.db.dialect.name == "postgresql"
        adding = (postgresql.insert if is_postgres else sqlite.insert)(used_by_day)
        more = {name: used_by_day.c[name] + adding.excluded[name] for name in _COUNTED}
        key = [column.name for column in used_by_day.primary_key]
        await transaction.db.execute(adding.on_conflict_do_update(index_elements=key, set_=more), rows)
        summed = runs.c.run_id.in_([row["run_id"] for row in found])
        await transaction.db.execute(update(runs).where(summed).values(summed_at=transaction.now))
    return len(found)
