"""Rates, intervals and tables."""

import io

import pytest
from rich.console import Console

from agent.mining import Mining, Place, Remark
from agent.rate import rate, wilson
from agent.types import Status, StopReason, Usage, VerdictKind
from evals.report import TaskResult, show, summarise
from evals.types import Failing


def result(name: str, split: str, kind: str, *, resolved: bool) -> TaskResult:
    return TaskResult(
        id=name,
        split=split,
        kind=kind,
        resolved=resolved,
        failing=None if resolved else Failing.TESTS_FAIL,
        detail="",
        task_id="task_1",
        status=Status.SUCCEEDED,
        stop_reason=StopReason.FINISHED if resolved else StopReason.STEP_LIMIT,
        verdict=VerdictKind.VERIFIED if resolved else None,
        steps=4 if resolved else 20,
        usage=Usage(),
        duration_s=1.0,
        error=None,
    )


RESULTS = [
    result("a-1", "a", "swap", resolved=True),
    result("a-2", "a", "call", resolved=False),
    result("b-1", "b", "swap", resolved=True),
]


# Agresti and Coull (1998), and R's prop.test without correction.
@pytest.mark.parametrize(
    ("resolved", "total", "interval"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (170, 200, (0.794, 0.8928)), (0, 0, (0.0, 1.0))],
)
def test_the_interval_is_wilsons(resolved: int, total: int, interval: tuple[float, float]) -> None:
    assert wilson(resolved, total) == pytest.approx(interval, abs=2e-4)


def test_nothing_has_no_rate_and_every_interval() -> None:
    assert rate([]).model_dump() == {"total": 0, "resolved": 0, "rate": 0.0, "interval": (0.0, 1.0)}


def test_a_report_counts_by_split_kind_and_ending() -> None:
    report = summarise("suite", "model", 1, 0.0, RESULTS)
    assert (report.total, report.resolved, report.rate) == (3, 2, 0.6667)
    split = report.splits["a"]
    assert (split.total, split.resolved, split.rate, split.mean_steps) == (2, 1, 0.5, 12.0)
    assert {kind: counted.resolved for kind, counted in split.by_kind.items()} == {"call": 0, "swap": 1}
    assert split.verdicts == {"verified": 1, "none": 1}
    assert split.stop_reasons == {"finished": 1, "step_limit": 1}
    assert report.splits["b"].resolved == 1


def test_the_table_shows_failures_beside_successes() -> None:
    out = io.StringIO()
    show(summarise("suite", "model", 1, 0.0, RESULTS), Console(file=out, width=160))
    assert "1/2" in out.getvalue()
    assert "step_limit 1" in out.getvalue()
    assert "none 1" in out.getvalue()


def looked(outcome: TaskResult, *places: Place, num_unread: int = 0) -> TaskResult:
    remarks = tuple(Remark(step=1, place=place, call="git log --all") for place in places)
    return outcome.model_copy(update={"mining": Mining(remarks=remarks, num_unread=num_unread)})


def test_mining_is_counted_beside_the_score_and_changes_none_of_it() -> None:
    results = [
        looked(RESULTS[0], "history", "history", "forge", num_unread=2),
        looked(RESULTS[1], "history"),
        looked(RESULTS[2]),
        result("c-1", "b", "swap", resolved=True),
    ]
    report = summarise("suite", "model", 1, 0.0, results)
    assert (report.total, report.resolved) == (4, 3)
    found = report.mining
    assert (found.scanned, found.mined, found.rate, found.resolved) == (3, 2, 0.6667, 1)
    assert (found.places, found.num_unread) == ({"history": 2, "forge": 1}, 2)
    out = io.StringIO()
    show(report, Console(file=out, width=160))
    assert "2/3 looked for the answer where it may stand (66.7%" in out.getvalue()
    assert "1 of them resolved: history 2, forge 1" in out.getvalue()
