"""Whatever is killed at a boundary of a run, the run ends as if nothing had happened.

The boundaries are what ``benchmarks.boundaries`` sees an undisturbed run pass. It hits all of them, this some of each
kind.
"""

from collections.abc import Iterator

import pytest

from benchmarks.boundaries import measure
from benchmarks.lane import VICTIMS, Victim
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

_PHASES = {
    "worker": ("begin", "command", "review"),
    "database": ("begin", "edit", "end"),
    "model": ("begin", "command", "job", "look", "edit", "review", "end"),
    "sandbox": ("begin", "command", "edit", "end"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as started:
        yield started


@pytest.mark.parametrize("victim", VICTIMS)
async def test_kills_at_boundaries_change_neither_patch_nor_verdict_nor_log(
    victim: Victim, server: PostgresServer
) -> None:
    def chosen(hit: Victim, point: str) -> bool:
        phase, place, what = point.split(": ", 2)
        if hit != victim or phase not in _PHASES[victim]:
            return False
        if victim == "worker":
            return place == "database" or "runs" in what
        # To a sandbox the end of one request and the beginning of the next are one point.
        return place == victim and (place != "sandbox" or "answered" not in what or "checkpoint" in what)

    outcome = await measure(server, chosen, at_once=2)

    assert outcome.wrong(victim) == []
    assert len(outcome.struck(victim)) >= 12
