"""Products of FP8 matrices in blocks, of one weight or of a stack of experts' weights over sorted rows.

Values are multiplied as they are, a block of columns at a time, and each block's sum is scaled as it joins the total in
f32. So a GPU's FP8 units, which keep few bits of long sums, never add up more than one block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.experts import Groups
from model_server.kernels.fp8 import BlockScaled
from model_server.kernels.triton.numbers import dot, narrow

_TILE_OUT = 128
_FEW_ROWS = 16
"""The fewest rows the matrix units take."""
_MANY_ROWS = 128


def linear(x: BlockScaled, weight: BlockScaled, dtype: torch.dtype) -> Tensor:
    num_rows = len(x.values)
    out = torch.empty(num_rows, len(weight.values), dtype=dtype, device=x.values.device)
    tile_rows = _tile_rows(num_rows)
    tile_out = _tile_out(out.shape[1])
    _linear[(triton.cdiv(num_rows, tile_rows), triton.cdiv(out.shape[1], tile_out))](
        x.values, x.scale, weight.values, weight.scale, out, num_rows, *out.shape[1:], x.values.shape[1],
        weight.block[0], weight.block[1], tile_rows, tile_out, num_warps=_num_warps(tile_rows),
    )  # fmt: skip
    return out


def grouped_linear(x: BlockScaled, weight: BlockScaled, groups: Groups, gather: bool, dtype: torch.dtype) -> Tensor:
    num_experts, num_out, width = weight.values.shape
    num_pairs = len(groups.rows)
    out = torch.empty(num_pairs, num_out, dtype=dtype, device=x.values.device)
    tile_rows, tile_out = _tile_rows(num_pairs // num_experts), _tile_out(num_out)
    experts, firsts, num_tiles = _tiles(groups, num_experts, num_pairs, tile_rows)
    _grouped_linear[(num_tiles, triton.cdiv(num_out, tile_out))](
        x.values, x.scale, weight.values, weight.scale, out, groups.rows, groups.ends, experts, firsts, num_experts,
        num_out, width, weight.block[0], weight.block[1], tile_rows, tile_out, gather,
        num_warps=_num_warps(tile_rows),
    )  # fmt: skip
    return out


def _tile_rows(num_rows: int) -> int:
    rows: int = triton.next_power_of_2(num_rows)
    return min(_MANY_ROWS, max(_FEW_ROWS, rows))


def _num_warps(tile_rows: int) -> int:
    """Enough threads that a tile's sums, and the products of the block at hand, fit in their registers."""
    return 8 if tile_rows > 64 else 4


def _tile_out(num_out: int) -> int:
    outs: int = triton.next_power_of_2(num_out)
    return min(_TILE_OUT, max(16, outs))


def _tiles(groups: Groups, num_experts: int, num_pairs: int, tile_rows: int) -> tuple[Tensor, Tensor, int]:
    """Expert and first pair of every tile; the number of tiles is a bound that needs no word from the device, and the
    tiles beyond the last have expert ``num_experts``."""
    bound = min(num_pairs, num_pairs // tile_rows + num_experts)
    begins = torch.cat((groups.ends.new_zeros(1), groups.ends[:-1]))
    last_tiles = ((groups.ends - begins + tile_rows - 1) // tile_rows).cumsum(0, dtype=torch.int32)
    numbers = torch.arange(bound, dtype=torch.int32, device=groups.ends.device)
    experts = torch.searchsorted(last_tiles, numbers, right=True, out_int32=True)
    of_tile = experts.clamp(max=num_experts - 1).long()
    earlier = torch.cat((last_tiles.new_zeros(1), last_tiles[:-1]))
    return experts, begins[of_tile] + (numbers - earlier[of_tile]) * tile_rows, bound


@triton.jit
def _linear(
    x: tl.tensor,
    x_scales: tl.tensor,
    weight: tl.tensor,
    weight_scales: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    NUM_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_OUT: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    outs = tl.program_id(1) * TILE_OUT + tl.arange(0, TILE_OUT)
    total = _product(x, x_scales, rows, rows < num_rows, weight, weight_scales, outs, NUM_OUT, WIDTH, BLOCK_OUT, BLOCK)
    at = rows.to(tl.int64)[:, None] * NUM_OUT + outs[None, :]
    tl.store(out + at, narrow(total, out.dtype.element_ty), mask=(rows < num_rows)[:, None] & (outs < NUM_OUT)[None, :])


@triton.jit
def _grouped_linear(
    x: tl.tensor,
    x_scales: tl.tensor,
    weight: tl.tensor,
    weight_scales: tl.tensor,
    out: tl.tensor,
    pair_rows: tl.tensor,
    ends: tl.tensor,
    experts: tl.tensor,
    firsts: tl.tensor,
    num_experts: tl.tensor,
    NUM_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_OUT: tl.constexpr,
    GATHER: tl.constexpr,
) -> None:
    tile = tl.program_id(0)
    expert = tl.load(experts + tile)
    if expert >= num_experts:
        return
    pairs = tl.load(firsts + tile) + tl.arange(0, TILE_ROWS)
    inside = pairs < tl.load(ends + expert)
    rows = tl.load(pair_rows + pairs, mask=inside, other=0) if GATHER else pairs
    outs = tl.program_id(1) * TILE_OUT + tl.arange(0, TILE_OUT)
    num_blocks: tl.constexpr = ((NUM_OUT + BLOCK_OUT - 1) // BLOCK_OUT) * ((WIDTH + BLOCK - 1) // BLOCK)
    weight += expert.to(tl.int64) * NUM_OUT * WIDTH
    weight_scales += expert * num_blocks
    total = _product(x, x_scales, rows, inside, weight, weight_scales, outs, NUM_OUT, WIDTH, BLOCK_OUT, BLOCK)
    at = pairs.to(tl.int64)[:, None] * NUM_OUT + outs[None, :]
    tl.store(out + at, narrow(total, out.dtype.element_ty), mask=inside[:, None] & (outs < NUM_OUT)[None, :])


@triton.jit
def _product(
    x: tl.tensor,
    x_scales: tl.tensor,
    rows: tl.tensor,
    rows_inside: tl.tensor,
    weight: tl.tensor,
    weight_scales: tl.tensor,
    outs: tl.tensor,
    NUM_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """x [rows, WIDTH] times weight [outs, WIDTH] transposed, f32 [rows, outs]."""
    num_blocks: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    columns = tl.arange(0, BLOCK)
    x_at = x + rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    weight_at = weight + outs.to(tl.int64)[None, :] * WIDTH + columns[:, None]
    outs_inside = outs < NUM_OUT
    total = tl.zeros((rows.shape[0], outs.shape[0]), tl.float32)
    for block in range(num_blocks):
        inside = columns < WIDTH - block * BLOCK
        x_tile = tl.load(x_at + block * BLOCK, mask=rows_inside[:, None] & inside[None, :], other=0.0)
        weight_tile = tl.load(weight_at + block * BLOCK, mask=inside[:, None] & outs_inside[None, :], other=0.0)
        x_scale = tl.load(x_scales + rows * num_blocks + block, mask=rows_inside, other=0.0)
        weight_scale = tl.load(weight_scales + (outs // BLOCK_OUT) * num_blocks + block, mask=outs_inside, other=0.0)
        total += dot(x_tile, weight_tile) * (x_scale[:, None] * weight_scale[None, :])
    return total
