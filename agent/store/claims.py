"""What waits and what runs, read for the queue."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, RowMapping, and_, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.config import Prices
from agent.store.base import QueuePosition
from agent.store.database import Transaction
from agent.store.queue import Account, Allowance, Head, Turn, charge, next_turn, overspent, standing
from agent.store.rows import LIVING
from agent.store.spending import UsedByUser, first_of_month, midnight, used_since
from agent.store.tables import projects, runs, tasks
from agent.types import Status

_CLAIM_LOCK = 6_459_002
"""Number of the advisory lock of Postgres under which turns are taken: caps hold only if one takes them at a time."""

LONGEST_LEASE = timedelta(hours=1)
"""What ends much later was leased before the clock was set back: who died is not waited for, the others renew it."""

_DAILY = ("daily_tokens", "daily_tokens_per_user", "daily_cost", "daily_cost_per_user")
_MONTHLY = ("monthly_cost", "monthly_cost_per_user")


def claimable(now: datetime) -> ColumnElement[bool]:
    """Which runs wait for a worker: queued, given back, or silent for longer than their lease."""
    until = runs.c.lease_until
    unowned = or_(until.is_(None), until < now, until > now + 2 * LONGEST_LEASE)
    parked = and_(runs.c.status.in_((Status.WAITING, Status.PAUSED)), runs.c.lease_until.is_(None))
    return and_(runs.c.status.in_(LIVING), unowned, ~parked)


@dataclass(frozen=True, slots=True)
class Taken:
    """The run whose turn it is. Of its row no more is read here: a damaged one would hold up all others."""

    run_id: str
    task_id: str


async def take_turn(transaction: Transaction, prices: Prices | None) -> Taken | None:
    """The run whose turn it is, its task's row locked; its project's account begins where the turn found it."""
    db, now = transaction.db, transaction.now
    if db.dialect.name == "postgresql":
        await db.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _CLAIM_LOCK})
    turn = next_turn(await _accounts(db, now, prices), await _heads(db, now))
    if turn is None:
        return None
    first = await _first(db, turn.head, now)
    # A user who changes the task meanwhile may have ended the run; the caller looks again.
    await db.execute(select(tasks.c.position).where(tasks.c.task_id == first.task_id).with_for_update())
    current = select(runs.c.run_id).where(runs.c.run_id == first.run_id, claimable(now))
    if (await db.execute(current)).first() is None:
        return None
    await _save(db, turn)
    return first


async def position_of(
    db: AsyncConnection, now: datetime, prices: Prices | None, project_id: str, task_id: str
) -> QueuePosition | None:
    """Where the task's next run stands; None where none waits."""
    waiting = claimable(now)
    mine = (runs.c.project_id == project_id, runs.c.task_id == task_id)
    columns = (runs.c.due, runs.c.position, runs.c.background, runs.c.created_by)
    query = select(*columns).where(*mine, waiting).order_by(runs.c.due, runs.c.position).limit(1)
    row = (await db.execute(query)).mappings().first()
    if row is None:
        return None
    earlier = or_(runs.c.due < row["due"], and_(runs.c.due == row["due"], runs.c.position < row["position"]))
    same = (runs.c.project_id == project_id, runs.c.background == row["background"])
    before = select(func.count()).where(*same, waiting, earlier)
    num_before = (await db.execute(before)).scalar_one()
    accounts, heads = await _accounts(db, now, prices), await _heads(db, now)
    stands = standing(accounts, heads, project_id, row["created_by"], num_before, background=row["background"])
    return QueuePosition(position=stands.position, reason=stands.reason)


async def overspent_in(
    db: AsyncConnection, now: datetime, prices: Prices | None, owners: Collection[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Which of these users, each in a project, may use no more for now, and why."""
    limited = or_(*(projects.c[name].is_not(None) for name in (*_DAILY, *_MONTHLY)))
    if not owners or (await db.execute(select(projects.c.project_id).where(limited).limit(1))).first() is None:
        return {}
    accounts = {account.project_id: account for account in await _accounts(db, now, prices)}
    found = {(project, user): overspent(accounts[project], user) for project, user in owners}
    return {owner: reason for owner, reason in found.items() if reason is not None}


async def _heads(db: AsyncConnection, now: datetime) -> list[Head]:
    kind = (runs.c.project_id, runs.c.created_by, runs.c.background)
    query = select(*kind, func.coalesce(func.min(runs.c.due), now).label("due"), func.count().label("num")).where(
        claimable(now)
    )
    found = await db.execute(query.group_by(*kind))
    return [Head(row.project_id, row.created_by, row.due, row.num, row.background) for row in found]


async def _accounts(db: AsyncConnection, now: datetime, prices: Prices | None) -> list[Account]:
    columns = (runs.c.project_id, runs.c.created_by, runs.c.claimed_at)
    at_work = and_(runs.c.status.in_(LIVING), runs.c.claimed_at.is_not(None), runs.c.lease_until >= now)
    running: dict[str, Counter[str]] = defaultdict(Counter)
    held_s: defaultdict[str, float] = defaultdict(float)
    for row in await db.execute(select(*columns).where(at_work)):
        running[row.project_id][row.created_by] += 1
        held_s[row.project_id] += charge(row.claimed_at, now)
    found = (await db.execute(select(projects))).mappings().all()
    today = await used_since(db, midnight(now), _limited(found, _DAILY))
    month = await used_since(db, first_of_month(now), _limited(found, _MONTHLY))
    return [
        Account(
            project_id=row["project_id"],
            weight=row["weight"],
            max_running=row["max_running"],
            max_running_per_user=row["max_running_per_user"],
            running=running[row["project_id"]],
            allowances=_allowances(row, today[row["project_id"]], month[row["project_id"]], prices),
            charged_s=row["used_s"] + held_s[row["project_id"]],
            served_at=row["served_at"],
            passed_over=row["passed_over"],
        )
        for row in found
    ]


def _limited(found: Sequence[RowMapping], names: Sequence[str]) -> list[str]:
    """Ids of the projects that have one of these limits."""
    return [row["project_id"] for row in found if any(row[name] is not None for name in names)]


def _allowances(
    row: RowMapping, today: UsedByUser, month: UsedByUser, prices: Prices | None
) -> tuple[Allowance, Allowance, Allowance]:
    tokens = {user: used.prompt_tokens - used.cached_tokens + used.completion_tokens for user, used in today.items()}
    of_today, of_month = "units of money of today (UTC)", "units of money of this month (UTC)"
    return (
        Allowance("tokens of today (UTC)", row["daily_tokens"], row["daily_tokens_per_user"], tokens),
        Allowance(of_today, row["daily_cost"], row["daily_cost_per_user"], _costs(today, prices)),
        Allowance(of_month, row["monthly_cost"], row["monthly_cost_per_user"], _costs(month, prices)),
    )


def _costs(used: UsedByUser, prices: Prices | None) -> dict[str, float] | None:
    return None if prices is None else {user: prices.cost(usage) for user, usage in used.items()}


async def _first(db: AsyncConnection, head: Head, now: datetime) -> Taken:
    its = (
        runs.c.project_id == head.project_id,
        runs.c.created_by == head.user,
        runs.c.background == head.background,
    )
    query = select(runs.c.run_id, runs.c.task_id).where(*its, claimable(now))
    row = (await db.execute(query.order_by(runs.c.due, runs.c.position).limit(1))).one()
    return Taken(row.run_id, row.task_id)


async def _save(db: AsyncConnection, turn: Turn) -> None:
    change = {
        "served_at": turn.served_at,
        "used_s": projects.c.used_s + turn.forfeited_s,
        "passed_over": turn.passed_over,
    }
    await db.execute(update(projects).where(projects.c.project_id == turn.head.project_id).values(change))
