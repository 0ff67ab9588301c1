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
        self._num_held = 0
        self._newest: list[Tensor] = []
        """Parts that were not copied yet: one at a time they would cost more than the rest of a step's bookkeeping."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def record(self, first: int, experts: Tensor) -> None:
        """Experts [T, M, K] of the tokens from position ``first`` on. What is known stays: a token that is computed
        again was told to use the same ones."""
        end = first + experts.shape[0]
        if end <= self._length:
            return
        self._newest.append(experts if first == self._length else experts[self._length - first :])
        self._length = end
        if len(self._newest) >= _GROWTH:
            self._collect()

    def view(self, start: int, end: int | None = None) -> Tensor:
        """[S, M, K] of the known tokens among those; not a copy, but final."""
        self._collect()
        return self._held[start : self._length if end is None else min(end, self._length)]

    def forced(self, start: int, end: int) -> Tensor | None:
        """[end - start, M, K] for computing these tokens again; None if none of them is known."""
        if start >= self._length or not self._held.shape[1]:
            return None
        known = self.view(start, end)
        free = known.new_full((end - start - len(known), *known.shape[1:]), FREE)
        return torch.cat((known, free))

    def none(self) -> "Routes":
        """A record of no tokens yet, of the same layers."""
        return Routes(*self._held.shape[1:])

    def _collect(self) -> None:
        """Copy the newest parts to the others."""
        if not self._newest:
            return
        if self._length > len(self._held):
            grown = self._held.new_empty(max(self._length + _GROWTH, self._length * 3 // 2), *self._held.shape[1:])
            grown[: self._num_held] = self._held[: self._num_held]
            self._held = grown
        self._held[self._num_held : self._length] = torch.cat(self._newest)
        self._num_held, self._newest = self._length, []
