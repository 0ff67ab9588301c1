"""What is measured of every answer, and an endpoint that no longer finds what it read before."""

import json
from collections.abc import Collection, Sequence
from itertools import pairwise, takewhile
from typing import Any

import pytest

from agent.config import ModelSettings
from agent.model import Completion, open_model
from agent.testing import Garbage, ScriptedEndpoint, call, in_order
from agent.types import AssistantMessage, Message, ModelOptions, StopReason, Usage
from tests.integration.agent_core.conftest import Desk
from tests.integration.agent_core.test_compaction import CONTEXT, Counting, show
from tests.integration.agent_core.test_loop import FINISH, FIX

pytestmark = pytest.mark.anyio

LONG_ENOUGH = 2000
"""Characters of an output that make a prompt worth caching."""


class Caching(Counting):
    """Has every prompt it read in its cache; but as of the named calls, from 1, it has forgotten all."""

    def __init__(self, *answers: AssistantMessage, forgets: Collection[int] = ()) -> None:
        super().__init__(*answers)
        self._forgets = forgets
        self._read: list[str] = []

    async def complete(self, messages: Sequence[Message], *rest: Any) -> Completion:
        completion = await super().complete(messages, *rest)
        if len(self.requests) in self._forgets:
            self._read.clear()
        prompt = json.dumps(list(messages))
        found = max((_common(prompt, read) for read in self._read), default=0)
        self._read.append(prompt)
        thoughts = len(completion.message.reasoning_content or "")
        usage = Usage(prompt_tokens=len(prompt), cached_tokens=found, reasoning_tokens=thoughts)
        return Completion(completion.message, usage, 0.0, completion.aborted)


def _common(one: str, other: str) -> int:
    """Characters that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def bodies(desk: Desk, kind: str) -> list[dict[str, Any]]:
    return [event.body for event in desk.log.events if event.type == kind]


async def test_every_answer_says_how_much_was_thought_repeated_and_cached(desk: Desk) -> None:
    model = Caching(
        show(1, LONG_ENOUGH),
        call("bash", command="ls", reasoning="Wait, let me think again. " * 40),
        FIX,
        FINISH,
    )
    assert await desk.work(model) is StopReason.FINISHED

    first, second, *_ = bodies(desk, "step.message")
    assert (first["usage"]["reasoning_tokens"], first["repetition"], first["cached_share"]) == (9, None, 0.0)
    assert second["usage"]["reasoning_tokens"] == 1040
    assert second["repetition"] > 0.9
    assert 0 < second["cached_share"] < 0.5
    assert bodies(desk, "cache.fell") == []


async def test_what_the_endpoint_says_of_an_answer_is_in_its_event(desk: Desk) -> None:
    said = {"index": 0, "id": "1", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    chunk = {
        "choices": [{"delta": {"reasoning_content": "Let me see.", "tool_calls": [said]}, "finish_reason": "stop"}],
        "mimo": {"flags": ["tool_call_in_reasoning"], "segment": 0},
    }
    flagged = Garbage(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")
    with ScriptedEndpoint(in_order(FIX, FINISH), faults=[flagged]).running() as url:
        async with open_model(ModelSettings(url=url)) as model:
            assert await desk.work(model) is StopReason.FINISHED

    assert [body["flags"] for body in bodies(desk, "step.message")] == [["tool_call_in_reasoning"], [], []]


async def test_a_cache_that_suddenly_misses_is_noted_once_in_a_run(desk: Desk) -> None:
    answers = [show(number, LONG_ENOUGH) for number in range(6)]
    assert await desk.work(Caching(*answers, FIX, FINISH, forgets=(4, 6))) is StopReason.FINISHED

    (fell,) = bodies(desk, "cache.fell")
    assert (fell["step"], fell["cached_tokens"]) == (4, 0)
    assert fell["cached_before"] == bodies(desk, "step.message")[2]["usage"]["cached_tokens"] > LONG_ENOUGH


async def test_a_view_that_was_compacted_explains_what_is_missing(desk: Desk) -> None:
    model = Caching(*[show(number) for number in range(8)], FIX, FINISH)
    assert await desk.work(model, context_tokens=CONTEXT, options=ModelOptions(max_tokens=2000)) is StopReason.FINISHED

    assert bodies(desk, "view.compacted") != []
    found = [body["usage"]["cached_tokens"] for body in bodies(desk, "step.message")]
    assert any(later < earlier / 2 for earlier, later in pairwise(found))
    assert bodies(desk, "cache.fell") == []


async def test_thinking_that_was_turned_on_explains_what_is_missing(desk: Desk) -> None:
    answers = [show(1, LONG_ENOUGH), show(2, LONG_ENOUGH), call("bash", command="false"), FIX, FINISH]
    options = ModelOptions(thinking="auto")
    assert await desk.work(Caching(*answers, forgets=(4,)), options=options) is StopReason.FINISHED

    assert [body["thinking"] for body in bodies(desk, "step.message")] == [False, False, False, True, True]
    assert bodies(desk, "cache.fell") == []
