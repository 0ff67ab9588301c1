"""How many steps a greedy sequence that runs alone takes at once: as many as nobody notices.

Between two steps the engine hears of new requests and cancellations, and says what came; all that takes as long as a
third of a small model's step. While a backend takes several steps by itself, that waits.
"""

from model_server.engine.sequence import Sequence, cache_of

_AT_ONCE_S = 0.004
"""What others may have to wait."""
MOST_AT_ONCE = 8
_FORGET = 16
"""So many steps later a slow one counts for a third."""


class Ahead:
    """For one engine; knows how long its steps take."""

    def __init__(self) -> None:
        self._step_s: float | None = None
        """One step, the slowest of late."""

    def most(self, sequence: Sequence) -> int:
        """Steps that a sequence which decodes may take at once; 1 where each token has to be looked at."""
        cache = cache_of(sequence)
        is_recomputed = sequence.routes.forced(cache.num_tokens, len(sequence.ids)) is not None
        if self._step_s is None or is_recomputed or not _is_greedy(sequence):
            return 1
        left = sequence.request.sampling.max_tokens - sequence.num_sampled
        return max(min(MOST_AT_ONCE, int(_AT_ONCE_S / self._step_s), left, cache.room), 1)

    def observe(self, seconds: float) -> None:
        """A step of a lone sequence took so long."""
        before = seconds if self._step_s is None else self._step_s
        self._step_s = max(seconds, before + (seconds - before) / _FORGET)


def _is_greedy(sequence: Sequence) -> bool:
    return sequence.draws_freely and sequence.drawing.takes_likeliest and sequence.request.sampling.deadline is None
