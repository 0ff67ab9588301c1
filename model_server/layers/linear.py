"""Linear maps without a bias, their weights plain or in FP8 blocks.

A weight in FP8 blocks stays so in memory: e4m3 values as the checkpoint's files have them, and a scale per block. It is
dequantised for each use, which is exact in f32: the result is bit for bit that of the dequantised weight. Such modules
have no gradient; training uses plain ones.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model_server.kernels.fp8 import FP8, dequantize_blocks


class BlockScaledLinear(nn.Module):
    """x W^T with ``weight`` [O, I] in e4m3 and ``weight_scale_inv`` [ceil(O / block), ceil(I / block)] in f32.

    ``block`` is (rows, columns) of one scale. Rows may be fewer than the checkpoint's block, where blocks of the files
    do not begin at multiples of it (see ``model_server.weights.scales``).
    """

    def __init__(self, shape: tuple[int, ...], block: tuple[int, int]) -> None:
        super().__init__()
        self.block = block
        self.weight = fp8_parameter(shape)
        self.weight_scale_inv = scale_parameter(shape, block)

    def dense(self) -> Tensor:
        """The dequantised weight [O, I] in f32."""
        return dequantize_blocks(self.weight, self.weight_scale_inv, self.block)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense().to(x.dtype))


Linear = nn.Linear | BlockScaledLinear


def dense_weight(layer: Linear, dtype: torch.dtype) -> Tensor:
    """The weight [O, I] as the layer multiplies by it: its own memory if plain, a new tensor if dequantised."""
    return layer.weight.detach() if isinstance(layer, nn.Linear) else layer.dense().to(dtype)


def fp8_parameter(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=FP8), requires_grad=False)


def scale_parameter(shape: tuple[int, ...], block: tuple[int, int]) -> nn.Parameter:
    """Room for the scales of a matrix, or of a stack of matrices."""
    *stack, num_rows, num_cols = shape
    return nn.Parameter(torch.empty(*stack, -(-num_rows // block[0]), -(-num_cols // block[1])), requires_grad=False)
