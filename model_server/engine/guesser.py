"""Guesses the next tokens of the sequences of a step: from their own past where it says something, else with the
prediction layers, and in both cases only as far as it pays.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import Any

from model_server.engine.draft_policy import DraftPolicy, Sign, Source
from model_server.engine.drafting import Known, TokenDrafter
from model_server.engine.lookup import Lookup
from model_server.engine.sequence import Sequence, cache_of


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may follow a sequence's own; none where nothing is guessed."""

    tokens: list[int] = field(default_factory=list)
    source: Source | None = "lookup"
    """None: no guess; the model itself ran them already."""
    sign: Sign = "short"


NOTHING = Guess()

_MISSED = 16
"""Newest tokens that the layers have not read after a pause; more take a time of their own."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one sequence."""

    lookup: Lookup = field(default_factory=Lookup)
    sign: Sign = "first"
    """For the next guess of the layers."""
    state: Any = None
    """The drafter's, once it is asked."""
    num_read: int = 0
    """Tokens there were when it was asked last."""


class Guesser:
    """One for all sequences of an engine."""

    def __init__(self, drafter: TokenDrafter, policy: DraftPolicy) -> None:
        self._drafter = drafter
        self._policy = policy
        self._memories: dict[Sequence, _Memory] = {}
        self.num_guessed = self.num_held = 0
        self._is_usual = True
        """False in a step where the layers have much to read first."""

    @property
    def num_hidden(self) -> int:
        """Newest hidden states of a sequence that are to be kept for it."""
        return self._drafter.num_hidden if self._policy.longest("layers") else 0

    def guess(self, sequences: Several[Sequence]) -> dict[Sequence, Guess]:
        """For those of the sequences of a step, all of which decode, where a guess pays."""
        guesses: dict[Sequence, Guess] = {}
        if self._policy.is_wanted("lookup", len(sequences)):
            self._ask_past(sequences, guesses)
        self._is_usual = not self._policy.is_wanted("layers", len(sequences)) or self._ask_layers(sequences, guesses)
        return guesses

    def judge(self, sequence: Sequence, guess: Guess, num_held: int) -> None:
        """What became of a guess."""
        num_guessed = len(guess.tokens)
        if not num_guessed or guess.source is None:
            return
        self.num_guessed += num_guessed
        self.num_held += num_held
        self._policy.observe(guess.source, guess.sign, num_guessed, num_held)
        if guess.source == "layers":
            self._memory(sequence).sign = "held" if num_held == num_guessed else "failed"

    def goes_by_itself(self) -> bool:
        """See :meth:`model_server.engine.draft_policy.DraftPolicy.goes_by_itself`."""
        return self._policy.goes_by_itself()

    def observe_step(self, num_sequences: int, seconds: float, num_at_once: int = 1) -> None:
        """The step that :meth:`guess` was asked for took so long, with guessing; see
        :meth:`model_server.engine.draft_policy.DraftPolicy.observe_step`."""
        self._policy.observe_step(num_sequences, seconds, num_at_once=num_at_once, is_usual=self._is_usual)

    def replace_drafter(self, drafter: TokenDrafter) -> None:
        """Go on with another one, while no sequence runs."""
        self._drafter = drafter
        self._memories.clear()

    def forget(self, sequence: Sequence) -> None:
        self._memories.pop(sequence, None)

    def _ask_past(self, sequences: Several[Sequence], guesses: dict[Sequence, Guess]) -> None:
        for sequence in sequences:
            found = self._memory(sequence).lookup.find(sequence.ids)
            if found is None:
                continue
            sign: Sign = "long" if found.is_long else "short"
            length = min(_room(sequence), self._policy.length("lookup", sign, len(sequences)))
            if length > 0:
                tokens = sequence.ids[found.next : found.next + length]
                guesses[sequence] = Guess(tokens.tolist(), "lookup", sign)

    def _ask_layers(self, sequences: Several[Sequence], guesses: dict[Sequence, Guess]) -> bool:
        """False if they had much to read first."""
        lengths: dict[Sequence, int] = {}
        for sequence in sequences:
            hidden = cache_of(sequence).hidden
            if sequence not in guesses and hidden.first < hidden.end:
                length = self._policy.length("layers", self._memory(sequence).sign, len(sequences))
                lengths[sequence] = min(_room(sequence), length)
        asked = [sequence for sequence, length in lengths.items() if length > 0]
        if not asked:
            return True
        has_read = all(len(sequence.ids) - self._memory(sequence).num_read <= _MISSED for sequence in asked)
        drafts = self._drafter.draft([self._known(sequence) for sequence in asked], max(lengths.values()))
        for sequence, tokens in zip(asked, drafts, strict=True):
            guesses[sequence] = Guess(tokens[: lengths[sequence]], "layers", self._memory(sequence).sign)
        return has_read

    def _known(self, sequence: Sequence) -> Known:
        memory = self._memory(sequence)
        if memory.state is None:
            memory.state = self._drafter.new_state()
        memory.num_read = len(sequence.ids)
        return Known(sequence.ids, cache_of(sequence).hidden, memory.state)

    def _memory(self, sequence: Sequence) -> _Memory:
        memory = self._memories.get(sequence)
        if memory is None:
            memory = self._memories[sequence] = _Memory()
        return memory


def _room(sequence: Sequence) -> int:
    """Tokens that may still follow the one that is due, and have room."""
    left = sequence.request.sampling.max_tokens - sequence.num_sampled - 1
    return min(left, cache_of(sequence).room - 1)
