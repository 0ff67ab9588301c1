"""What a run has used, and which of its limits that reaches."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from agent.config import Prices
from agent.log import Entry
from agent.types import Event, Limits, StopReason, Usage

_WITH_USAGE = frozenset({"step.message", "tool.completed", "note.written", "run.rewound"})


def spent(entries: Iterable[Entry]) -> Usage:
    """Tokens of every model call of a run, aborted ones, notes and sub-agents included."""
    used = (body.get("usage") for kind, body in entries if kind in _WITH_USAGE)
    return sum((Usage.model_validate(usage) for usage in used if usage), Usage())


def worked(events: Sequence[Event]) -> timedelta:
    """From the first claim of a run to its newest event, less the time it was parked. By the times of the log alone:
    the clock of this machine may be another."""
    if not events:
        return timedelta()
    begun = next((event.at for event in events if event.type == "run.claimed"), events[0].at)
    parked = timedelta()
    since: datetime | None = None
    for event in events:
        if event.type == "run.parked":
            since = event.at
        elif event.type == "run.claimed" and since is not None:
            parked += event.at - since
            since = None
    return max(events[-1].at - begun - parked, timedelta())


def in_sandbox(events: Sequence[Event]) -> timedelta:
    """From the moment in which a run had its newest sandbox to its newest event; another worker may have taken it over.
    By the times of the log alone."""
    given = [event for event in events if event.type == "run.provisioned"]
    if not given:
        return timedelta()
    first = next(event for event in given if event.body.get("sandbox") == given[-1].body.get("sandbox"))
    return max(events[-1].at - first.at, timedelta())


def reached(
    limits: Limits, num_steps: int, num_failed: int, usage: Usage, prices: Prices | None
) -> tuple[StopReason, str] | None:
    """The limit that allows no further step, and a sentence for people; time is not among them.

    Args:
        num_failed: newest steps in a row of which nothing but errors came.
    """
    if num_steps >= limits.max_steps:
        return StopReason.STEP_LIMIT, f"the limit of {limits.max_steps} steps is reached"
    if num_failed >= limits.max_error_steps:
        return StopReason.ERROR_LIMIT, f"nothing but errors came of {num_failed} steps in a row"
    if counted_tokens(usage) >= limits.max_tokens:
        return StopReason.TOKEN_BUDGET, f"the budget of {limits.max_tokens} tokens is spent"
    if limits.max_cost is None:
        return None
    if prices is None:
        return StopReason.COST_BUDGET, "the task limits its cost, and this service has no prices (MIMO_MODEL_PRICES)"
    if prices.cost(usage) >= limits.max_cost:
        return StopReason.COST_BUDGET, f"the budget of {limits.max_cost:g} is spent"
    return None


def left(limits: Limits, usage: Usage, prices: Prices | None, *, max_steps: int, seconds: float) -> Limits:
    """What of a run's limits a part of it may still use, of ``max_steps`` steps and ``seconds`` at most."""
    cost = None if limits.max_cost is None or prices is None else max(limits.max_cost - prices.cost(usage), 1e-9)
    return limits.model_copy(
        update={
            "max_steps": max_steps,
            "max_tokens": max(limits.max_tokens - counted_tokens(usage), 1),
            "wall_clock_s": max(seconds, 0.001),
            "max_cost": cost,
        }
    )


def counted_tokens(usage: Usage) -> int:
    """Those that count: what an endpoint had in its cache does not."""
    return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
