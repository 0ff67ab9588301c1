"""How many tokens to draft: as many as pay, none where none do.

A draft costs time in every step and wins a token when it is accepted. Both are measured while the engine runs: how
often the draft at each place is accepted once those before it were, and how long steps of each draft length take at
each batch size. The length with the most tokens per second is chosen; the others are tried now and then, because both
change with what is generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_TRIES = 3
"""Measurements of a length before it is judged."""
_PROBE_EVERY = 64
"""Steps between two tries of another length."""
_FORGET = 0.05
"""Weight of the newest measurement in a running mean."""
_MARGIN = 1.03
"""A longer draft must promise this much more: the measurements are noisy, and no draft is the safe choice."""


@dataclass(slots=True)
class _Mean:
    """A running mean that forgets."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(_FORGET, 1 / self.count)


@dataclass(slots=True)
class DraftLength:
    """Chooses the draft length of each step, at most ``longest``."""

    longest: int
    accepted: list[_Mean] = field(init=False)
    """Share of accepted drafts by place, among those whose predecessors were accepted."""
    _seconds: dict[tuple[int, int], _Mean] = field(default_factory=dict)
    """Of a step, by batch size class and draft length."""
    _num_chosen: int = 0

    def __post_init__(self) -> None:
        self.accepted = [_Mean() for _ in range(self.longest)]

    def choose(self, num_sequences: int) -> int:
        """The length for a step of so many sequences."""
        if not self.longest:
            return 0
        self._num_chosen += 1
        size = _size_class(num_sequences)
        means = [self._seconds.setdefault((size, length), _Mean()) for length in range(self.longest + 1)]
        untried = [length for length, mean in enumerate(means) if mean.count < _TRIES]
        if untried:
            return untried[0]
        best = 0
        for length in range(1, self.longest + 1):
            if self._rate(means, length) > _MARGIN * self._rate(means, best):
                best = length
        if self._num_chosen % _PROBE_EVERY == 0:
            others = [length for length in range(self.longest + 1) if length != best]
            return others[self._num_chosen // _PROBE_EVERY % len(others)]
        return best

    def observe(self, num_sequences: int, length: int, seconds: float, num_accepted: Sequence[int]) -> None:
        """What a step of that length took, and how many drafts of each sequence were accepted."""
        mean = self._seconds.setdefault((_size_class(num_sequences), length), _Mean())
        mean.add(seconds)
        for count in num_accepted:
            for place in range(min(count + 1, length)):
                self.accepted[place].add(float(place < count))

    def _rate(self, means: list[_Mean], length: int) -> float:
        """Tokens per second of one sequence."""
        tokens, likely = 1.0, 1.0
        for accepted in self.accepted[:length]:
            likely *= accepted.value
            tokens += likely
        return tokens / max(means[length].value, 1e-9)


def _size_class(num_sequences: int) -> int:
    """1, 2-3, 4-7, ...: sizes that cost about the same."""
    return num_sequences.bit_length()
