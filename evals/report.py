"""What a run of a suite came to."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from agent.types import Status, StopReason, Usage, VerdictKind
from evals.types import Failing


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskResult(_Record):
    """One task: what the service says of it, and what the hidden tests say."""

    id: str
    split: str
    kind: str
    resolved: bool
    failing: Failing | None = Field(description="Why it is not resolved; null where it is.")
    detail: str
    task_id: str = Field(description="Id of the task in the service.")
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    steps: int
    usage: Usage
    duration_s: float | None
    error: str | None


class Rate(_Record):
    """How many of how many."""

    total: int
    resolved: int
    rate: float
    interval: tuple[float, float] = Field(description="Wilson's, 95 %.")


class SplitReport(Rate):
    by_kind: dict[str, Rate]
    verdicts: dict[str, int]
    stop_reasons: dict[str, int]
    mean_steps: float


class Report(Rate):
    """A whole run."""

    suite: str
    model: str
    attempts: int
    temperature: float
    splits: dict[str, SplitReport]
    tasks: tuple[TaskResult, ...]


def summarise(suite: str, model: str, attempts: int, temperature: float, results: Sequence[TaskResult]) -> Report:
    splits = dict.fromkeys(result.split for result in results)
    return Report(
        suite=suite,
        model=model,
        attempts=attempts,
        temperature=temperature,
        splits={split: _split([result for result in results if result.split == split]) for split in splits},
        tasks=tuple(results),
        **_rate_of(results).model_dump(),
    )


def rate(outcomes: Iterable[bool]) -> Rate:
    """Count outcomes.

    >>> rate([True] * 8 + [False] * 2).interval
    (0.4902, 0.9433)
    """
    known = list(outcomes)
    total, resolved = len(known), sum(known)
    return Rate(
        total=total,
        resolved=resolved,
        rate=round(resolved / total, 4) if total else 0.0,
        interval=wilson(resolved, total),
    )


def wilson(resolved: int, total: int) -> tuple[float, float]:
    """Score interval of a share, 95 % (Wilson 1927); of nothing, everything is possible."""
    if total == 0:
        return 0.0, 1.0
    z = 1.959964
    share = resolved / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return round(max((centre - spread) / scale, 0.0), 4), round(min((centre + spread) / scale, 1.0), 4)


def show(report: Report, console: Console) -> None:
    """Tables for people."""
    table = Table(title=f"{report.suite} with {report.model}", title_justify="left", box=None, header_style="bold")
    for heading in ("split", "resolved", "rate", "95 %", "steps", "stopped", "verdicts"):
        table.add_column(heading, justify="left" if heading in ("split", "stopped", "verdicts") else "right")
    for name, split in report.splits.items():
        table.add_row(
            name,
            f"{split.resolved}/{split.total}",
            percent(split.rate),
            interval(split),
            f"{split.mean_steps:.1f}",
            _listed(split.stop_reasons),
            _listed(split.verdicts),
        )
        for kind, counted in split.by_kind.items():
            cells = f"{counted.resolved}/{counted.total}", percent(counted.rate), interval(counted)
            table.add_row(f"  {kind}", *cells, style="dim")
    table.add_row("all", f"{report.resolved}/{report.total}", percent(report.rate), interval(report), style="bold")
    console.print(table)


def percent(share: float) -> str:
    return f"{share:.1%}"


def interval(counted: Rate) -> str:
    low, high = counted.interval
    return f"{low:.0%} to {high:.0%}"


def _split(results: Sequence[TaskResult]) -> SplitReport:
    kinds = sorted({result.kind for result in results})
    return SplitReport(
        by_kind={kind: _rate_of(result for result in results if result.kind == kind) for kind in kinds},
        verdicts=dict(Counter(result.verdict or "none" for result in results)),
        stop_reasons=dict(Counter(result.stop_reason or "none" for result in results)),
        mean_steps=round(sum(result.steps for result in results) / len(results), 2),
        **_rate_of(results).model_dump(),
    )


def _rate_of(results: Iterable[TaskResult]) -> Rate:
    return rate(result.resolved for result in results)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
