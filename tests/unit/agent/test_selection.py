"""Which of several attempts is shown: proof first, then what most of them came to."""

from agent.store.base import RunRecord, select
from agent.types import Status, StopReason, Verdict, VerdictKind


def run(attempt: int, kind: VerdictKind, tree: str | None, steps: int) -> RunRecord:
    return RunRecord(
        run_id=f"run_{attempt}",
        attempt=attempt,
        status=Status.SUCCEEDED,
        generation=1,
        stop_reason=StopReason.FINISHED,
        verdict=Verdict(kind=kind, tree=tree),
        steps=steps,
    )


def test_a_proof_counts_more_than_any_agreement() -> None:
    runs = (
        run(1, VerdictKind.UNVERIFIED, "a", 1),
        run(2, VerdictKind.UNVERIFIED, "a", 1),
        run(3, VerdictKind.VERIFIED, "b", 9),
    )
    assert select(runs).attempt == 3


def test_of_equally_proven_attempts_the_patch_that_most_came_to_is_shown() -> None:
    runs = (
        run(1, VerdictKind.UNVERIFIED, "a", 1),
        run(2, VerdictKind.UNVERIFIED, "b", 9),
        run(3, VerdictKind.UNVERIFIED, "b", 8),
    )
    assert select(runs).attempt == 3


def test_where_no_two_agree_the_shortest_is_shown() -> None:
    runs = (run(1, VerdictKind.VERIFIED, None, 5), run(2, VerdictKind.VERIFIED, None, 4))
    assert select(runs).attempt == 2
