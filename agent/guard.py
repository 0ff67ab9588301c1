"""Stops degenerate thinking and loops.

Endless thinking is this model family's main failure, so it is caught twice: inside one answer, while it is written,
and across steps. A monologue (answers without a call) needs no pattern here: three in a row are ``format_errors``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from agent.trajectory import Step


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Where an answer or a sequence of steps counts as degenerate."""

    tail_chars: int = 6000
    """How much of the newest text is looked at: about 2,000 tokens."""
    gram_chars: int = 40
    distinct_share: float = 0.25
    """Share of different grams below which a full tail repeats itself: everything was said four times."""
    max_reasoning_chars: int = 60_000
    """About 20,000 tokens in one answer."""
    max_calls: int = 16
    """Tool calls in one answer."""
    same_results: int = 4
    same_errors: int = 3
    alternation: int = 6
    """Steps that go back and forth between two."""
    rotation: int = 12
    """So many steps that hold nothing but ``rotating`` different ones in any order are a loop."""
    rotating: int = 3
    max_drops: int = 3
    """So many steps in a row are taken out of the view, each sampled hotter than the one before, until a pattern that
    stays ends the run."""


class AnswerGuard:
    """Watches one answer while it is written (``agent.model.StreamGuard``)."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._tail = ""
        self._unchecked = 0
        """Characters since the tail was last looked through."""
        self._reasoning_chars = 0

    def watch(self, kind: str, text: str, index: int) -> str | None:
        """Why the answer must end now: ``repetition``, ``reasoning_cap`` or ``call_cap``; None while all is well."""
        match kind:
            case "restart":
                self._tail = ""
                self._unchecked = self._reasoning_chars = 0
                return None
            case "tool_call":
                return "call_cap" if index >= self._settings.max_calls else None
            case _:
                return self._watch_text(kind, text)

    def _watch_text(self, kind: str, text: str) -> str | None:
        self._tail = (self._tail + text)[-self._settings.tail_chars :]
        self._unchecked += len(text)
        if kind == "reasoning":
            self._reasoning_chars += len(text)
        if self._reasoning_chars > self._settings.max_reasoning_chars:
            return "reasoning_cap"
        if len(self._tail) == self._settings.tail_chars and self._unchecked >= self._settings.tail_chars // 10:
            self._unchecked = 0
            return "repetition" if self._repeats() else None
        return None

    def _repeats(self) -> bool:
        """Grams of characters, not of words: a loop need not have words, and any period counts."""
        size = self._settings.gram_chars
        grams = [self._tail[i : i + size] for i in range(len(self._tail) - size + 1)]
        return len(set(grams)) < self._settings.distinct_share * len(grams)


def looping(steps: Sequence[Step], settings: GuardSettings) -> str | None:
    """The pattern in which the newest steps go round: ``same_error``, ``same_result``, ``alternation``, ``rotation``.

    None where they do not.
    """
    longest = max(settings.same_errors, settings.same_results, settings.alternation, settings.rotation)
    newest_first = (step for step in reversed(steps) if not step.dropped and step.intents)
    seen = [_shape(step) for step in islice(newest_first, longest)][::-1]
    if _all_same(seen, settings.same_errors) and all(failed for _, _, failed in seen[-1]):
        return "same_error"
    if _all_same(seen, settings.same_results):
        return "same_result"
    if _alternates(seen, settings.alternation):
        return "alternation"
    newest = seen[-settings.rotation :]
    return "rotation" if len(newest) == settings.rotation and len(set(newest)) <= settings.rotating else None


_DECIMAL = re.compile(r"\d+\.\d+")
"""Test runners print how long they took: the same result in another time is the same result."""

_Shape = tuple[tuple[tuple[str, str], str, bool], ...]
"""Per call: name and arguments, what came back, and whether it failed."""


def _shape(step: Step) -> _Shape:
    calls = step.message.tool_calls if step.message else ()
    observations = [result.observation for result in step.results]
    return tuple(
        ((call.name, call.arguments), _DECIMAL.sub("#", seen.text), seen.error)
        for call, seen in zip(calls, observations, strict=False)
    )


def _all_same(shapes: Sequence[_Shape], count: int) -> bool:
    return len(shapes) >= count and len(set(shapes[-count:])) == 1


def _alternates(shapes: Sequence[_Shape], count: int) -> bool:
    newest = shapes[-count:]
    return len(newest) == count and len(set(newest[::2])) == len(set(newest[1::2])) == 1 and newest[0] != newest[1]
