"""How many tokens to guess ahead, and from what: as many as pay, none where none do.

A guess is one more row in the next step. It pays if the chance that it holds is worth more than the row costs:

    chance * (time a token takes now) > time of a row  (+ time of guessing)

Everything in it is measured while the engine runs. A step takes about ``start + num_rows * row`` seconds; the chance is
the share of guesses at that place that held lately, after guesses that ended alike. What is not tried for long is
tried again now and then, because both change with what is generated.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["lookup", "layers"]
"""The sequence's own past, or the prediction layers."""

Ending = Literal["first", "held", "failed"]
"""Of a sequence's guess before from the same source: there was none; all of it held; some of it did not."""

_FORGET = 0.03
"""Weight of the newest measurement in a running mean."""
_PROBE_EVERY = 128
"""Times that a source which does not pay is passed over before it is tried again."""
_PROBE_AT_LEAST_EVERY = 4096
_MARGIN = 1.1
"""A guess must promise so much more than it costs: measurements are noisy, and not to guess is safe."""
_FIRST_CHANCE = 0.6
_ROW_SHARE = 0.3
"""Of a row in a step of one, until it is measured."""


@dataclass(slots=True)
class _Mean:
    """A running mean that forgets."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(_FORGET, 1 / self.count)


@dataclass(slots=True)
class _Idle:
    """A source that does not pay is tried again, each time after twice as long."""

    _num_asked: int = 0
    _next: int = _PROBE_EVERY

    def probe(self) -> int:
        """1 if it is time to try, else 0."""
        self._num_asked += 1
        if self._num_asked < self._next:
            return 0
        self._num_asked, self._next = 0, min(2 * self._next, _PROBE_AT_LEAST_EVERY)
        return 1


@dataclass(slots=True)
class StepTime:
    """Seconds of a step by its number of rows, as a line through what was measured lately."""

    _rows: _Mean = field(default_factory=_Mean)
    _seconds: _Mean = field(default_factory=_Mean)
    _squares: _Mean = field(default_factory=_Mean)
    _products: _Mean = field(default_factory=_Mean)
    _share: float = _ROW_SHARE
    """Of one row in a step of one row."""

    def add(self, num_rows: int, seconds: float) -> None:
        if self._seconds.count > 8:
            seconds = min(seconds, 4 * self.of(num_rows))  # the machine did something else
        self._rows.add(num_rows)
        self._seconds.add(seconds)
        self._squares.add(num_rows * num_rows)
        self._products.add(num_rows * seconds)
        self._fit()

    @property
    def row(self) -> float:
        """Seconds of one more row."""
        return self._share * self._of_one()

    def of(self, num_rows: int) -> float:
        return self._of_one() * (1 + self._share * (num_rows - 1))

    def _of_one(self) -> float:
        return self._seconds.value / (1 + self._share * (self._rows.value - 1)) if self._seconds.count else 0.0

    def _fit(self) -> None:
        """The slope stays as it was while steps are alike."""
        spread = self._squares.value - self._rows.value**2
        if self._rows.count < 4 or spread < 0.05:
            return
        slope = (self._products.value - self._rows.value * self._seconds.value) / spread
        of_one = self._seconds.value - slope * (self._rows.value - 1)
        if of_one > 0:
            self._share = min(max(slope / of_one, 0.01), 1.0)


@dataclass(frozen=True, slots=True)
class Speculation:
    """How far an engine may guess, by source; 0 switches one off. With ``always``, whether it pays or not."""

    lookup: int = 8
    layers: int = 3
    always: bool = False


@dataclass(slots=True)
class DraftPolicy:
    """Chooses the length of every guess."""

    allowed: Speculation
    time: StepTime = field(default_factory=StepTime)
    _guessing: dict[Source, _Mean] = field(default_factory=lambda: defaultdict(_Mean))
    """Seconds of making one guess."""
    _chances: dict[tuple[Source, Ending, int], _Mean] = field(default_factory=lambda: defaultdict(_Mean))
    """Share of guesses that held by place, among those whose predecessors held."""
    _idle: dict[tuple[Source, Ending], "_Idle"] = field(default_factory=lambda: defaultdict(_Idle))

    def longest(self, source: Source) -> int:
        return self.allowed.lookup if source == "lookup" else self.allowed.layers

    def length(self, source: Source, before: Ending, num_sequences: int) -> int:
        """Tokens to guess for one of the sequences of a step, at most."""
        if self.allowed.always:
            return self.longest(source)
        worth = self.time.of(num_sequences) / num_sequences
        cost = _MARGIN * (self.time.row + self._guessing[source].value)
        length, chance = 0, 1.0
        while length < self.longest(source):
            chance *= self._chance(source, before, length)
            if chance * worth < cost:
                break
            length += 1
        if length:
            self._idle[source, before] = _Idle()
            return length
        return min(self._idle[source, before].probe(), self.longest(source))

    def observe(self, source: Source, before: Ending, num_guessed: int, num_held: int) -> Ending:
        """What became of a guess; how the next one of the sequence is to be judged."""
        for place in range(min(num_held + 1, num_guessed)):
            self._chances[source, before, place].add(float(place < num_held))
        return "held" if num_held == num_guessed else "failed"

    def observe_guessing(self, source: Source, num_guesses: int, seconds: float) -> None:
        self._guessing[source].add(seconds / num_guesses)

    def _chance(self, source: Source, before: Ending, place: int) -> float:
        mean = self._chances[source, before, place]
        # As if it had been tried twice before, so that the first failures decide nothing.
        return (mean.value * mean.count + 2 * _FIRST_CHANCE) / (mean.count + 2)
