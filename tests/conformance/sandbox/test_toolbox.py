"""The toolbox over real machines: quotas keep, and of many callers each has its own answer."""

import asyncio
from collections.abc import Callable

import pytest

from sandbox.errors import Overdue
from sandbox.toolbox.calls import Caller
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import over
from sandbox.toolbox.toolbox import RunTools
from sandbox.types import Backend, Command, Outcome
from tests.conformance.sandbox.conftest import SMALL

pytestmark = pytest.mark.anyio
NUM_CALLERS = 1000


@pytest.fixture
def tools_of(backend: Backend) -> Callable[[str], RunTools]:
    """The tools of a run, which is its own job; all belong to one tenant, who may have two sandboxes."""
    toolbox = over(backend, ToolboxSettings(max_per_tenant=2, room_patience_s=1))
    return lambda run: toolbox.of(Caller(run, run, "tenant"))


async def test_a_tenant_over_its_quota_is_told_so_and_has_room_again_when_another_of_its_sandboxes_ends(tools_of):
    async with tools_of("first") as first, tools_of("second") as second:
        mine = await first.acquire(SMALL)
        await second.acquire(SMALL)
        with pytest.raises(Overdue):
            await second.acquire(SMALL)
        await mine.close()
        again = await second.acquire(SMALL)
        assert (await again.exec(Command("echo room", "a", 60))).output == b"room\n"


async def test_of_a_thousand_callers_at_once_each_has_its_own_answer_and_each_command_runs_once(tools_of):
    async with tools_of("first") as first, tools_of("second") as second:
        sandboxes = [await first.acquire(SMALL), await second.acquire(SMALL)]

        async def call(number: int) -> bytes:
            command = Command(f"echo {number} | tee -a log", f"call-{number}", 300)
            outcome: Outcome = await sandboxes[number % 2].exec(command)
            return outcome.output

        answers = await asyncio.gather(*map(call, range(NUM_CALLERS)))
        logs = [await sandbox.read("/workspace/log") for sandbox in sandboxes]
    assert answers == [b"%d\n" % number for number in range(NUM_CALLERS)]
    assert sorted(int(line) for log in logs for line in log.split()) == list(range(NUM_CALLERS))
