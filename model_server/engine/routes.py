"""The experts that the tokens of one sequence used, and go on using if they must be computed again."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_server.kernels.batch import FREE


class Routes:
    """Experts of tokens 0 to ``len`` - 1: uint8 [M, K] each, for the M layers that have any."""

    def __init__(self, num_layers: int, top_k: int) -> None:
        self._shape = (num_layers, top_k)
        self._length = 0
        self._held = bytearray()
        """One token after another; it grows by little parts, which a tensor cannot."""

    def __len__(self) -> int:
        return self._length

    def record(self, first: int, experts: "NDArray[np.uint8]") -> None:
        """Experts [T, M, K] of the tokens from position ``first`` on. What is known stays: a token that is computed
        again was told to use the same ones."""
        end = first + len(experts)
        if end > self._length:
            self._held += experts[self._length - first :].tobytes()
            self._length = end

    def view(self, start: int, end: int | None = None) -> Tensor:
        """[S, M, K] of the known tokens among those; a copy."""
        start, end = min(start, self._length), self._length if end is None else min(end, self._length)
        size = self._shape[0] * self._shape[1]
        held = np.frombuffer(self._held[start * size : end * size], np.uint8)
        return torch.from_numpy(held.reshape(max(end - start, 0), *self._shape))

    def forced(self, start: int, end: int) -> Tensor | None:
        """[end - start, M, K] for computing these tokens again; None if none of them is known."""
        if start >= self._length or not self._shape[0]:
            return None
        known = self.view(start, end)
        free = known.new_full((end - start - len(known), *known.shape[1:]), FREE)
        return torch.cat((known, free))

    def none(self) -> "Routes":
        """A record of no tokens yet, of the same layers."""
        return Routes(*self._shape)
