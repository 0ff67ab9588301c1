"""Where the rows of a step lie: the new tokens of several sequences, one after another."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens of B sequences, R rows in all. Lengths and positions are known where steps are planned, so they are
    numbers here; what says where keys and values lie is on the device."""

    lengths: tuple[int, ...]
    """New tokens of each sequence; none is 0."""
    firsts: tuple[int, ...]
    """Position of the first of them."""
    pages: Tensor
    """int32 [B, most pages of one]: page tables; what is behind a sequence's last page is not read."""
    slots: Tensor
    """int32 [B]: ring slots."""


@lru_cache(maxsize=16)
def tiles(lengths: tuple[int, ...], firsts: tuple[int, ...], block: int, device: torch.device) -> Tensor:
    """int32 [tiles, 5]: sequence, first row, number of rows (at most ``block``), position of the first row, rows of the
    sequence before it. All layers of a step share one list, hence the cache."""
    listed: list[tuple[int, int, int, int, int]] = []
    start = 0
    for sequence, (length, first) in enumerate(zip(lengths, firsts, strict=True)):
        for before in range(0, length, block):
            listed.append((sequence, start + before, min(block, length - before), first + before, before))
        start += length
    return torch.tensor(listed, dtype=torch.int32).to(device)


@lru_cache(maxsize=16)
def targets(lengths: tuple[int, ...], firsts: tuple[int, ...], newest: int, device: torch.device) -> Tensor:
    """int32 [n, 3]: row, sequence and position of the ``newest`` rows of each sequence."""
    listed: list[tuple[int, int, int]] = []
    start = 0
    for sequence, (length, first) in enumerate(zip(lengths, firsts, strict=True)):
        listed += [(start + row, sequence, first + row) for row in range(max(0, length - newest), length)]
        start += length
    return torch.tensor(listed, dtype=torch.int32).to(device)
