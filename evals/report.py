"""What a run of a suite came to."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from agent.mining import Mining
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
    mining: Mining | None = Field(None, description="What the attempt looked at; null where the service does not say.")


class MiningReport(_Record):
    """Remarks beside the score; nothing is counted as unresolved for them."""

    scanned: int = Field(description="Tasks whose calls were looked through.")
    mined: int = Field(description="Those with a call that looked for the answer where it may stand.")
    rate: float
    interval: tuple[float, float] = Field(description="Wilson's, 95 %.")
    resolved: int = Field(description="Of those with such a call.")
    places: dict[str, int] = Field(description="Tasks by where was looked.")
    num_unread: int = Field(description="Commands that could not be taken apart.")


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
    mining: MiningReport
    tasks: tuple[TaskResult, ...]


def summarise(suite: str, model: str, attempts: int, temperature: float, results: Sequence[TaskResult]) -> Report:
    splits = dict.fromkeys(result.split for result in results)
    return Report(
        suite=suite,
        model=model,
        attempts=attempts,
        temperature=temperature,
        splits={split: _split([result for result in results if result.split == split]) for split in splits},
        mining=_mining(results),
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
    if report.mining.scanned:
        console.print(_remarked(report.mining), highlight=False, soft_wrap=True)


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


def _remarked(mining: MiningReport) -> str:
    low, high = mining.interval
    said = (
        f"{mining.mined}/{mining.scanned} looked for the answer where it may stand ({percent(mining.rate)}, {low:.0%}"
    )
    said += f" to {high:.0%})"
    return f"{said}, {mining.resolved} of them resolved: {listed(mining.places)}" if mining.mined else said


def _mining(results: Sequence[TaskResult]) -> MiningReport:
    scanned = [(result, result.mining) for result in results if result.mining is not None]
    mined = [(result, {remark.place for remark in found.remarks}) for result, found in scanned if found.remarks]
    counted = rate(bool(found.remarks) for _, found in scanned)
    return MiningReport(
        scanned=counted.total,
        mined=counted.resolved,
        rate=counted.rate,
        interval=counted.interval,
        resolved=sum(result.resolved for result, _ in mined),
        places=dict(Counter(place for _, places in mined for place in sorted(places))),
        num_unread=sum(found.num_unread for _, found in scanned),
    )


def _rate_of(results: Iterable[TaskResult]) -> Rate:
    return rate(result.resolved for result in results)


def listed(counts: Mapping[_Name, int]) -> str:
    """The most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
