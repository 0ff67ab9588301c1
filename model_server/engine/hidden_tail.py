"""The main model's hidden states of a sequence's newest tokens: what the prediction layers read.

They go where the sequence's keys and values go. So who begins behind a cached prefix, or guesses again after a pause,
has what a sequence has that computed and guessed everything itself.
"""

from collections import deque
from typing import NamedTuple

from torch import Tensor

_SMALL = 16
"""Rows that need not be copied out of a step's output, which stays in memory for them."""


class _Part(NamedTuple):
    """Rows [first, end) of a step's output, cut out when they are read: most never are."""

    output: Tensor
    first: int
    end: int

    @property
    def num_rows(self) -> int:
        return self.end - self.first

    def rows(self) -> Tensor:
        return self.output[self.first : self.end]


class HiddenTail:
    """Hidden states of the ``most`` newest positions before :attr:`end`, or of fewer where fewer are known."""

    def __init__(self, most: int, end: int = 0) -> None:
        """With ``most`` 0 nothing is kept."""
        self._most = most
        self.end = end
        self._parts: deque[_Part] = deque()
        """As they came: the first may begin too early."""
        self._num_rows = 0

    @property
    def first(self) -> int:
        """The oldest position known; :attr:`end` if none is."""
        return self.end - min(self._num_rows, self._most)

    def add(self, hidden: Tensor, first: int, end: int) -> None:
        """Take in the hidden states of the next tokens, rows ``first`` to ``end`` - 1 of ``hidden`` [R, C]."""
        count = end - first
        self.end += count
        if not self._most:
            return
        if count > _SMALL:
            hidden = hidden[max(first, end - self._most) : end].clone()
            first, end = 0, min(count, self._most)
        self._parts.append(_Part(hidden, first, end))
        self._num_rows += end - first
        while self._num_rows - self._parts[0].num_rows >= self._most:
            self._num_rows -= self._parts.popleft().num_rows

    def since(self, position: int) -> list[Tensor]:
        """Hidden states of the positions from there on, which is not before :attr:`first`, in parts."""
        assert self.first <= position < self.end, (self.first, position, self.end)
        parts: list[Tensor] = []
        missing = self.end - position
        for part in reversed(self._parts):
            parts.append(part.rows()[-missing:])
            missing -= part.num_rows
            if missing <= 0:
                break
        return parts[::-1]

    def until(self, end: int) -> "HiddenTail":
        """A copy as of an earlier position, or of this one."""
        copy = HiddenTail(self._most, end)
        surplus = self.end - end
        copy._parts, copy._num_rows = self._parts.copy(), max(self._num_rows - surplus, 0)
        while surplus and copy._parts:
            part = copy._parts.pop()
            if part.num_rows > surplus:
                copy._parts.append(part._replace(end=part.end - surplus))
            surplus = max(surplus - part.num_rows, 0)
        return copy
