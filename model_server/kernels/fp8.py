"""FP8 (e4m3) values with one f32 scale per block; the number meant is value times scale.

The published weights are in blocks of 128 x 128, and activations are quantised for each product in blocks of 1 x 128.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


@dataclass(frozen=True, slots=True)
class BlockScaled:
    """A matrix, or a stack of matrices, in FP8 blocks."""

    values: Tensor
    """e4m3 [..., R, C]"""
    scale: Tensor
    """f32 [..., ceil(R / block), ceil(C / block)]"""
    block: tuple[int, int]
    """Rows and columns of one scale; activations have blocks of one row."""

    def dense(self) -> Tensor:
        """f32 [..., R, C]"""
        return dequantize_blocks(self.values, self.scale, self.block)


def quantize_blocks(weight: Tensor, block: tuple[int, int] = (128, 128)) -> tuple[Tensor, Tensor]:
    """weight [..., R, C] -> e4m3 values [..., R, C] and f32 scales [..., ceil(R / block), ceil(C / block)].

    The largest magnitude of a block becomes 448, the largest e4m3 value. A block of zeros gets scale 1.
    """
    num_rows, num_cols = weight.shape[-2:]
    padded = F.pad(weight.detach().float(), (0, -num_cols % block[1], 0, -num_rows % block[0]))
    by_col = torch.unflatten(padded, -1, (-1, block[1]))
    blocks = torch.unflatten(by_col, -3, (-1, block[0]))  # [..., r, block, c, block]
    largest = blocks.abs().amax((-3, -1))
    scale = torch.where(largest > 0, largest / FP8_MAX, 1.0)
    values = (blocks / scale[..., :, None, :, None]).clamp(-FP8_MAX, FP8_MAX)
    flat = values.flatten(-4, -3).flatten(-2)[..., :num_rows, :num_cols]
    return flat.to(FP8), scale


def dequantize_blocks(values: Tensor, scale: Tensor, block: tuple[int, int] = (128, 128)) -> Tensor:
    """e4m3 values [..., R, C] and their block scales -> f32 weight."""
    num_rows, num_cols = values.shape[-2:]
    by_row = scale.float().repeat_interleave(block[0], dim=-2)[..., :num_rows, :]
    return values.float() * by_row.repeat_interleave(block[1], dim=-1)[..., :num_cols]


def refine_rows(scale: Tensor, block_rows: int, finer: int, num_rows: int) -> Tensor:
    """Scales [r, c] of ``num_rows`` rows in blocks of ``block_rows``, repeated for blocks of ``finer`` rows.

    ``finer`` must divide ``block_rows``. Nothing is rounded: the same numbers stand for fewer rows each.
    """
    return scale.repeat_interleave(block_rows // finer, dim=0)[: -(-num_rows // finer)]
