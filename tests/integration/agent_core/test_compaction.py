"""A context that fills up: notes, views that are rebuilt from them, and an end where that does not help."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from agent.history import view
from agent.model import Completion
from agent.testing import ScriptedModel, call
from agent.trajectory import steps
from agent.types import AssistantMessage, Message, ModelOptions, StopReason, Usage
from tests.integration.agent_core.conftest import Desk
from tests.integration.agent_core.test_loop import FINISH, FIX

pytestmark = pytest.mark.anyio

CONTEXT = 40_000


class Counting(ScriptedModel):
    """Counts a prompt's tokens as its characters, and writes a note where it is asked for one."""

    def __init__(self, *answers: AssistantMessage) -> None:
        super().__init__(self._next)
        self._answers = list(answers)
        self.notes: list[list[Message]] = []

    def _next(self, messages: Sequence[Message]) -> AssistantMessage:
        if messages[-1]["role"] == "user" and "Write a note for yourself" in messages[-1]["content"]:
            self.notes.append(list(messages))
            return AssistantMessage(content=f"Note {len(self.notes)}.", finish_reason="stop")
        return self._answers.pop(0)

    async def complete(self, messages: Sequence[Message], *rest: Any) -> Completion:
        completion = await super().complete(messages, *rest)
        size = sum(len(message["content"]) for message in messages)
        return Completion(completion.message, Usage(prompt_tokens=size), 0.0, completion.aborted)


def show(number: int, size: int = 6000) -> AssistantMessage:
    """A call whose observation has about so many characters."""
    command = f"head -c {size} /dev/zero | tr '\\0' {number}"
    return call("bash", command=command, reasoning=f"thought {number}")


async def test_notes_are_written_early_and_the_view_is_rebuilt_from_the_newest(desk: Desk) -> None:
    model = Counting(*[show(i) for i in range(8)], FIX, FINISH)
    options = ModelOptions(max_tokens=2000)
    desk.say("message.added", message_id="m1", text="Keep the name.", delivery="steer")
    assert await desk.work(model, context_tokens=CONTEXT, options=options) is StopReason.FINISHED
    kinds = [event.type for event in desk.log.events]
    assert kinds.count("view.compacted") == 1
    assert kinds.index("note.written") < kinds.index("view.compacted")
    assert all(
        message["reasoning_content"] == "" for note in model.notes for message in note if message["role"] == "assistant"
    )
    last = model.requests[-1][0]
    assert "add() subtracts\n\nKeep the name.\n\n" in last[1]["content"]
    assert last[1]["content"].endswith("Note 3.")
    assert sum(len(message["content"]) for message in last) < CONTEXT * 0.85
    assert len(steps(desk.log.events)) == 10


async def test_the_view_after_a_compaction_grows_as_before(desk: Desk) -> None:
    model = Counting(*[show(i) for i in range(8)], FIX, FINISH)
    await desk.work(model, context_tokens=CONTEXT, options=ModelOptions(max_tokens=2000))
    asked = [messages for messages, _ in model.requests if messages not in model.notes]
    shrunk = [later[: len(earlier)] != earlier for earlier, later in pairwise(asked)]
    assert shrunk.count(True) == 1
    assert view("S", "P", desk.log.events)[1]["content"].startswith("P\n\n")


async def test_a_view_that_cannot_shrink_ends_the_run_and_is_not_compacted_again_and_again(desk: Desk) -> None:
    class Bloated(Counting):
        async def complete(self, messages: Sequence[Message], *rest: Any) -> Completion:
            completion = await super().complete(messages, *rest)
            return Completion(completion.message, Usage(prompt_tokens=CONTEXT - 10), 0.0)

    model = Bloated(*[show(i) for i in range(8)])
    assert await desk.work(model, context_tokens=CONTEXT) is StopReason.CONTEXT_EXHAUSTED
    assert "view.compacted" not in [event.type for event in desk.log.events]


async def test_nothing_is_noted_where_the_context_is_not_known(desk: Desk) -> None:
    model = Counting(*[show(i) for i in range(8)], FIX, FINISH)
    assert await desk.work(model) is StopReason.FINISHED
    assert model.notes == []
