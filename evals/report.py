"""What a run of a suite came to."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from agent.rate import Rate, rate
from agent.types import Status, StopReason, Usage, VerdictKind
from evals.types import Failing

_Name = TypeVar("_Name", bound=str)


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
            listed(split.stop_reasons),
            listed(split.verdicts),
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


def listed(counts: Mapping[_Name, int]) -> str:
    """The most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
