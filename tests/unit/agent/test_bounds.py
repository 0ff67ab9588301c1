"""How long a run may still work, whatever is done to the clock of its machine."""

from datetime import UTC, datetime, timedelta

import pytest

from agent.inbox import Inbox
from agent.log import MemoryLog
from agent.steps.bounds import Bounds
from agent.steps.ends import Stopped
from agent.steps.record import Record
from agent.types import Limits, StopReason, TaskRequest

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TASK = TaskRequest(repository="/repository", problem_statement="p", limits=Limits(wall_clock_s=600))


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


async def bounds(worked: timedelta) -> Bounds:
    """Of a run that another worker had for so long, by a clock that this machine's has nothing to do with."""
    clock = Clock()
    log = MemoryLog(now=clock)
    await log.append("run.claimed", {"worker_id": "first", "attempt": 1})
    clock.now += worked
    await log.append("run.claimed", {"worker_id": "second", "attempt": 1})
    return Bounds(TASK, Inbox(), Record(log), None)


async def test_the_clock_of_the_worker_has_no_part_in_a_runs_time() -> None:
    mine = await bounds(worked=timedelta(seconds=100))
    mine.check()
    assert mine.left(max_steps=1).wall_clock_s <= 500


async def test_a_clock_set_back_between_two_workers_gives_a_run_no_more_than_its_limit() -> None:
    mine = await bounds(worked=timedelta(days=-1))
    assert mine.left(max_steps=1).wall_clock_s <= 600


async def test_the_time_of_earlier_workers_counts() -> None:
    mine = await bounds(worked=timedelta(seconds=601))
    with pytest.raises(Stopped) as stopped:
        mine.check()
    assert stopped.value.reason is StopReason.WALL_CLOCK
