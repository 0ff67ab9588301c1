"""Guesses the next tokens of a sequence from its own past.

An agent's answers repeat what it has read: code, names, paths. Where the newest tokens stood before, what followed
them then is a guess that costs no arithmetic (prompt lookup decoding; SGLang and vLLM call it n-gram speculation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

_MATCHED = 4
"""Tokens that must have stood together before: shorter runs recur by chance."""
_LONG = 8
"""After so many, what follows is more often the same again."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The newest tokens stood before; ``next`` is the position after that, and ``is_long`` says whether many did."""

    next: int
    is_long: bool


class Lookup:
    """An index of one sequence's runs of tokens; grows with it."""

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}
        """Run of tokens -> position after its newest occurrence but the very last."""
        self._num_indexed = 0

    def find(self, ids: Sequence[int]) -> Recurrence | None:
        """Where the newest tokens of ``ids``, which extends what was given last time, stood before."""
        self._index(ids)
        end = self._follows.get(tuple(ids[-_MATCHED:]))
        if end is None:
            return None
        return Recurrence(end, is_long=end >= _LONG and ids[end - _LONG : end] == ids[-_LONG:])

    def _index(self, ids: Sequence[int]) -> None:
        """Everything but the newest run, which would find itself."""
        for end in range(max(self._num_indexed, _MATCHED), len(ids)):
            self._follows[tuple(ids[end - _MATCHED : end])] = end
        self._num_indexed = len(ids)
