"""Some of what ``benchmarks.kills`` does hundreds of times."""

import random

import pytest

from benchmarks.kills import measure

pytestmark = pytest.mark.anyio


async def test_runs_survive_kills_of_worker_model_sandbox_and_connections() -> None:
    kinds = ["worker", "model", "sandbox", "database", "worker"]
    random.shuffle(kinds)

    outcome = await measure(kinds, at_once=2, pause_s=1.0)

    assert outcome.kills.total() == 5
    assert outcome.num_runs >= 2
    assert outcome.wrong == []
