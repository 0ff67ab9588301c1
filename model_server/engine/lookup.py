"""Guesses the next tokens of a sequence from its own past.

An agent's answers repeat what it has read: code, names, paths. Where the newest tokens stood before, what followed
them then is a guess that costs no arithmetic (prompt lookup decoding; SGLang and vLLM call it n-gram speculation).
"""

from collections.abc import Sequence

_MATCHED = 4
"""Tokens that must have stood together before: shorter runs recur by chance."""


class Lookup:
    """An index of one sequence's runs of tokens; grows with it."""

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}
        """Run of tokens -> position after its newest occurrence but the very last."""
        self._num_indexed = 0

    def guess(self, ids: Sequence[int], longest: int) -> list[int]:
        """At most ``longest`` tokens that may follow ``ids``, which extends what was given last time."""
        self._index(ids)
        start = self._follows.get(tuple(ids[-_MATCHED:]))
        return [] if start is None else list(ids[start : start + longest])

    def _index(self, ids: Sequence[int]) -> None:
        """Everything but the newest run, which would find itself."""
        for end in range(max(self._num_indexed, _MATCHED), len(ids)):
            self._follows[tuple(ids[end - _MATCHED : end])] = end
        self._num_indexed = len(ids)
