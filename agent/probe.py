"""Whether an endpoint keeps the model's reasoning: gateways, parsers and templates lose it without a word.

The same history of two turns with a tool call is sent twice, once with a paragraph in the reasoning. An endpoint that
counts as many prompt tokens for both has dropped it, and the model would work without what it thought.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.events import StepMessage, StepStarted, ToolCompleted
from agent.history import view
from agent.log import MemoryLog
from agent.model import Model
from agent.profiles.native import native
from agent.tools.base import function_schema
from agent.types import AssistantMessage, Message, ModelOptions, Observation, ToolCall, Usage

_MARKER = "The file calc.py holds the function, so it is read first; the test names what it must return. " * 4
_TURNS = (("bash", '{"command": "cat calc.py"}', "1"), ("bash", '{"command": "ls"}', "calc.py"))
_OPTIONS = ModelOptions(temperature=0.0, max_tokens=16)


@dataclass(frozen=True, slots=True)
class Contract:
    """What two calls showed."""

    tokens_with: int
    """Prompt tokens with the paragraph in the reasoning."""
    tokens_without: int

    @property
    def keeps_reasoning(self) -> bool:
        return self.tokens_with > self.tokens_without

    def __str__(self) -> str:
        if self.tokens_with == self.tokens_without == 0:
            return "the endpoint does not count prompt tokens, so nobody can tell whether reasoning reaches the model"
        if self.keeps_reasoning:
            return f"reasoning reaches the model ({self.tokens_without} prompt tokens without, {self.tokens_with} with)"
        return (
            f"the endpoint drops reasoning_content ({self.tokens_with} prompt tokens with it and without): "
            "send requests to the model server itself, have the gateway pass the field on, or set "
            "MIMO_MODEL_REASONING_FIELD=reasoning where the endpoint knows it by that name"
        )


async def probe(model: Model, name: str | None = None) -> Contract:
    """Ask twice, for a few tokens each.

    Args:
        name: the served model; None takes the model's default.

    Raises:
        ModelError: no answer could be had.
    """
    options = _OPTIONS.model_copy(update={"name": name})
    schemas = [function_schema(tool) for tool in native().tools]
    counts = []
    for reasoning in (_MARKER, ""):
        completion = await model.complete(await _history(reasoning), schemas, options)
        counts.append(completion.usage.prompt_tokens)
    return Contract(*counts)


async def _history(reasoning: str) -> Sequence[Message]:
    """Made by the one serializer, so that what is proved is what runs send."""
    log = MemoryLog()
    for number, (tool, arguments, output) in enumerate(_TURNS, start=1):
        call = ToolCall(id=f"call_{number}", name=tool, arguments=arguments)
        message = AssistantMessage(reasoning_content=reasoning, tool_calls=(call,), finish_reason="tool_calls")
        answer = StepMessage(
            step=number, message=message, usage=Usage(), duration_s=0.0, temperature=0.0, thinking=bool(reasoning)
        )
        observation = Observation(call_id=call.id, text=f"{output}\n[exit code: 0]")
        result = ToolCompleted(step=number, intent_id=None, observation=observation)
        await log.append("step.started", StepStarted(step=number).model_dump(mode="json"))
        await log.append("step.message", answer.model_dump(mode="json"))
        await log.append("tool.completed", result.model_dump(mode="json"))
    return view("You work in a git repository.", "add() subtracts", log.events)
