"""Rows sorted by the experts they go to, so that each expert's weights are read once for all of its rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model_server.kernels.fp8 import BlockScaled

if TYPE_CHECKING:
    from model_server.kernels.ops import Ops


@dataclass(frozen=True, slots=True)
class Groups:
    """Pairs of a row and an expert, R * K of them, in the order of experts; within one, of rows."""

    rows: Tensor
    """int32 [R * K]: the row of each sorted pair."""
    places: Tensor
    """int32 [R, K]: where each pair of a row is among the sorted ones."""
    ends: Tensor
    """int32 [E]: end of each expert's pairs."""


def group(ids: Tensor, num_experts: int) -> Groups:
    """ids [R, K] -> groups, without waiting for the device."""
    flat = ids.flatten().long()
    order = flat.argsort(stable=True)
    places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=ids.device))
    counts = torch.zeros(num_experts, dtype=torch.int32, device=ids.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
    return Groups(
        rows=(order // ids.shape[1]).int(),
        places=places.view(ids.shape).int(),
        ends=counts.cumsum(0, dtype=torch.int32),
    )


def mix(
    ops: "Ops",
    x: BlockScaled,
    ids: Tensor,
    shares: Tensor,
    gate_up: BlockScaled,
    down: BlockScaled,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """x [R, C] through its experts' gate_up [E, 2 I, C] and down [E, C, I] -> weighted sums f32 [R, C].

    ``dtype`` is that of both products' results, which are written and read again: in bf16 they are half the bytes.
    """
    groups = group(ids, len(gate_up.values))
    joined = ops.grouped_linear(x, gate_up, groups, gather=True, dtype=dtype)
    inner = ops.gated(joined, down.block[1])
    outer = ops.grouped_linear(inner, down, groups, gather=False, dtype=dtype)
    return ops.combine(outer, groups, shares)
