"""Guesses the next tokens of the sequences of a step: from their own past where it says something, else with the
prediction layers, and in both cases only as far as it pays."""

import time
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from torch import Tensor

from model_server.engine.draft_policy import DraftPolicy, Ending, Source
from model_server.engine.drafting import DraftState, TokenDrafter
from model_server.engine.lookup import Lookup
from model_server.engine.sequence import Sequence, cache_of


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may follow a sequence's own; none where nothing is guessed."""

    tokens: list[int] = field(default_factory=list)
    source: Source = "lookup"
    before: Ending = "first"


NOTHING = Guess()


@dataclass(slots=True)
class _Memory:
    """What is remembered of one sequence."""

    lookup: Lookup = field(default_factory=Lookup)
    endings: dict[Source, Ending] = field(default_factory=dict)
    state: DraftState | None = None
    """Of the prediction layers; begins anew with the sequence's cache."""


class Guesser:
    """One for all sequences of an engine."""

    def __init__(self, drafter: TokenDrafter, policy: DraftPolicy) -> None:
        self._drafter = drafter
        self._policy = policy
        self._memories: dict[Sequence, _Memory] = {}
        self.num_guessed = self.num_held = 0

    def guess(self, sequences: Several[tuple[Sequence, int]]) -> list[Guess]:
        """For sequences that decode, and the most tokens each has room for."""
        num = len(sequences)
        guesses = [self._from_past(sequence, room, num) for sequence, room in sequences]
        open_ = [index for index, guess in enumerate(guesses) if not guess.tokens]
        lengths = {index: self._layers_length(*sequences[index], num) for index in open_}
        asked = {index: length for index, length in lengths.items() if length}
        if asked:
            drafts = self._from_layers([sequences[index][0] for index in asked], max(asked.values()))
            for (index, length), tokens in zip(asked.items(), drafts, strict=True):
                guesses[index] = Guess(tokens[:length], "layers", self._ending(sequences[index][0], "layers"))
        return guesses

    def absorb(self, sequence: Sequence, hidden: Tensor) -> None:
        """Hidden states [T, C] of the next tokens, before they are counted in the sequence's cache."""
        if self._policy.longest("layers") and self._policy.is_wanted("layers"):
            self._state(sequence).absorb(hidden)

    def judge(self, sequence: Sequence, guess: Guess, num_held: int) -> None:
        """What became of a guess."""
        if guess.tokens:
            self.num_guessed += len(guess.tokens)
            self.num_held += num_held
            ending = self._policy.observe(guess.source, guess.before, len(guess.tokens), num_held)
            self._memory(sequence).endings[guess.source] = ending

    def forget(self, sequence: Sequence) -> None:
        self._memories.pop(sequence, None)

    def _from_past(self, sequence: Sequence, room: int, num_sequences: int) -> Guess:
        before = self._ending(sequence, "lookup")
        length = min(room, self._length("lookup", before, num_sequences))
        found = self._memory(sequence).lookup.guess(sequence.ids, length) if length > 0 else []
        return Guess(found, "lookup", before) if found else NOTHING

    def _layers_length(self, sequence: Sequence, room: int, num_sequences: int) -> int:
        length = min(room, self._length("layers", self._ending(sequence, "layers"), num_sequences))
        return length if length > 0 and self._state(sequence).is_ready else 0

    def _length(self, source: Source, before: Ending, num_sequences: int) -> int:
        return self._policy.length(source, before, num_sequences) if self._policy.longest(source) else 0

    def _from_layers(self, sequences: Several[Sequence], length: int) -> list[list[int]]:
        started = time.monotonic()
        drafts = self._drafter.draft([(sequence.ids, self._state(sequence)) for sequence in sequences], length)
        self._policy.observe_guessing("layers", length * len(sequences), time.monotonic() - started)
        return drafts

    def _state(self, sequence: Sequence) -> DraftState:
        memory, num_tokens = self._memory(sequence), cache_of(sequence).num_tokens
        if memory.state is None or memory.state.num_tokens != num_tokens:
            memory.state = self._drafter.new_state(num_tokens)
        return memory.state

    def _ending(self, sequence: Sequence, source: Source) -> Ending:
        return self._memory(sequence).endings.get(source, "first")

    def _memory(self, sequence: Sequence) -> _Memory:
        return self._memories.setdefault(sequence, _Memory())
