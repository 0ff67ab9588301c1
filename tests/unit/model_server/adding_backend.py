"""A backend whose "model" adds up tokens, so that texts can be checked exactly and thousands of steps cost little.

Keys and values are the tokens themselves, written to pages and rings where a real backend writes its own. The next
token follows from all that a sequence should see there: one page, ring row or position that is wrong changes the text.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.kernels.batch import BLOCK, FREE, PAGE, CachePools, Segment, StepOutput, ring_size


class AddingBackend:
    """See :class:`model_server.engine.backend.StepBackend`. For models with one global and one window layer."""

    def __init__(self, config: ModelConfig) -> None:
        assert config.hybrid_layer_pattern == (0, 1)
        self.config = config
        self.drift = 0
        """Added to the experts that rows choose for themselves."""
        self.poison: int | None = None
        """A token that makes its step fail."""
        self.num_rows = 0
        """Rows run since the start."""
        self.most_sequences = 0

    def step(self, batch: Sequence[Segment], pools: CachePools) -> StepOutput:
        self.most_sequences = max(self.most_sequences, len(batch))
        if any(self.poison in segment.ids for segment in batch):
            raise RuntimeError("poisoned")
        logits, experts = [], []
        for segment in batch:
            self.num_rows += len(segment.ids)
            self._write(segment, pools)
            end = segment.first + len(segment.ids)
            logits += [self._logits(segment, position, pools) for position in range(end - segment.num_logits, end)]
            experts.append(self._experts(segment))
        hidden = torch.zeros(sum(len(segment.ids) for segment in batch), self.config.hidden_size)
        stacked = torch.stack(logits) if logits else torch.empty(0, self.config.vocab_size)
        return StepOutput(stacked, hidden, torch.cat(experts))

    def text(self, prompt: Sequence[int], count: int) -> list[int]:
        """What a sequence of this prompt says, from the tokens alone."""
        ids = list(prompt)
        for _ in range(count):
            ids.append(self._next(torch.tensor(ids), torch.tensor(ids[-self.config.window_keys :]), len(ids) - 1))
        return ids[len(prompt) :]

    def routes(self, ids: Sequence[int]) -> Tensor:
        """uint8 [S, M, K] that tokens choose for themselves."""
        numbers = torch.tensor(ids) * 3 + torch.arange(len(ids)) + self.drift
        top_k = self.config.num_experts_per_tok
        chosen = (numbers[:, None, None] + torch.arange(top_k)) % self.config.n_routed_experts
        return chosen.expand(-1, sum(self.config.moe_layer_freq), -1).to(torch.uint8)

    def _write(self, segment: Segment, pools: CachePools) -> None:
        size = ring_size(self.config.window_keys)
        for position, token in enumerate(segment.ids, start=segment.first):
            page, slot = segment.pages[position // PAGE], position % PAGE
            pools.page_k[page, :, :, slot // BLOCK, :, slot % BLOCK] = token
            pools.page_v[page, :, :, slot] = token
            slot = position % size
            pools.ring_k[segment.ring, :, :, slot // BLOCK, :, slot % BLOCK] = token
            pools.ring_v[segment.ring, :, :, slot] = token

    def _logits(self, segment: Segment, position: int, pools: CachePools) -> Tensor:
        size, seen = ring_size(self.config.window_keys), torch.arange(position + 1)
        pages = torch.tensor(segment.pages)[seen // PAGE]
        window = seen[-self.config.window_keys :] % size
        everything = pools.page_v[pages, 0, 0, seen % PAGE, 0]
        newest = pools.ring_k[segment.ring, 0, 0, window // BLOCK, 0, window % BLOCK]
        assert torch.equal(everything, pools.page_k[pages, 0, 0, seen % PAGE // BLOCK, 0, seen % BLOCK])
        assert torch.equal(newest, pools.ring_v[segment.ring, 0, 0, window, 0])
        logits = torch.zeros(self.config.vocab_size)
        logits[self._next(everything.long(), newest.long(), position)] = 9.0
        return logits

    def _next(self, everything: Tensor, newest: Tensor, position: int) -> int:
        weighted = (everything * (torch.arange(len(everything)) % 13 + 1)).sum() + (newest * 5).sum()
        return int(weighted + position) % self.config.vocab_size

    def _experts(self, segment: Segment) -> Tensor:
        chosen = self.routes([0] * segment.first + list(segment.ids))[segment.first :]
        forced = segment.forced_experts
        return chosen if forced is None else torch.where((forced == FREE).all(-1, keepdim=True), chosen, forced)
