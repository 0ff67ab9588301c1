"""Whether an endpoint still finds in its cache what it read before.

A view only grows, so each prompt begins with the one before it. Where much less of it is found than the last time, the
endpoint writes the same messages in other tokens now (a new template, lost reasoning), or has forgotten them.
"""

from collections.abc import Sequence

from agent.events import CacheFell, StepMessage
from agent.types import Event

_MIN_TOKENS = 1024
"""Less in the cache is no matter, and may be what other conversations have in common with this one."""
_FALLEN = 0.5
"""Share of the tokens found before, below which the cache fell."""

_EXPLAINING = frozenset({"run.resumed", "run.rewound", "view.compacted"})
"""The prompt is another one, or it was so long ago that it may be forgotten."""


def fall(events: Sequence[Event], answer: StepMessage) -> CacheFell | None:
    """What to note about an answer before it is recorded, once in a run; None where all is well or explained.

    Args:
        events: the run's, all that were recorded before the answer was asked for.
    """
    before = _comparable(events, answer)
    if before is None or before.usage.cached_tokens < _MIN_TOKENS:
        return None
    found, expected = answer.usage.cached_tokens, before.usage.cached_tokens
    if answer.usage.prompt_tokens == 0 or found >= expected * _FALLEN:
        return None
    if any(event.type == "cache.fell" for event in events):
        return None
    return CacheFell(step=answer.step, cached_tokens=found, cached_before=expected)


def _comparable(events: Sequence[Event], answer: StepMessage) -> StepMessage | None:
    """The newest answer whose prompt this answer's begins with, and that was counted."""
    for event in reversed(events):
        if event.type in _EXPLAINING or (event.type == "guard.tripped" and event.body["action"] == "drop"):
            return None
        if event.type == "step.message":
            before = StepMessage.model_validate(event.body)
            if before.thinking != answer.thinking:
                return None
            if before.usage.prompt_tokens:
                return before
    return None
