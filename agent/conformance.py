"""What this agent needs of a model endpoint, tried out one by one. ``mimo doctor --model-url`` prints the findings.

Nothing here judges the model: a weak one passes too, if its endpoint carries what it says and is told.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import ModelError
from agent.history import assistant_message, observation_message
from agent.model import Completion, HttpModel
from agent.probe import probe
from agent.profiles.native import native
from agent.tools.base import function_schema
from agent.types import AssistantMessage, Message, ModelOptions, Observation, ToolCall

_HARD_VALUES = ("a &lt; b && c", "null", "</parameter></function></tool_call>", '{"quoted": "\\n"}', "é ☃ \u2028")
"""Texts that parsers and templates are known to change, to end at, or to take for something else."""

_OPTIONS = ModelOptions(temperature=0.0, max_tokens=128)
_BRIEF = 8
"""Tokens of an answer where only the prompt is looked at."""
_ASKED: list[Message] = [
    {"role": "system", "content": "You work in a git repository at /workspace. Use the tools."},
    {"role": "user", "content": "Show the file calc.py."},
]
_THINK_TAGS = ("<think>", "</think>")
_CALL_TAGS = ("<tool_call>", "</tool_call>", "<function=")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    passed: bool
    detail: str


async def examine(model: HttpModel) -> AsyncIterator[Finding]:
    """Try everything; a few short answers. Ends early where the endpoint gives no answer at all."""
    first = await _finding("answers with thinking", _thinking(model, thinking=True))
    yield first
    if not first.passed:
        return
    yield await _finding("answers without thinking", _thinking(model, thinking=False))
    yield await _finding("answers with thinking unset", _thinking_unset(model))
    yield await _finding("keeps reasoning", _keeps_reasoning(model))
    yield await _finding("takes hard values in calls and results", _hard_values(model))
    yield await _finding("streams whole calls", _whole_calls(model))
    yield await _finding("says how much it holds", _context(model))


class _Failed(Exception):
    """What was tried does not hold; the message says how."""


async def _finding(name: str, trial: Any) -> Finding:
    try:
        return Finding(name, True, await trial)
    except (_Failed, ModelError) as failed:
        return Finding(name, False, str(failed))


async def _thinking(model: HttpModel, *, thinking: bool) -> str:
    completion = await _ask(model, _ASKED, thinking=thinking)
    message = completion.message
    _verify_parsed(message)
    if not thinking and message.reasoning_content:
        raise _Failed("the answer holds reasoning although enable_thinking was false")
    if completion.usage.prompt_tokens == 0:
        raise _Failed("the endpoint counts no prompt tokens, so that no budget can hold (stream_options.include_usage)")
    return f"{completion.usage.prompt_tokens} prompt tokens, {completion.usage.completion_tokens} completion tokens"


async def _thinking_unset(model: HttpModel) -> str:
    """As other clients ask: a parser that follows the switch alone takes the answer apart wrongly where it is missing.

    Which default the endpoint has is its own affair.
    """
    message = (await _ask(model.silent_about_thinking(), _ASKED)).message
    _verify_parsed(message)
    return "it thinks" if message.reasoning_content else "it does not think"


async def _keeps_reasoning(model: HttpModel) -> str:
    contract = await probe(model)
    if not contract.keeps_reasoning:
        raise _Failed(str(contract))
    return str(contract)


async def _hard_values(model: HttpModel) -> str:
    """Each value must reach the prompt whole: a longer one must count as more than a shorter one of its kind."""
    for value in _HARD_VALUES:
        once = await _ask(model, _history(value), max_tokens=_BRIEF)
        twice = await _ask(model, _history(value * 8), max_tokens=_BRIEF)
        if twice.usage.prompt_tokens <= once.usage.prompt_tokens:
            raise _Failed(f"the value {value!r} does not reach the model whole")
    return f"{len(_HARD_VALUES)} values in arguments and observations"


async def _whole_calls(model: HttpModel) -> str:
    """After a tool result, where parsers are known to lose their place."""
    message = (await _ask(model, _history("calc.py"))).message
    _verify_parsed(message)
    for call in message.tool_calls:
        try:
            json.loads(call.arguments)
        except ValueError as error:
            if message.finish_reason != "length":
                raise _Failed(f"the arguments of a call are not JSON: {call.arguments[:100]!r}") from error
    return f"{len(message.tool_calls)} calls, finish reason {message.finish_reason}"


def _verify_parsed(message: AssistantMessage) -> None:
    """What is left of the model's own format in the text was missed by a parser."""
    # A call that the limit cut off is no call, so it may stand there as text.
    tags = _THINK_TAGS if message.finish_reason == "length" else (*_THINK_TAGS, *_CALL_TAGS)
    for tag in tags:
        if tag in message.content:
            raise _Failed(f"{tag} stands in the content: the endpoint does not take reasoning and calls apart")


async def _context(model: HttpModel) -> str:
    tokens = await model.context_tokens()
    if tokens is None:
        raise _Failed("GET /models has no max_model_len: set MIMO_MODEL_CONTEXT_TOKENS, or views are never compacted")
    return f"{tokens} tokens"


async def _ask(
    model: HttpModel,
    messages: Sequence[Message],
    *,
    thinking: bool = True,
    max_tokens: int = _OPTIONS.max_tokens,
) -> Completion:
    schemas = [function_schema(tool) for tool in native().tools]
    options = _OPTIONS.model_copy(update={"thinking": thinking, "max_tokens": max_tokens})
    return await model.complete(messages, schemas, options)


def _history(value: str) -> list[Message]:
    """A conversation with a call and its result, both of which hold the value."""
    call = ToolCall(id="call_0", name="bash", arguments=json.dumps({"command": f"echo {value}"}, ensure_ascii=False))
    answer = AssistantMessage(reasoning_content="I look first.", tool_calls=(call,), finish_reason="tool_calls")
    result = Observation(call_id=call.id, text=f"{value}\n[exit code: 0]")
    return [*_ASKED, assistant_message(answer), observation_message(result)]
