"""The weighted sum over a row's experts, in a fixed order: no atomic additions, so the same bits every time."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.experts import Groups

_TILE = 1024


def combine(pairs: Tensor, groups: Groups, shares: Tensor) -> Tensor:
    (num_rows, top_k), width = shares.shape, pairs.shape[1]
    out = torch.empty(num_rows, width, device=pairs.device)
    tile = min(_TILE, triton.next_power_of_2(width))
    _combine[(num_rows, triton.cdiv(width, tile))](pairs, groups.places, shares, out, width, top_k, tile)
    return out


@triton.jit
def _combine(
    pairs: tl.tensor,
    places: tl.tensor,
    shares: tl.tensor,
    out: tl.tensor,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = columns < WIDTH
    total = tl.zeros((TILE,), tl.float32)
    for k in range(K):
        pair = tl.load(places + row * K + k).to(tl.int64)
        part = tl.load(pairs + pair * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
        total += part * tl.load(shares + row * K + k)
    tl.store(out + row.to(tl.int64) * WIDTH + columns, total, mask=inside)
