"""Calls that a worker which is gone may have made: done once, and where nobody can know, the model is told so."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agent.log import MemoryLog
from agent.testing import call, turns
from agent.tools.base import ToolContext, ToolResult
from agent.tools.bash import Bash, BashArguments
from agent.tools.edit import Edit
from agent.tools.explore import Explore, ExploreArguments
from agent.tools.mcp import McpCall, McpCallArguments
from agent.tools.str_replace import StrReplace, StrReplaceArguments
from agent.tools.write import Write, WriteArguments
from sandbox.types import Sandbox
from tests.integration.agent_core.conftest import FILES, Desk

pytestmark = pytest.mark.anyio

CALC = str(FILES["calc.py"])
AGAIN = StrReplaceArguments(path="calc.py", old_str="a - b", new_str="a - b - 0")
"""What it puts there holds what it looks for: made twice, it would be there twice."""

Read = Callable[[], Awaitable[str]]


@pytest.fixture
async def sandbox(desk: Desk) -> AsyncIterator[Sandbox]:
    async with desk.sandbox(desk.base_tree) as sandbox:
        yield sandbox


@pytest.fixture
def read(sandbox: Sandbox) -> Read:
    async def read() -> str:
        return (await sandbox.read("/workspace/calc.py")).decode()

    return read


def context(sandbox: Sandbox, *, again: bool, before: str | None = CALC) -> ToolContext:
    async def held(path: str) -> str | None:
        return before

    return ToolContext(sandbox, "1-0", 60, again=again, before=held if again else None)


@pytest.mark.parametrize("tool", [StrReplace(), Edit()])
async def test_an_edit_that_was_made_is_not_made_a_second_time(tool: Any, sandbox: Sandbox, read: Read) -> None:
    first = await tool.run(AGAIN, context(sandbox, again=False))
    made = await read()
    assert await tool.run(AGAIN, context(sandbox, again=True)) == first
    assert await read() == made == CALC.replace("a - b", "a - b - 0")


async def test_an_edit_that_was_not_made_is_made(sandbox: Sandbox, read: Read) -> None:
    assert (await StrReplace().run(AGAIN, context(sandbox, again=True))).text == "[edited line 2]"
    assert await read() == CALC.replace("a - b", "a - b - 0")


@pytest.mark.parametrize("before", [None, CALC])
async def test_an_edit_of_a_file_that_something_else_changed_is_not_guessed_at(
    before: str | None, sandbox: Sandbox, read: Read
) -> None:
    await sandbox.write("/workspace/calc.py", b"# a job wrote this: a - b\n")
    assert _is_unknown(await StrReplace().run(AGAIN, context(sandbox, again=True, before=before)))
    assert await read() == "# a job wrote this: a - b\n"


async def test_a_whole_file_is_written_again(sandbox: Sandbox, read: Read) -> None:
    await Write().run(WriteArguments(path="calc.py", content="x = 1\n"), context(sandbox, again=True))
    assert await read() == "x = 1\n"


async def test_a_command_runs_once_and_says_the_same(sandbox: Sandbox) -> None:
    line = BashArguments(command="echo ran | tee -a log")
    first = await Bash().run(line, context(sandbox, again=False))
    assert await Bash().run(line, context(sandbox, again=True)) == first
    assert await sandbox.read("/workspace/log") == b"ran\n"


async def test_what_happens_outside_the_sandbox_is_not_asked_for_again(sandbox: Sandbox) -> None:
    class Servers:
        """Nobody may ask them."""

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    async def delegate(question: str, call_id: str) -> ToolResult:
        raise AssertionError(question)

    servers: Any = Servers()
    there = context(sandbox, again=True)
    assert _is_unknown(await McpCall(servers).run(McpCallArguments(server="tracker", tool="close"), there))
    asked = ToolContext(sandbox, "1-0", 60, delegate, again=True)
    assert _is_unknown(await Explore().run(ExploreArguments(question="where?"), asked))


async def test_the_loop_makes_a_call_again_only_in_the_sandbox_it_was_begun_in(desk: Desk) -> None:
    answers = (call("bash", command="echo ran >> log"), call("finish", summary="done"))
    await desk.work(turns(*answers), review=False)
    begun = list(desk.log.events)[: [event.type for event in desk.log.events].index("tool.intent") + 1]

    for known, said in ((("1-0",), "[exit code: 0]"), ((), "the worker was restarted")):
        log = MemoryLog(events=begun)
        await desk.work(turns(*answers), log=log, begun=known, review=False)
        first = next(event for event in log.events if event.type == "tool.completed")
        assert said in first.body["observation"]["text"]


def _is_unknown(result: ToolResult) -> bool:
    return result.error and "it is not known whether it was completed" in result.text
