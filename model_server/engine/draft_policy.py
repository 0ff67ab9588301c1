"""How many tokens to guess ahead, and from what: as many as pay, none where none do.

A guess is one more row in the next step. It pays if the chance that it holds is worth more than it costs:

    chance * (time a token takes without guesses) > time of guessing, and of the row

A sequence that is alone takes several steps at once where none has guesses; one with guesses goes by itself, and its
guesses must make up for that too.

All of it is measured while it happens. What steps take depends on their contexts, on the engine's own work and on what
else the machine does; the chance is the share of guesses at that place that held lately, after a like sign. Guesses
begin as if they were good and cost nothing. What does not pay is tried again now and then, because chances change with
what is generated. Whatever the estimates say, a source whose guesses lately took more time than they saved rests as
long as that is more than a small share of all time.
"""

from collections import defaultdict
from collections.abc import Mapping
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
"""Steps after which the lengths that pay are computed anew."""
_TRY_EVERY = 256
"""Steps without a kind of guess that does not pay before it is tried again."""
_TRY_AT_LEAST_EVERY = 4096
_ALONE_EVERY = 32
"""Times that steps are taken several at once after which one goes by itself, to know what that takes."""
_REST_EVERY = 64
"""Steps with guesses after which one goes without, to know what that takes."""
_SPIKE = 3.0
"""No time counts as more than so many times what was expected: the system had something else to do."""
_MARGIN = 1.1
"""A guess must promise so much more than it costs: measurements are noisy, and not to guess is safe."""
_FIRST_CHANCE = 0.9
"""High, so that every source is tried at first."""
_LOSS_STEPS = 4096
"""Steps after which a loss is as good as forgotten."""
_MAY_LOSE = 60
"""Steps without guesses: a source that lost the time of so many rests. It is 1.5 % of those remembered."""
_LOSES_AGAIN = 30
"""What is left of a loss when its source is let go on: enough for a few good guesses to pay for a bad start."""
_LONG_STEP = 16.0
"""No step counts as a loss of more than so many steps without guesses."""


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
    last: int = 0
    """The number of steps when such a guess last paid, or was tried."""
    patience: int = _TRY_EVERY
    """So many steps later it is tried again; each time twice as many."""

    @property
    def due(self) -> int:
        """The number of steps from which on it is to be tried."""
        return self.last + self.patience

    def pays(self, num_steps: int) -> None:
        self.last, self.patience = num_steps, _TRY_EVERY

    def add(self, num_guessed: int, num_held: int, num_steps: int) -> None:
        is_try = num_steps >= self.due
        for place in range(min(num_held + 1, num_guessed)):
            if is_try:
                self.chances[place].count = min(self.chances[place].count, _OLD)
            self.chances[place].add(float(place < num_held))
        if is_try:
            self.last, self.patience = num_steps, min(2 * self.patience, _TRY_AT_LEAST_EVERY)

    def chance(self, place: int) -> float:
        """As if it had been tried twice before, so that the first failures decide nothing."""
        mean = self.chances[place]
        return (mean.value * mean.count + 2 * _FIRST_CHANCE) / (mean.count + 2)


@dataclass(slots=True)
class _Steps:
    """What steps of so many sequences take, s."""

    plain: _Mean = field(default_factory=_Mean)
    """One without guesses, several at once or by itself, as it comes."""
    by_itself: _Mean = field(default_factory=_Mean)
    """One without guesses that was not one of several."""
    num_at_once: int = 0
    """Times that several were taken at once since one was taken by itself."""
    guesses: dict[Source, _Mean] = field(default_factory=lambda: {source: _Mean() for source in _SIGNS})
    """What one guess more adds: making it, and its row."""
    num_guessing: int = 0
    """Steps with guesses since the last one without."""

    def add_plain(self, seconds: float, num_at_once: int, is_asked_for: bool) -> None:
        """``is_asked_for``: it would have been one of several otherwise."""
        seconds = self._without_spike(seconds, 0.0)
        if num_at_once == 1:
            self.by_itself.add(seconds, _FORGET_TIMES)
            self.num_at_once = 0
        else:
            self.num_at_once += 1
        if not is_asked_for:
            self.plain.add(seconds, _FORGET_TIMES)
            self.num_guessing = 0

    def add(self, num_guessed: Mapping[Source, int], seconds: float, is_usual: bool) -> None:
        """Where several sources share a step, what it took beyond what was expected goes to each by its guesses."""
        self.num_guessing += 1
        if is_usual:
            expected = sum(count * max(self.guesses[source].value, 0.0) for source, count in num_guessed.items())
            more = self._without_spike(seconds, expected) - self.by_itself.value
            error = more - sum(count * self.guesses[source].value for source, count in num_guessed.items())
            squares = sum(count**2 for count in num_guessed.values())
            for source, count in num_guessed.items():
                guess = self.guesses[source]
                guess.add(guess.value + error * count / squares, _FORGET_TIMES)

    def taken(self, num_guessed: Mapping[Source, int], seconds: float, is_usual: bool) -> dict[Source, float]:
        """What a step with these guesses took more than one without, by source."""
        more = min(seconds, _LONG_STEP * self.plain.value) - self.plain.value
        if not is_usual and (num_lookup := num_guessed.get("lookup")):  # only the layers do more than usual
            lookup = min(num_lookup * max(self.guesses["lookup"].value, 0.0), more)
            return {"lookup": lookup, "layers": more - lookup}
        costs = {source: count * max(self.guesses[source].value, 0.0) for source, count in num_guessed.items()}
        parts = costs if any(costs.values()) else num_guessed
        return {source: more * parts[source] / sum(parts.values()) for source in num_guessed}

    def _without_spike(self, seconds: float, expected_more: float) -> float:
        return min(seconds, _SPIKE * (self.by_itself.value + expected_more)) if self.by_itself.count else seconds

    @property
    def is_known(self) -> bool:
        """False where the next step is to be one without guesses; at first that is often."""
        return self.num_guessing < min(self.plain.count, _REST_EVERY)


@dataclass(slots=True)
class _Guessed:
    """The guesses of one source in a step."""

    num_guessed: int = 0
    num_held: int = 0


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What pays of one source with so many sequences."""

    lengths: dict[Sign, int]
    pays: bool
    next_try: int
    """The number of steps from which on something that does not pay is to be tried."""


@dataclass(slots=True)
class DraftPolicy:
    """Chooses the length of every guess."""

    allowed: Speculation
    _steps: dict[int, _Steps] = field(default_factory=lambda: defaultdict(_Steps))
    """By number of sequences."""
    _records: dict[tuple[Source, Sign], _Record] = field(init=False)
    _plans: dict[tuple[Source, int], _Plan] = field(default_factory=dict)
    """By number of sequences; made anew now and then."""
    _num_steps: int = 0
    _is_asked_for: bool = False
    """That the step at hand goes by itself."""
    _now: dict[Source, _Guessed] = field(default_factory=lambda: defaultdict(_Guessed))
    """Of the step at hand."""
    _lost: dict[Source, float] = field(default_factory=lambda: dict.fromkeys(_SIGNS, 0.0))
    """By source: time that its guesses took lately beyond what they saved, s."""
    _resting: set[Source] = field(default_factory=set)

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
        if source in self._resting or not self._steps[num_sequences].is_known:
            return False
        plan = self._plan(source, num_sequences)
        return plan.pays or self._num_steps >= plan.next_try

    def length(self, source: Source, sign: Sign, num_sequences: int) -> int:
        """Tokens to guess for one of the sequences of a step, at most."""
        if self.allowed.always:
            return self.longest(source)
        length = self._plan(source, num_sequences).lengths[sign]
        return length or int(self._num_steps >= self._records[source, sign].due)

    def observe(self, source: Source, sign: Sign, num_guessed: int, num_held: int) -> None:
        """What became of a guess in the step at hand."""
        self._records[source, sign].add(num_guessed, num_held, self._num_steps)
        self._now[source].num_guessed += num_guessed
        self._now[source].num_held += num_held

    def goes_by_itself(self) -> bool:
        """Asked where a sequence that is alone would take several steps at once: whether it is to take one."""
        steps = self._steps[1]
        self._is_asked_for = bool(steps.plain.count) and steps.num_at_once >= min(steps.plain.count, _ALONE_EVERY)
        return self._is_asked_for

    def observe_step(self, num_sequences: int, seconds: float, *, num_at_once: int = 1, is_usual: bool = True) -> None:
        """The step at hand, of sequences that decode, took so long, with making the guesses that were observed.

        Args:
            num_at_once: it was one of so many without guesses, and took its share of their time.
            is_usual: False where making guesses took what it does not take every time.
        """
        guessed, self._now = self._now, defaultdict(_Guessed)
        steps = self._steps[num_sequences]
        num_guessed = {source: of.num_guessed for source, of in guessed.items()}
        if guessed:
            steps.add(num_guessed, seconds, is_usual)
        else:
            steps.add_plain(seconds, num_at_once, self._is_asked_for)
        self._is_asked_for = False
        taken = steps.taken(num_guessed, seconds, is_usual) if guessed else {}
        for source in self._lost:
            loss = self._lost[source] * (1 - 1 / _LOSS_STEPS)
            if source in guessed:
                loss += taken[source] - guessed[source].num_held * steps.plain.value / num_sequences
            self._lost[source] = max(loss, 0.0)
            if loss > _MAY_LOSE * steps.plain.value:
                self._resting.add(source)
            elif loss < _LOSES_AGAIN * steps.plain.value:
                self._resting.discard(source)
        self._num_steps += 1
        if self._num_steps % _REFRESH == 0:
            self._plans.clear()

    def _plan(self, source: Source, num_sequences: int) -> _Plan:
        plan = self._plans.get((source, num_sequences))
        if plan is None:
            plan = self._plans[source, num_sequences] = self._made_plan(source, num_sequences)
        return plan

    def _made_plan(self, source: Source, num_sequences: int) -> _Plan:
        lengths = {sign: self._paying(source, sign, num_sequences) for sign in _SIGNS[source]}
        for sign, length in lengths.items():
            if length:
                self._records[source, sign].pays(self._num_steps)
        next_try = min(self._records[source, sign].due for sign in lengths)
        return _Plan(lengths, any(lengths.values()), next_try)

    def _paying(self, source: Source, sign: Sign, num_sequences: int) -> int:
        steps = self._steps[num_sequences]
        worth = steps.plain.value / num_sequences
        cost = _MARGIN * steps.guesses[source].value
        at_all = _MARGIN * max(steps.by_itself.value - steps.plain.value, 0.0)
        best, best_gain, chance, gained = 0, 0.0, 1.0, 0.0
        for length in range(1, self.longest(source) + 1):
            chance *= self._records[source, sign].chance(length - 1)
            gained += chance
            gain = gained * worth - length * cost - at_all
            if gain > best_gain:
                best, best_gain = length, gain
        return best
