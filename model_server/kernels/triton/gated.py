"""silu(gate) * up, quantised for the product that follows."""

import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.fp8 import BlockScaled
from model_server.kernels.triton.quantize import empty_quantized, num_groups, store_groups


def gated(joined: Tensor, group: int) -> BlockScaled:
    num_rows, width = joined.shape[0], joined.shape[1] // 2
    quantized = empty_quantized(num_rows, width, group, joined.device)
    _gated[(num_rows,)](joined, quantized.values, quantized.scale, width, num_groups(width, group), group)
    return quantized


@triton.jit
def _gated(
    joined: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    columns = tl.arange(0, GROUPS * GROUP)
    inside = columns < WIDTH
    at = joined + row.to(tl.int64) * 2 * WIDTH + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + WIDTH, mask=inside, other=0.0).to(tl.float32)
    store_groups(gate * tl.sigmoid(gate) * up, values, scales, row, WIDTH, GROUPS, GROUP)
