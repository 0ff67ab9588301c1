"""Stops degenerate thinking and loops.

Endless thinking is this model family's main failure, so it is caught twice: inside one answer, while it is written,
and across steps. A monologue (answers without a call) needs no pattern here: three in a row are ``format_errors``.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from agent.trajectory import Step


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Where an answer or a sequence of steps counts as degenerate."""

    tail_chars: int = 6000
    """How much of the newest text is looked at: about 2,000 tokens."""
    long_tail_chars: int = 24_000
    """How much is looked at for loops that take long, or count: here all digits are equal. Whoever follows a program
    by hand counts too, but not for so long."""
    gram_chars: int = 20
    distinct_share: float = 0.2
    """Share of different grams below which a full tail repeats itself: everything was said five times. Loops that
    change a word here and there have 0.05 to 0.15; the most monotonous honest text that was tried, a JSON schema, 0.26
    (code and prose 0.4 and more)."""
    max_reasoning_chars: int = 60_000
    """About 20,000 tokens in one answer."""
    max_calls: int = 16
    """Tool calls in one answer."""
    same_calls: int = 4
    """Equal tool calls in one answer."""
    same_results: int = 4
    same_errors: int = 3
    alternation: int = 6
    """Steps that go back and forth between two."""
    rotations: tuple[int, ...] = (12, 24, 48)
    """So many steps are a loop where each of their calls, with its result, was made four times over, in any order."""
    max_drops: int = 3
    """So many steps in a row are taken out of the view, each sampled hotter than the one before, until a pattern that
    stays ends the run."""


class AnswerGuard:
    """Watches one answer while it is written (``agent.model.StreamGuard``)."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._begin()

    def watch(self, kind: str, text: str, index: int) -> str | None:
        """Why the answer must end now: ``repetition``, ``reasoning_cap``, ``call_cap`` or ``same_calls``.

        None while all is well.
        """
        match kind:
            case "restart":
                self._begin()
                return None
            case "tool_call":
                return self._watch_call(text, index)
            case _:
                return self._watch_text(kind, text)

    def _begin(self) -> None:
        self._tail = ""
        self._num_chars = self._reasoning_chars = 0
        self._calls: dict[int, list[str]] = {}
        """The arguments of each call, in pieces."""

    def _watch_call(self, text: str, index: int) -> str | None:
        if index >= self._settings.max_calls:
            return "call_cap"
        if index not in self._calls:  # so those before it are complete
            equal = Counter("".join(pieces) for pieces in self._calls.values())
            if max(equal.values(), default=0) >= self._settings.same_calls:
                return "same_calls"
        self._calls.setdefault(index, []).append(text)
        return None

    def _watch_text(self, kind: str, text: str) -> str | None:
        settings, before = self._settings, self._num_chars
        self._tail = (self._tail + text)[-settings.long_tail_chars :]
        self._num_chars += len(text)
        if kind == "reasoning":
            self._reasoning_chars += len(text)
        if self._reasoning_chars > settings.max_reasoning_chars:
            return "reasoning_cap"
        for size in (settings.tail_chars, settings.long_tail_chars):
            every = size // 10
            if self._num_chars >= size and before // every != self._num_chars // every:
                tail = self._tail[-size:]
                if self._repeats(_DIGIT.sub("0", tail) if size == settings.long_tail_chars else tail):
                    return "repetition"
        return None

    def _repeats(self, tail: str) -> bool:
        """Grams of characters, not of words: a loop need not have words, and any period counts."""
        return _distinct_share(tail, self._settings.gram_chars) < self._settings.distinct_share


def repetition(reasoning: str, settings: GuardSettings) -> float | None:
    """How much of the newest 24,000 characters of an answer's reasoning repeats itself, 0 to 1.

    1 - (different grams) / (all grams), of 20 characters each, at every place. Code and prose have up
    to 0.6; from 0.8 on the guard takes it for a loop. None below 400 characters, where it would say nothing.

    >>> repetition("Wait, let me think again. " * 100, GuardSettings())
    0.9899
    """
    tail = reasoning[-settings.long_tail_chars :]
    if len(tail) < _MIN_CHARS:
        return None
    return round(1 - _distinct_share(tail, settings.gram_chars), 4)


_MIN_CHARS = 400


def _distinct_share(text: str, size: int) -> float:
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    return len(set(grams)) / len(grams)


def looping(steps: Sequence[Step], settings: GuardSettings) -> str | None:
    """The pattern in which the newest steps go round: ``same_error``, ``same_result``, ``alternation``, ``rotation``.

    None where they do not.
    """
    going = (step for step in reversed(steps) if not step.dropped and step.intents)
    newest = list(islice(going, max(settings.rotations)))
    longest = max(settings.same_errors, settings.same_results, settings.alternation)
    seen = [_shape(step) for step in newest[:longest]][::-1]
    if _all_same(seen, settings.same_errors) and all(failed for _, _, failed in seen[-1]):
        return "same_error"
    if _all_same(seen, settings.same_results):
        return "same_result"
    if _alternates(seen, settings.alternation):
        return "alternation"
    windows = (newest[:count] for count in settings.rotations if len(newest) >= count)
    return "rotation" if any(map(_rotates, windows)) else None


_DIGIT = re.compile(r"\d")
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


def _rotates(steps: Sequence[Step]) -> bool:
    """Whether every call was made four times over, with the same result, whatever else came between."""
    calls = [(call.name, call.arguments) for step in steps if step.message for call in step.message.tool_calls]
    if len(set(calls)) * 4 > len(calls):
        return False  # before the long texts of results are looked at
    made = [call for step in steps for call in _shape(step)]
    return len(set(made)) * 4 <= len(made)
