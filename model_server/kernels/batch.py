"""The next tokens of several sequences, where their keys and values lie, and what a step gives back.

Shape letters: P pages, S ring slots, Lg and Lw global and window layers in the order of the model, G key-value heads,
D query-key width, V value width, R rows (the tokens of all segments one after another), T rows of one segment,
C hidden width, M layers with experts, K experts per token.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.kernels.memory import empty

PAGE = 64
"""Positions in a page of the global layers."""

BLOCK = 16
"""Positions whose keys lie transposed side by side, so that one vector register holds a score of each."""

TILE = 32
"""Rows of one sequence that are written to a ring before they attend: older keys must survive that long."""

FREE = 255
"""In forced experts: the router chooses. A layer's row is free when all its K entries say so; no route of several
experts names one twice, so expert 255 can still be forced."""


def ring_size(window_keys: int) -> int:
    """Positions in a ring: what a tile's first row sees before it, and the tile; a multiple of :data:`BLOCK`.

    Up to ``TILE - 1`` newest rows can be taken back by position alone: they have not yet overwritten a key that the
    rows before them see.
    """
    return -(-(window_keys - 1 + TILE) // BLOCK) * BLOCK


@dataclass(frozen=True, slots=True)
class CachePools:
    """Keys (after rotation) and values (after scaling) of every sequence, f32 or bf16; contiguous.

    Position p of a sequence is at offset p % PAGE of page ``pages[p // PAGE]``, and at offset p % ring_size of its
    ring. What no segment wrote is uninitialised and may hold anything.
    """

    page_k: Tensor
    """[P, Lg, G, PAGE / BLOCK, D, BLOCK]"""
    page_v: Tensor
    """[P, Lg, G, PAGE, V]"""
    ring_k: Tensor
    """[S, Lw, G, ring_size / BLOCK, D, BLOCK]"""
    ring_v: Tensor
    """[S, Lw, G, ring_size, V]"""


def new_pools(config: ModelConfig, num_pages: int, num_slots: int, dtype: torch.dtype) -> CachePools:
    """Uninitialised pools; the system gives memory to what is written, not before."""
    num_window = sum(config.hybrid_layer_pattern)
    num_global = config.num_hidden_layers - num_window
    page_k, page_v = _pool(config, False, num_pages, num_global, PAGE, dtype)
    ring_k, ring_v = _pool(config, True, num_slots, num_window, ring_size(config.window_keys), dtype)
    return CachePools(page_k, page_v, ring_k, ring_v)


def new_draft_rings(config: ModelConfig, num_slots: int, num_layers: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rings of the prediction layers: k and v as in :class:`CachePools`, with Lw the prediction layers."""
    return _pool(config, True, num_slots, num_layers, ring_size(config.window_keys), dtype)


@dataclass(frozen=True, slots=True)
class Segment:
    """The next tokens of one sequence."""

    ids: Sequence[int]
    first: int
    """Position of the first of them; what lies before it has been written."""
    pages: "array[int]"
    """Type code "i": the sequence's page table, long enough for the last of them."""
    ring: int
    """The sequence's ring slot."""
    num_logits: int = 1
    """After so many of the newest tokens, logits are wanted; may be 0."""
    forced_experts: Tensor | None = None
    """uint8 [T, M, K]: experts to use instead of the routers' choice; see :data:`FREE`."""
    oldest: int = 0
    """For prediction layers, whose windows may begin late: positions before it have no keys."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Fresh tensors, rows in the order of the segments."""

    logits: Tensor
    """f32, the wanted rows [sum of num_logits, vocabulary]."""
    hidden: Tensor
    """f32 [R, C], before the final norm."""
    experts: Tensor
    """uint8 [R, M, K]: the experts used."""
    likeliest: "array[int] | None" = None
    """Type code "q": for each row of logits the lowest id of its largest number, -1 if one is not finite. None where
    the backend does not look."""

    @property
    def is_finite(self) -> bool:
        """Whether all logits are."""
        if self.likeliest is not None:
            return -1 not in self.likeliest
        # One number that is not makes the sum so too, and a sum may overflow.
        return math.isfinite(self.logits.sum().item()) or bool(self.logits.isfinite().all())


def _pool(
    config: ModelConfig, window: bool, num: int, num_layers: int, positions: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    heads = config.heads(window)
    k = empty((num, num_layers, heads.num_kv_heads, positions // BLOCK, heads.qk_dim, BLOCK), dtype)
    v = empty((num, num_layers, heads.num_kv_heads, positions, heads.v_dim), dtype)
    return k, v
