"""Residual sum, root mean square norm and quantisation in one pass over a row: each is read and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.fp8 import BlockScaled
from model_server.kernels.triton.numbers import narrow
from model_server.kernels.triton.quantize import empty_quantized, num_groups, store_groups


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, group: int) -> tuple[Tensor, Tensor, BlockScaled]:
    num_rows, width = x.shape
    total, normed = torch.empty_like(residual), torch.empty_like(x)
    quantized = empty_quantized(num_rows, width, group, x.device)
    _add_norm[(num_rows,)](
        x, residual, weight, total, normed, quantized.values, quantized.scale, eps, width, num_groups(width, group),
        group,
    )  # fmt: skip
    return total, normed, quantized


@triton.jit
def _add_norm(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    columns = tl.arange(0, GROUPS * GROUP)
    inside = columns < WIDTH
    at = row.to(tl.int64) * WIDTH + columns
    added = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    kept = narrow(added, total.dtype.element_ty)
    tl.store(total + at, kept, mask=inside)
    wide = kept.to(tl.float32)  # the sum as the next layer will read it
    mean = tl.sum(wide * wide, axis=0) / WIDTH
    scaled = wide * tl.rsqrt(mean + eps) * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + at, narrow(scaled, normed.dtype.element_ty), mask=inside)
    store_groups(scaled, values, scales, row, WIDTH, GROUPS, GROUP)
