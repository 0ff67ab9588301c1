"""How many tokens to guess ahead, and from what: as many as pay, none where none do.

A guess is one more row in the next step. It pays if the chance that it holds is worth more than the row costs:

    chance * (time a token takes without guesses) > time of the row  (+ time of guessing)

What steps of so many rows take is measured once, before anything runs. The chance is the share of guesses at that place
that held lately, after guesses that ended alike. What does not pay is tried again now and then, because chances change
with what is generated.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field, replace
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
_PREPARED = 32
"""Steps before and after a try in which what guessing needs is kept at hand."""
_MARGIN = 1.1
"""A guess must promise so much more than it costs: measurements are noisy, and not to guess is safe."""
_FIRST_CHANCE = 0.6


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

    num_asked: int = 0
    """Times that it was passed over since it was last tried."""
    next: int = _PROBE_EVERY

    def pass_over(self) -> int:
        """1 if it is time to try, else 0."""
        self.num_asked += 1
        return int(self.num_asked >= self.next)

    def tried(self) -> None:
        if self.num_asked >= self.next:
            self.num_asked, self.next = 0, min(2 * self.next, _PROBE_AT_LEAST_EVERY)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a step by its number of rows, at least two numbers of them, ascending."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, num_rows: int) -> float:
        """Along the line through the two nearest."""
        after = min(max(bisect_left(self.rows, num_rows), 1), len(self.rows) - 1)
        left, right = after - 1, after
        slope = (self.seconds[right] - self.seconds[left]) / (self.rows[right] - self.rows[left])
        return self.seconds[left] + slope * (num_rows - self.rows[left])


@dataclass(frozen=True, slots=True)
class Speculation:
    """How far an engine may guess, by source; 0 switches one off. With ``always`` it does, whether it pays or not."""

    lookup: int = 8
    layers: int = 3
    always: bool = False

    def at_most(self, lookup: int, layers: int) -> "Speculation":
        """The same within what an engine can do."""
        return replace(self, lookup=min(self.lookup, lookup), layers=min(self.layers, layers))


NO_SPECULATION = Speculation(lookup=0, layers=0)


@dataclass(slots=True)
class DraftPolicy:
    """Chooses the length of every guess."""

    allowed: Speculation
    times: StepTimes
    _guessing: dict[Source, _Mean] = field(default_factory=lambda: defaultdict(_Mean))
    """Seconds of making one guess."""
    _chances: dict[tuple[Source, Ending, int], _Mean] = field(default_factory=lambda: defaultdict(_Mean))
    """Share of guesses that held by place, among those whose predecessors held."""
    _known: dict[tuple[Source, Ending, int], int] = field(default_factory=dict)
    """Answers that hold until something is observed."""
    _idle: dict[Source, _Idle] = field(default_factory=lambda: defaultdict(_Idle))

    @property
    def longest_of_all(self) -> int:
        return max(self.allowed.lookup, self.allowed.layers)

    def longest(self, source: Source) -> int:
        return self.allowed.lookup if source == "lookup" else self.allowed.layers

    def length(self, source: Source, before: Ending, num_sequences: int) -> int:
        """Tokens to guess for one of the sequences of a step, at most."""
        if self.allowed.always:
            return self.longest(source)
        key = (source, before, num_sequences)
        length = self._known.get(key)
        if length is None:
            length = self._known[key] = self._paying(*key)
        if length:
            self._idle[source].num_asked = 0
            return length
        return min(self._idle[source].pass_over(), self.longest(source))

    def is_wanted(self, source: Source) -> bool:
        """Whether a guess may be asked for soon, and is worth preparing."""
        idle = self._idle[source]
        return self.allowed.always or idle.num_asked < _PREPARED or idle.num_asked + _PREPARED >= idle.next

    def _paying(self, source: Source, before: Ending, num_sequences: int) -> int:
        plain = self.times.of(num_sequences)
        best, best_gain, chance, gained = 0, 0.0, 1.0, 0.0
        for length in range(1, self.longest(source) + 1):
            chance *= self._chance(source, before, length - 1)
            gained += chance
            cost = self.times.of(num_sequences + length) - plain + length * self._guessing[source].value
            gain = gained * plain / num_sequences - _MARGIN * cost
            if gain > best_gain:
                best, best_gain = length, gain
        return best

    def observe(self, source: Source, before: Ending, num_guessed: int, num_held: int) -> Ending:
        """What became of a guess; how the next one of the sequence is to be judged."""
        self._known.clear()
        self._idle[source].tried()
        for place in range(min(num_held + 1, num_guessed)):
            self._chances[source, before, place].add(float(place < num_held))
        return "held" if num_held == num_guessed else "failed"

    def observe_guessing(self, source: Source, num_guesses: int, seconds: float) -> None:
        self._known.clear()
        self._guessing[source].add(seconds / num_guesses)

    def _chance(self, source: Source, before: Ending, place: int) -> float:
        mean = self._chances[source, before, place]
        # As if it had been tried twice before, so that the first failures decide nothing.
        return (mean.value * mean.count + 2 * _FIRST_CHANCE) / (mean.count + 2)
