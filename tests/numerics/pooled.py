"""Sequences over pools of their own, for tests and benchmarks that run a backend without an engine."""

import random
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.engine.backend import StepBackend
from model_server.kernels.batch import PAGE, Segment, StepOutput, new_pools


class PooledSequences:
    """``num`` sequences of up to ``context_length`` tokens. Pages lie in a random order, full of what must not be
    read."""

    def __init__(
        self,
        config: ModelConfig,
        backend: StepBackend,
        num: int = 1,
        context_length: int = 512,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        per_sequence = -(-context_length // PAGE)
        self.backend = backend
        self.pools = new_pools(config, num * per_sequence, num, dtype)
        for pool in (self.pools.page_k, self.pools.page_v, self.pools.ring_k, self.pools.ring_v):
            pool.fill_(float("nan"))
        pages = list(range(num * per_sequence))
        random.Random(0).shuffle(pages)
        self._pages = [array("i", pages[index * per_sequence : (index + 1) * per_sequence]) for index in range(num)]
        self.lengths = [0] * num
        """Tokens that count, of each sequence."""

    def segment(
        self, index: int, ids: Sequence[int], num_logits: int = 1, forced_experts: Tensor | None = None
    ) -> Segment:
        """The next tokens of sequence ``index``."""
        return Segment(ids, self.lengths[index], self._pages[index], index, num_logits, forced_experts)

    def step(self, segments: Sequence[Segment]) -> StepOutput:
        """Run them, and count their tokens; a test may set ``lengths`` back."""
        output = self.backend.step(segments, self.pools)
        for segment in segments:
            self.lengths[segment.ring] += len(segment.ids)
        return output

    def forward(self, batch: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
        """Continue sequences by ids; f32 logits [len(batch), vocabulary] after each one's last token."""
        return self.step([self.segment(index, ids) for index, ids in batch]).logits
