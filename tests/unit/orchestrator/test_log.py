"""What the orchestrator reads from a run's log."""

from datetime import UTC, datetime

import pytest

from agent.orchestrator.log import num_fruitless_claims
from agent.types import Event


def log(*types: str) -> list[Event]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Event(task_id="task_1", seq=seq, run_id="run_1", generation=1, type=kind, body={}, at=at)
        for seq, kind in enumerate(types, start=1)
    ]


@pytest.mark.parametrize(
    ("types", "count"),
    [
        (("run.claimed",), 1),
        (("run.claimed", "run.provisioned", "step.started", "run.claimed"), 2),
        (("run.claimed", "step.completed", "step.started", "run.claimed"), 1),
        (("run.claimed", "run.released", "run.claimed"), 1),
        (("run.claimed", "step.completed"), 0),
    ],
)
def test_only_claims_without_a_complete_step_are_fruitless(types: tuple[str, ...], count: int) -> None:
    assert num_fruitless_claims(log(*types)) == count
