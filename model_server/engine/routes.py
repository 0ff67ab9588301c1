"""The experts that the tokens of one sequence used, and go on using if they must be computed again."""

import torch
from torch import Tensor

from model_server.kernels.batch import FREE

_GROWTH = 256
"""Tokens, at least; a long record grows by half."""


class Routes:
    """Experts of tokens 0 to ``len`` - 1: uint8 [M, K] each, for the M layers that have any."""

    def __init__(self, num_layers: int, top_k: int) -> None:
        self._held = torch.empty(0, num_layers, top_k, dtype=torch.uint8)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def record(self, first: int, experts: Tensor) -> None:
        """Experts [T, M, K] of the tokens from position ``first`` on. What is known stays: a token that is computed
        again was told to use the same ones."""
        news = experts[self._length - first :]
        end = self._length + len(news)
        if end > len(self._held):
            grown = self._held.new_empty(max(end + _GROWTH, end * 3 // 2), *self._held.shape[1:])
            grown[: self._length] = self._held[: self._length]
            self._held = grown
        self._held[self._length : end] = news
        self._length = end

    def view(self, start: int, end: int | None = None) -> Tensor:
        """[S, M, K] of the known tokens among those; not a copy, but final."""
        return self._held[start : self._length if end is None else min(end, self._length)]

    def forced(self, start: int, end: int) -> Tensor | None:
        """[end - start, M, K] for computing these tokens again; None if none of them is known."""
        if start >= self._length or not self._held.shape[1]:
            return None
        known = self.view(start, end)
        free = known.new_full((end - start - len(known), *known.shape[1:]), FREE)
        return torch.cat((known, free))
