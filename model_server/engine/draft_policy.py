"""How many tokens to guess ahead, and from what: as many as pay, none where none do.

A guess is one more row in the next step. It pays if the chance that it holds is worth more than the row costs:

    chance * (time a token takes without guesses) > time of the row  (+ time of guessing)

All of it is measured while it happens. What steps take depends on their contexts, on the engine's own work and on what
else the machine does; the chance is the share of guesses at that place that held lately, after a like sign. Guesses
begin as if they were good and cost nothing. What does not pay is tried again now and then, because chances change with
what is generated.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Literal

Source = Literal["lookup", "layers"]
"""The sequence's own past, or the prediction layers."""

Sign = Literal["short", "long", "first", "held", "failed"]
"""What is known of a guess beforehand. From the past: how much of the text stood there before. From the layers: whether
the sequence's guess before held as a whole, or there was none."""

_SIGNS: dict[Source, tuple[Sign, ...]] = {"lookup": ("short", "long"), "layers": ("first", "held", "failed")}

_FORGET = 0.03
"""Weight of the newest measurement in a running mean."""
_FORGET_TIMES = 0.06
"""The same for what steps take, which changes with what else the machine does."""
_OLD = 8
"""Measurements that all those before a try count as, at most: they may be long ago."""
_REFRESH = 8
"""Measurements after which the lengths that pay are computed anew."""
_TRY_EVERY = 256
"""Steps without a kind of guess that does not pay before it is tried again."""
_TRY_AT_LEAST_EVERY = 4096
_REST_EVERY = 64
"""Steps with guesses after which one goes without, to know what that takes."""
_SPIKE = 3.0
"""No time counts as more than so many times what was expected: the system had something else to do."""
_MARGIN = 1.1
"""A guess must promise so much more than it costs: measurements are noisy, and not to guess is safe."""
_FIRST_CHANCE = 0.9
"""High, so that every source is tried at first."""


@dataclass(slots=True)
class _Mean:
    """A running mean that forgets."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float, forget: float = _FORGET) -> None:
        self.count += 1
        self.value += (value - self.value) * max(forget, 1 / self.count)


@dataclass(slots=True)
class _Record:
    """How guesses from one source after one sign fared."""

    chances: list[_Mean]
    """By place: share of those that held, among those whose predecessors held."""
    num_idle: int = 0
    """Steps since such a guess was last made because it pays, or tried."""
    patience: int = _TRY_EVERY
    """Of these, as many as pass before it is tried again; each time twice as many."""

    @property
    def is_due(self) -> bool:
        return self.num_idle >= self.patience

    def pays(self) -> None:
        self.num_idle, self.patience = 0, _TRY_EVERY

    def pass_over(self) -> None:
        self.num_idle += 1
        if self.num_idle == self.patience:
            for mean in self.chances:
                mean.count = min(mean.count, _OLD)

    def add(self, num_guessed: int, num_held: int) -> None:
        for place in range(min(num_held + 1, num_guessed)):
            self.chances[place].add(float(place < num_held))
        if self.is_due:
            self.num_idle, self.patience = 0, min(2 * self.patience, _TRY_AT_LEAST_EVERY)

    def chance(self, place: int) -> float:
        """As if it had been tried twice before, so that the first failures decide nothing."""
        mean = self.chances[place]
        return (mean.value * mean.count + 2 * _FIRST_CHANCE) / (mean.count + 2)


@dataclass(slots=True)
class _Steps:
    """What steps of so many sequences take, s."""

    plain: _Mean = field(default_factory=_Mean)
    """One without guesses."""
    row: _Mean = field(default_factory=_Mean)
    """A guess more in it."""
    num_guessing: int = 0
    """Steps with guesses since the last one without."""

    def add(self, num_guessed: int, seconds: float) -> None:
        if self.plain.count:
            seconds = min(seconds, _SPIKE * (self.plain.value + num_guessed * max(self.row.value, 0.0)))
        if num_guessed:
            self.row.add((seconds - self.plain.value) / num_guessed, _FORGET_TIMES)
            self.num_guessing += 1
        else:
            self.plain.add(seconds, _FORGET_TIMES)
            self.num_guessing = 0

    @property
    def is_known(self) -> bool:
        """False where the next step is to be one without guesses; at first that is often."""
        return self.num_guessing < min(self.plain.count, _REST_EVERY)


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
    _steps: dict[int, _Steps] = field(default_factory=lambda: defaultdict(_Steps))
    """By number of sequences."""
    _guessing: _Mean = field(default_factory=lambda: _Mean(0.0, round(1 / _FORGET)))
    """Seconds in which the layers make one guess; they count as free until that is known."""
    _records: dict[tuple[Source, Sign], _Record] = field(init=False)
    _lengths: dict[tuple[Source, Sign, int], int] = field(default_factory=dict)
    """That pay, by number of sequences; computed anew now and then."""
    _num_measured: int = 0

    def __post_init__(self) -> None:
        self._records = {
            (source, sign): _Record([_Mean() for _ in range(self.longest(source))])
            for source, signs in _SIGNS.items()
            for sign in signs
        }

    @property
    def longest_of_all(self) -> int:
        return max(self.allowed.lookup, self.allowed.layers)

    def longest(self, source: Source) -> int:
        return self.allowed.lookup if source == "lookup" else self.allowed.layers

    def is_wanted(self, source: Source, num_sequences: int) -> bool:
        """Asked once a step of so many sequences: whether a guess from the source may be made."""
        if self.allowed.always or not self.longest(source):
            return self.longest(source) > 0
        if not self._steps[num_sequences].is_known:
            return False
        wanted = False
        for sign in _SIGNS[source]:
            wanted |= self._is_wanted(source, sign, num_sequences)
        return wanted

    def length(self, source: Source, sign: Sign, num_sequences: int) -> int:
        """Tokens to guess for one of the sequences of a step, at most."""
        if self.allowed.always:
            return self.longest(source)
        return self._length(source, sign, num_sequences) or int(self._records[source, sign].is_due)

    def observe(self, source: Source, sign: Sign, num_guessed: int, num_held: int) -> None:
        """What became of a guess."""
        self._records[source, sign].add(num_guessed, num_held)
        self._measured()

    def observe_guessing(self, num_guesses: int, seconds: float) -> None:
        """The layers have made so many guesses in this time."""
        self._guessing.add(seconds / num_guesses)
        self._measured()

    def observe_step(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step of sequences that decode, guesses among its rows, took so long; without the time of guessing."""
        self._steps[num_sequences].add(num_rows - num_sequences, seconds)
        self._measured()

    def _is_wanted(self, source: Source, sign: Sign, num_sequences: int) -> bool:
        record = self._records[source, sign]
        if self._length(source, sign, num_sequences):
            record.pays()
            return True
        record.pass_over()
        return record.is_due

    def _length(self, source: Source, sign: Sign, num_sequences: int) -> int:
        key = (source, sign, num_sequences)
        length = self._lengths.get(key)
        if length is None:
            length = self._lengths[key] = self._paying(*key)
        return length

    def _paying(self, source: Source, sign: Sign, num_sequences: int) -> int:
        steps = self._steps[num_sequences]
        worth = steps.plain.value / num_sequences
        cost = _MARGIN * (steps.row.value + (self._guessing.value if source == "layers" else 0.0))
        best, best_gain, chance, gained = 0, 0.0, 1.0, 0.0
        for length in range(1, self.longest(source) + 1):
            chance *= self._records[source, sign].chance(length - 1)
            gained += chance
            gain = gained * worth - length * cost
            if gain > best_gain:
                best, best_gain = length, gain
        return best

    def _measured(self) -> None:
        self._num_measured += 1
        if self._num_measured % _REFRESH == 0:
            self._lengths.clear()
