"""Who runs in the next step: every sequence that decodes, and one chunk of the oldest prompt still to be read.

First in, first out. Pure bookkeeping: no tensors are touched, no threads, no clocks.
"""

from collections import deque
from dataclasses import dataclass, field

from model_server.engine.drafter import DraftState
from model_server.engine.kv_cache import SequenceCache
from model_server.engine.runner import Segment
from model_server.types import GenerateRequest, GrammarState


@dataclass(eq=False, slots=True)
class Sequence:
    """A request in the engine. ``cache`` is set while it runs, ``draft_state`` where prediction layers help."""

    request: GenerateRequest
    seed: int
    ids: list[int] = field(init=False)
    """Prompt and sampled tokens."""
    cache: SequenceCache | None = None
    draft_state: DraftState | None = None
    cached_tokens: int = 0
    grammar: GrammarState | None = field(init=False)

    def __post_init__(self) -> None:
        self.ids = list(self.request.prompt_ids)
        grammar = self.request.sampling.grammar
        self.grammar = None if grammar is None else grammar.start()

    @property
    def num_sampled(self) -> int:
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def num_pending(self) -> int:
        """Tokens not yet in the cache: one while decoding."""
        return len(self.ids) - (self.cache.num_tokens if self.cache else 0)


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """One sequence's part of a step. Only the last part of its pending tokens yields a new one."""

    sequence: Sequence
    segment: Segment
    samples: bool


class Scheduler:
    """Waiting and running sequences."""

    def __init__(self, max_running: int, chunk_tokens: int) -> None:
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._max_running = max_running
        self._chunk_tokens = chunk_tokens

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def admit(self) -> list[Sequence]:
        """Move what fits from waiting to running; the caller gives each its cache."""
        admitted = []
        while self.waiting and len(self.running) < self._max_running:
            admitted.append(self.waiting.popleft())
            self.running.append(admitted[-1])
        return admitted

    def schedule(self) -> list[ScheduledSequence]:
        """The next step; empty when nothing runs."""
        prefilling = next((sequence for sequence in self.running if sequence.num_pending > 1), None)
        return [
            _scheduled(sequence, self._chunk_tokens)
            for sequence in self.running
            if sequence is prefilling or sequence.num_pending == 1
        ]


def _scheduled(sequence: Sequence, chunk_tokens: int) -> ScheduledSequence:
    cache = sequence.cache
    assert cache is not None, sequence.request.request_id
    end = min(cache.num_tokens + chunk_tokens, len(sequence.ids))
    return ScheduledSequence(
        sequence, Segment(sequence.ids[cache.num_tokens : end], cache), samples=end == len(sequence.ids)
    )
