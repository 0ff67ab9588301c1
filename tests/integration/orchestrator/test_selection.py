"""Which of several attempts is the result where the task's own checks do not tell."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agent.errors import ModelError
from agent.orchestrator.worker import Worker
from agent.store.base import TaskRecord
from agent.store.sql import SqlStore
from agent.testing import Script, ScriptedModel, call
from agent.types import AssistantMessage, Event, Message, TaskRequest
from tests.integration.orchestrator.conftest import users

pytestmark = pytest.mark.anyio

TEST = "```sh\npython -c 'import calc; assert calc.add(1, 2) == 3'\n```"
WRONG, RIGHT, OTHER = "b - a", "a + b", "b + a"


def says(repairs: Sequence[str], test: str = TEST, preferred: str | None = None) -> Script:
    """Each attempt repairs in its way; a test, and the attempt that the judge prefers, are said when asked for."""
    begun = 0

    def answer(messages: Sequence[Message]) -> AssistantMessage:
        nonlocal begun
        if messages[0]["content"].startswith("You write one test"):
            assert "calc.py" in messages[1]["content"]
            return AssistantMessage(content=test)
        if messages[0]["content"].startswith("Several patches"):
            if preferred is None:
                raise ModelError("the judge is away", retryable=False)
            return AssistantMessage(content=f"Of {len(re.findall('Patch', messages[1]['content']))}:\n{preferred}")
        said: int = sum(message["role"] == "assistant" for message in messages)
        begun += said == 0
        # The first one needs the fewest steps, so that the last rule would select it.
        idle = [call("bash", command="true")] * (begun - 1)
        edit = call("str_replace", path="calc.py", old_str="a - b", new_str=repairs[begun - 1])
        turns = [*idle, edit, call("finish", summary="done")]
        return turns[said]

    return answer


async def ended(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    script: Script,
    attempts: int,
) -> tuple[TaskRecord, list[Event]]:
    task = await users(store).submit(make_request(checks=(), attempts=attempts))
    await make_worker(script=script).drain()
    found = await users(store).events(task.id, types=["reproduction.written", "attempts.judged"])
    return await users(store).get(task.id), list(found)


@pytest.fixture
def make(store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest]) -> Any:
    return lambda script, attempts=2: ended(store, make_worker, make_request, script, attempts)


async def test_patch_that_passes_a_test_of_the_problem_wins(make: Any) -> None:
    task, found = await make(says((WRONG, RIGHT)))

    assert [run.verdict.reproduced for run in task.runs] == [False, True]
    assert task.selected == task.runs[1]
    assert [event.type for event in found] == ["reproduction.written"]


async def test_patch_that_two_attempts_came_to_wins(make: Any) -> None:
    task, _ = await make(says((OTHER, RIGHT, RIGHT)), 3)

    assert task.selected == task.runs[1]


async def test_judge_decides_between_patches_that_are_equal_so_far(make: Any) -> None:
    task, found = await make(says((RIGHT, OTHER), preferred="2"))

    assert task.selected == task.runs[1]
    assert found[-1].body | {"usage": None} == {"among": [1, 2], "attempt": 2, "reason": "Of 2:\n2", "usage": None}


@pytest.mark.parametrize("preferred", ["7", "neither", None])
async def test_fewer_steps_win_where_the_judge_names_none(make: Any, preferred: str | None) -> None:
    task, found = await make(says((RIGHT, OTHER), preferred=preferred))

    assert task.selected == task.runs[0]
    assert found[-1].body["attempt"] is None


@pytest.mark.parametrize("test", ["```sh\ntrue\n```", "I cannot.", "```\n\n```"])
async def test_test_that_shows_nothing_does_not_count(make: Any, test: str) -> None:
    task, found = await make(says((WRONG, RIGHT), test, preferred="1"))

    assert [run.verdict.reproduced for run in task.runs] == [None, None]
    assert found[0].body["check"] is None
    assert found[0].body["detail"]


async def test_what_comparing_attempts_costs_is_counted(
    store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest]
) -> None:
    model = ScriptedModel(says((RIGHT, OTHER), preferred="2"))
    task = await users(store).submit(make_request(checks=(), attempts=2))
    await make_worker(model=model).drain()

    runs = (await users(store).get(task.id)).runs
    asked = len(model.requests)
    assert asked == sum(run.steps for run in runs) + 2
    assert sum(run.usage.prompt_tokens for run in runs) == 100 * asked
    assert sum(run.usage.completion_tokens for run in runs) == 10 * asked


async def test_one_attempt_is_compared_with_nothing(make: Any) -> None:
    task, found = await make(says((RIGHT,)), 1)

    assert (task.selected, found) == (task.runs[0], [])
