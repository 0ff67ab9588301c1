"""Who runs in the next step: every sequence that decodes, and prompts as far as the step's budget for them goes.

Higher priorities first, then in order of arrival. Pure bookkeeping: no tensors are touched, no threads, no clocks.

- A sequence is admitted when its prompt fits the memory. One that was overtaken too often goes before all others.
- Of the budget for prompts, the oldest has half for itself; the other half goes to those with the fewest tokens left.
  So a short prompt does not wait for a long one, and a long one always moves.
- A sequence that grows when memory is full makes the youngest of the lowest priority stop, itself at the latest. That
  one waits and is resumed: what was dropped of its keys and values is computed again.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from model_server.engine.guesser import NOTHING, Guess
from model_server.engine.sequence import Sequence, cache_of
from model_server.kernels.batch import Segment

_PATIENCE = 16
"""Later arrivals of higher priority that a sequence lets pass."""


class Memory(Protocol):
    """Room for keys and values."""

    def admit(self, sequence: Sequence, headroom: int) -> bool:
        """Give a sequence its cache, with room for its prompt and a step, if so many pages are left besides."""

    def reserve(self, sequence: Sequence, num_new: int) -> bool:
        """Make room for the next tokens of a running sequence. Never fails if it is the only one."""

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's cache from it."""


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """One sequence's part of a step. Only the last part of its pending tokens yields a new one."""

    sequence: Sequence
    num_tokens: int
    samples: bool
    num_known: int
    """The last of the sequence's own tokens, as many as logits are needed of: the newest, to sample after it, and those
    of a prompt whose next token is to be scored."""
    guess: Guess = NOTHING
    """Tokens that may follow the sequence's own."""

    @property
    def num_rows(self) -> int:
        return self.num_tokens + len(self.guess.tokens)

    @property
    def num_logits(self) -> int:
        return self.num_known + len(self.guess.tokens)

    def segment(self) -> Segment:
        """What the backend runs."""
        cache, ids = cache_of(self.sequence), self.sequence.ids
        first, end = cache.num_tokens, cache.num_tokens + self.num_tokens
        return Segment(
            ids=[*ids[first:end], *self.guess.tokens],
            first=first,
            pages=cache.pages,
            ring=cache.ring,
            num_logits=self.num_logits,
            forced_experts=self.sequence.routes.forced(first, first + self.num_rows),
        )


class Scheduler:
    """Waiting and running sequences."""

    def __init__(self, memory: Memory, max_running: int, prompt_tokens: int, most_more: int) -> None:
        """``prompt_tokens``: of all prompts together in a step; ``most_more``: that may follow a decoding row, guessed
        or of further steps."""
        self.running: list[Sequence] = []
        """Higher priorities first, then in order of arrival."""
        self.waiting: list[Sequence] = []
        self._memory = memory
        self._max_running = max_running
        self._prompt_tokens = prompt_tokens
        self._most_more = most_more
        self._num_arrived = 0
        self.is_closed = False
        """Whether those that have not begun wait."""

    def add(self, sequence: Sequence) -> None:
        sequence.arrival = self._num_arrived
        self._num_arrived += 1
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    @property
    def has_begun(self) -> bool:
        """Whether any sequence runs, or is to be resumed."""
        return bool(self.running) or any(sequence.has_begun for sequence in self.waiting)

    def schedule(self) -> list[ScheduledSequence]:
        """The next step; empty when nothing runs."""
        self._admit()
        decoding = self._decoding()
        return decoding if len(decoding) == len(self.running) else [*decoding, *self._reading()]

    def _admit(self) -> None:
        if len(self.running) == self._max_running:
            return
        for sequence in sorted(self.waiting, key=_turn):
            if len(self.running) == self._max_running:
                return
            if (self.is_closed and not sequence.has_begun) or self._is_being_read(sequence):
                continue
            # Each of those that run may soon need a page; without this, whoever was made to stop would be back at once.
            if not self._memory.admit(sequence, headroom=len(self.running)):
                return
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_rank)
            for other in self.waiting:
                other.num_overtaken += other.arrival < sequence.arrival

    def _is_being_read(self, sequence: Sequence) -> bool:
        """Whether a running sequence reads the same prompt just now: it will be in the cache soon."""
        request = sequence.request
        return any(
            other.num_pending > 1
            and other.request.cache_salt == request.cache_salt
            and other.request.prompt_ids == request.prompt_ids
            and other.request.forced_experts is None
            and request.forced_experts is None
            for other in self.running
        )

    def _decoding(self) -> list[ScheduledSequence]:
        parts = []
        for sequence in self.running.copy():
            was_preempted = sequence.cache is None
            if not was_preempted and sequence.num_pending == 1 and self._make_room(sequence):
                parts.append(ScheduledSequence(sequence, num_tokens=1, samples=True, num_known=1))
        return parts

    def _make_room(self, sequence: Sequence) -> bool:
        """Room for the pending token, if need be at the cost of others, and for more if at nobody's; False if at its
        own."""
        longest = sequence.most_cached - cache_of(sequence).num_tokens
        if self._memory.reserve(sequence, min(1 + self._most_more, longest)):
            return True
        while not self._memory.reserve(sequence, 1):
            last = self.running.pop()
            self._memory.preempt(last)
            self.waiting.append(last)
            if last is sequence:
                return False
        return True

    def _reading(self) -> Iterator[ScheduledSequence]:
        """Parts of prompts. Their pages were reserved when they were admitted."""
        reading = [sequence for sequence in self.running if sequence.num_pending > 1]
        shares = dict.fromkeys(reading, 0)
        budget = self._prompt_tokens
        if reading:
            shares[reading[0]] = min(budget // 2, _next_part(reading[0]))
            budget -= shares[reading[0]]
        for sequence in sorted(reading, key=lambda other: other.num_pending):
            more = min(budget, _next_part(sequence) - shares[sequence])
            shares[sequence] += more
            budget -= more
        for sequence, num_tokens in shares.items():
            if num_tokens:
                samples = num_tokens == sequence.num_pending
                yield ScheduledSequence(sequence, num_tokens, samples, max(_num_scored(sequence, num_tokens), samples))


def _rank(sequence: Sequence) -> tuple[int, int]:
    return (-sequence.request.priority, sequence.arrival)


def _turn(sequence: Sequence) -> tuple[bool, int, int]:
    return (sequence.num_overtaken < _PATIENCE, *_rank(sequence))


def _next_part(sequence: Sequence) -> int:
    """Tokens of a prompt that may be run at once."""
    cache = cache_of(sequence)
    return min(sequence.num_pending, cache.next_stop - cache.num_tokens)


def _num_scored(sequence: Sequence, num_tokens: int) -> int:
    """Of the next tokens of a prompt, those whose logits are needed to score the token after them."""
    end, first_scored = cache_of(sequence).num_tokens + num_tokens, sequence.first_scored
    return 0 if first_scored is None else max(end - first_scored, 0)
