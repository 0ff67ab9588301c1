"""How the next answer is sampled, and what is kept of one that the user cut off."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from agent.model import Completion, Delta
from agent.trajectory import Step
from agent.types import AssistantMessage, ModelOptions, Usage

INTERRUPTED = "interrupted"
"""Why an answer ended that the user did not let end."""

_HOTTER = 0.3
"""What sampling again adds to the temperature, once more for each step in a row that was dropped."""

REMEDIES: tuple[Literal["hotter", "thinking_off", "stop"], ...] = ("hotter", "thinking_off", "stop")
"""What follows the first, the second and the third degenerate answer of a step."""


class Written:
    """As much of an answer as there is yet."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []

    def add(self, delta: Delta) -> None:
        if delta.kind == "restart":
            self._deltas.clear()
        else:
            self._deltas.append(delta)

    def completion(self, duration_s: float) -> Completion:
        """Without the calls, of which the last may be half of one; tokens are counted as pieces."""
        reasoning, content = (
            "".join(delta.text for delta in self._deltas if delta.kind == kind) for kind in ("reasoning", "content")
        )
        message = AssistantMessage(content=content, reasoning_content=reasoning)
        return Completion(message, Usage(completion_tokens=len(self._deltas)), duration_s, INTERRUPTED)


def sampling(asked: ModelOptions, *, thinking: bool, num_aborts: int, num_drops: int, num_answers: int) -> ModelOptions:
    """How to sample: as asked, but hotter after something went wrong, at last without thinking."""
    heat = _HOTTER * max(num_drops, min(num_aborts, 1))
    return asked.model_copy(
        update={
            "temperature": min(asked.temperature + heat, 2.0),
            "thinking": thinking,
            # The same seed would give the same answer again.
            "seed": None if asked.seed is None else asked.seed + num_answers,
        }
    )


def num_drops(done: Sequence[Step]) -> int:
    """How many steps in a row, just before the newest, were taken out of the view."""
    return sum(1 for _ in takewhile(lambda step: step.dropped, reversed(done[:-1])))


def says_nothing(message: AssistantMessage) -> bool:
    """Reasoning alone is no answer, unless the token limit explains it."""
    return not message.tool_calls and not message.content.strip() and message.finish_reason != "length"


def thinks(asked: ModelOptions, done: Sequence[Step]) -> bool:
    """``auto`` turns once, from off to on: the reasoning of steps before is empty then, so the view stays whole."""
    if asked.thinking != "auto":
        return asked.thinking
    return any(result.observation.error for step in done for result in step.results)
