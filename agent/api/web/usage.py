"""What tasks used, by day and by repository."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from fastapi import Query, Request, Response

from agent.api.context import Context, Shared
from agent.api.web.page import Html, page_router
from agent.api.web.plot import HEIGHT, WIDTH, Plot, plot
from agent.store.base import TaskRecord
from agent.types import Usage, VerdictKind

router = page_router("tasks:read")

_MAX_TASKS = 5000
"""Most tasks the page adds up."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Tasks and what all their attempts used."""

    num_tasks: int
    usage: Usage
    outcomes: tuple[tuple[str, int], ...]
    """How many tasks ended with each verdict, or are in each state where they have none."""

    @property
    def fresh_tokens(self) -> int:
        """Prompt tokens that were not in the cache."""
        return self.usage.prompt_tokens - self.usage.cached_tokens

    @property
    def cached_share(self) -> float | None:
        return self.usage.cached_tokens / self.usage.prompt_tokens if self.usage.prompt_tokens else None

    def of(self, outcome: str) -> int:
        return dict(self.outcomes).get(outcome, 0)


@dataclass(frozen=True, slots=True)
class Period:
    """The days up to today, UTC."""

    total: Amount
    days: tuple[tuple[date, Amount], ...]
    """Oldest first; also those on which nothing was submitted."""
    repositories: tuple[tuple[str, Amount], ...]
    """Most tokens first."""


@router.get("/usage")
async def show_usage(
    request: Request, shared: Shared, html: Html, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> Response:
    now = datetime.now(UTC)
    tasks, whole = await _tasks_since(shared, datetime.combine(_first_day(days, now), time.min, UTC))
    used = _period(tasks, days, now)
    shown: dict[str, Any] = {
        "used": used,
        "days": days,
        "whole": whole,
        "cost": shared.prices.cost(used.total.usage) if shared.prices else None,
        "plots": _plots(used),
        "width": WIDTH,
        "height": HEIGHT,
    }
    return html.page(request, "usage.html", **shown)


def _first_day(num_days: int, now: datetime) -> date:
    return (now.astimezone(UTC) - timedelta(days=num_days - 1)).date()


def _period(tasks: Iterable[TaskRecord], num_days: int, now: datetime) -> Period:
    """
    Args:
        tasks: those of the period; a task counts on the day it was submitted.
    """
    by_day: dict[date, list[TaskRecord]] = {}
    by_repository: dict[str, list[TaskRecord]] = {}
    for task in tasks:
        by_day.setdefault(task.created_at.astimezone(UTC).date(), []).append(task)
        by_repository.setdefault(task.request.repository, []).append(task)
    start = _first_day(num_days, now)
    dates = [start + timedelta(days=number) for number in range(num_days)]
    days = tuple((day, _amount(by_day.get(day, []))) for day in dates)
    repositories = [(name, _amount(group)) for name, group in by_repository.items()]
    repositories.sort(key=lambda named: _size(named[1]), reverse=True)
    return Period(_amount([task for group in by_day.values() for task in group]), days, tuple(repositories))


def _amount(tasks: list[TaskRecord]) -> Amount:
    used = sum((run.spent for task in tasks for run in task.runs), Usage())
    outcomes = Counter(str(task.verdict.kind if task.verdict else task.status) for task in tasks)
    return Amount(len(tasks), used, tuple(outcomes.most_common()))


def _size(amount: Amount) -> int:
    return amount.usage.prompt_tokens + amount.usage.completion_tokens


async def _tasks_since(shared: Context, start: datetime) -> tuple[list[TaskRecord], bool]:
    """The tasks submitted since, newest first, and whether these are all."""
    found: list[TaskRecord] = []
    cursor: str | None = None
    while len(found) < _MAX_TASKS:
        page = await shared.tasks.list_tasks(since=start, cursor=cursor, limit=100)
        found += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return found, True
    return found, False


def _plots(used: Period) -> dict[str, Plot]:
    tokens = [(day, (n.usage.cached_tokens, n.fresh_tokens, n.usage.completion_tokens)) for day, n in used.days]
    outcomes = [(day, (*map(n.of, _OUTCOMES), n.num_tasks - sum(map(n.of, _OUTCOMES)))) for day, n in used.days]
    return {
        "Tokens": plot(("read from the cache", "read", "written"), tokens),
        "Tasks": plot((*(name.replace("_", " ") for name in _OUTCOMES), "other"), outcomes),
    }


_OUTCOMES = (VerdictKind.VERIFIED, VerdictKind.PARTLY_VERIFIED, VerdictKind.REGRESSED)
