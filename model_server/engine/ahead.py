"""How many steps greedy sequences take at once: as many as nobody notices.

Between two steps the engine hears of new requests and cancellations, and says what came; all that takes as long as a
third of a small model's step. While a backend takes several steps by itself, that waits.
"""

from collections.abc import Sequence as Several

from model_server.engine.sequence import Sequence, cache_of

_AT_ONCE_S = 0.004
"""What others may have to wait."""
MOST_AT_ONCE = 8
_FORGET = 4
"""So many steps later a slow one counts for a third."""


class Ahead:
    """For one engine; knows how long its steps take."""

    def __init__(self) -> None:
        self._step_s: dict[int, float] = {}
        """By number of sequences: one step, the slowest of late."""

    def most(self, sequences: Several[Sequence]) -> int:
        """Steps that all the sequences of a step, which decode, may take at once; 1 where a token has to be looked at
        before the next."""
        step_s = self._step_s.get(len(sequences))
        if step_s is None or not all(map(_is_greedy, sequences)):
            return 1
        return max(min(MOST_AT_ONCE, int(_AT_ONCE_S / step_s)), 1)

    def room(self, sequences: Several[Sequence]) -> int:
        """Steps for which all of them have room, and tokens left to come."""
        return min(map(_room, sequences))

    def observe(self, num_sequences: int, seconds: float) -> None:
        """A step of so many sequences took so long."""
        before = self._step_s.get(num_sequences, seconds)
        self._step_s[num_sequences] = max(seconds, before + (seconds - before) / _FORGET)


def _is_greedy(sequence: Sequence) -> bool:
    is_recomputed = sequence.routes.forced(cache_of(sequence).num_tokens, len(sequence.ids)) is not None
    is_free = sequence.draws_freely and sequence.request.sampling.deadline is None
    return is_free and sequence.drawing.takes_likeliest and not is_recomputed


def _room(sequence: Sequence) -> int:
    return min(sequence.request.sampling.max_tokens - sequence.num_sampled, cache_of(sequence).room)
