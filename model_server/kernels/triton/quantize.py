"""Activations to FP8: a program quantises the groups of one row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.fp8 import FP8, BlockScaled
from model_server.kernels.triton.numbers import scaled_groups


def quantize(x: Tensor, group: int) -> BlockScaled:
    num_rows, width = x.shape
    quantized = empty_quantized(num_rows, width, group, x.device)
    _quantize[(num_rows,)](x, quantized.values, quantized.scale, width, num_groups(width, group), group)
    return quantized


def empty_quantized(num_rows: int, width: int, group: int, device: torch.device) -> BlockScaled:
    """Room for the values and scales of a matrix in blocks of 1 x ``group``."""
    values = torch.empty(num_rows, width, dtype=FP8, device=device)
    scale = torch.empty(num_rows, triton.cdiv(width, group), device=device)
    return BlockScaled(values, scale, (1, group))


def num_groups(width: int, group: int) -> int:
    """Groups of a row, rounded up to what a tile can have: a power of two."""
    count: int = triton.next_power_of_2(triton.cdiv(width, group))
    return count


@triton.jit
def store_groups(
    x: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    row: tl.tensor,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """Quantise x f32 [GROUPS * GROUP], zero from WIDTH on, into a row of ``values`` and ``scales``."""
    quantized, scale = scaled_groups(x, GROUPS, GROUP)
    columns = tl.arange(0, GROUPS * GROUP)
    tl.store(values + row.to(tl.int64) * WIDTH + columns, quantized, mask=columns < WIDTH)
    groups = tl.arange(0, GROUPS)
    used = (WIDTH + GROUP - 1) // GROUP
    tl.store(scales + row * used + groups, scale, mask=groups < used)


@triton.jit
def _quantize(
    x: tl.tensor, values: tl.tensor, scales: tl.tensor, WIDTH: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr
) -> None:
    row = tl.program_id(0)
    columns = tl.arange(0, GROUPS * GROUP)
    wide = tl.load(x + row.to(tl.int64) * WIDTH + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    store_groups(wide, values, scales, row, WIDTH, GROUPS, GROUP)
