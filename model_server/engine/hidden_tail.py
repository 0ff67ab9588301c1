"""The main model's hidden states of a sequence's newest tokens: what the prediction layers read.

They go where the sequence's keys and values go. So who begins behind a cached prefix, or guesses again after a pause,
has what a sequence has that computed and guessed everything itself.
"""

from collections import deque

from torch import Tensor

_SMALL = 16
"""Rows that need not be copied out of a step's output, which stays in memory for them."""


class HiddenTail:
    """Hidden states of the ``most`` newest positions before :attr:`end`, or of fewer where fewer are known."""

    def __init__(self, most: int, end: int = 0) -> None:
        """With ``most`` 0 nothing is kept."""
        self._most = most
        self.end = end
        self._parts: deque[Tensor] = deque()
        """As they came, for they are seldom read: the first may begin too early."""
        self._num_rows = 0

    @property
    def first(self) -> int:
        """The oldest position known; :attr:`end` if none is."""
        return self.end - min(self._num_rows, self._most)

    def add(self, hidden: Tensor, first: int, end: int) -> None:
        """Take in the hidden states of the next tokens, rows ``first`` to ``end`` - 1 of ``hidden`` [R, C]."""
        self.end += end - first
        if not self._most:
            return
        hidden = hidden[first:end]
        if len(hidden) > _SMALL:
            hidden = hidden[-self._most :].clone()
        self._parts.append(hidden)
        self._num_rows += len(hidden)
        while self._num_rows - len(self._parts[0]) >= self._most:
            self._num_rows -= len(self._parts.popleft())

    def since(self, position: int) -> list[Tensor]:
        """Hidden states of the positions from there on, which is not before :attr:`first`, in parts."""
        assert self.first <= position < self.end, (self.first, position, self.end)
        parts: list[Tensor] = []
        first = self.end
        for part in reversed(self._parts):
            first -= len(part)
            if first <= position:
                parts.append(part[position - first :])
                break
            parts.append(part)
        return parts[::-1]

    def until(self, end: int) -> "HiddenTail":
        """A copy as of an earlier position, or of this one."""
        copy = HiddenTail(self._most, end)
        surplus = self.end - end
        copy._parts, copy._num_rows = self._parts.copy(), max(self._num_rows - surplus, 0)
        while surplus and copy._parts:
            part = copy._parts.pop()
            if len(part) > surplus:
                copy._parts.append(part[:-surplus])
            surplus = max(surplus - len(part), 0)
        return copy
