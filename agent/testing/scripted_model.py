"""A model that answers what a test wrote down."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from agent.errors import ModelError
from agent.model import Completion, Delta, StreamGuard
from agent.types import AssistantMessage, Message, ModelOptions, ToolCall, Usage

Script = Callable[[Sequence[Message]], AssistantMessage]
"""The answer to a conversation."""


def call(name: str, reasoning: str | None = "", **arguments: Any) -> AssistantMessage:
    """An answer with one tool call: ``call("bash", command="ls")``."""
    tool_call = ToolCall(id=f"call_{name}", name=name, arguments=json.dumps(arguments))
    return AssistantMessage(reasoning_content=reasoning, tool_calls=(tool_call,), finish_reason="tool_calls")


def turns(*answers: AssistantMessage) -> Script:
    """Answer by the number of assistant messages already said: the same conversation has the same answer always."""

    def answer(messages: Sequence[Message]) -> AssistantMessage:
        return _pick(answers, sum(message["role"] == "assistant" for message in messages))

    return answer


def in_order(*answers: AssistantMessage) -> Script:
    """Answer the first call with the first answer, and so on, whatever the conversation."""
    asked = 0

    def answer(messages: Sequence[Message]) -> AssistantMessage:
        nonlocal asked
        asked += 1
        return _pick(answers, asked - 1)

    return answer


class ScriptedModel:
    """Implements ``agent.model.Model``. ``requests`` holds the messages and options of every call, in order."""

    def __init__(self, script: Script, usage: Usage | None = None) -> None:
        self._script = script
        self._usage = usage or Usage(prompt_tokens=100, completion_tokens=10)
        self.requests: list[tuple[list[Message], ModelOptions]] = []

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        self.requests.append((list(messages), options))
        message = self._script(messages)
        for delta in _deltas(message):
            if on_delta:
                on_delta(delta)
            if watch and (reason := watch.watch(delta.kind, delta.text, delta.index)):
                return Completion(message, self._usage, 0.0, aborted=reason)
        return Completion(message, self._usage, 0.0)


def _pick(answers: Sequence[AssistantMessage], index: int) -> AssistantMessage:
    if index >= len(answers):
        raise ModelError(f"the script has {len(answers)} answers and was asked for one more", retryable=False)
    return answers[index]


def _deltas(message: AssistantMessage) -> list[Delta]:
    deltas = [Delta("reasoning", message.reasoning_content)] if message.reasoning_content else []
    if message.content:
        deltas.append(Delta("content", message.content))
    deltas.extend(Delta("tool_call", c.arguments, index) for index, c in enumerate(message.tool_calls))
    return deltas
