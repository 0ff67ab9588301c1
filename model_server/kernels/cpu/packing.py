"""Weights as the step reads them: panels of 32 outputs, and for each input the panel's weights side by side.

Shape letters: O outputs (rows of a weight), I inputs, P panels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model_server.kernels.cpu.library import MatrixRecord
from model_server.kernels.memory import Arena

PANEL = 32
HALF = 16
SCALE_INPUTS = 128
"""Inputs that share a scale of an FP8 weight."""

_STORAGE = {torch.float32: 0, torch.bfloat16: 1, torch.float8_e4m3fn: 2}
_PAIRS = 3
"""Storage of bf16 whose inputs lie in pairs."""
_FP8_EXPONENT = 2.0**120
"""See ``Fp8Panel`` in ``matmul.h``."""
_LARGEST_SCALE = 2.0**7
"""Above, the product with that is no f32."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Rows of a matrix: f32, bf16, or e4m3 values with f32 scales [O, ceil(I / 128)]."""

    values: Tensor
    """[O, I]"""
    scales: Tensor | None = None

    def rows(self, first: int, end: int) -> "Weight":
        return Weight(self.values[first:end], None if self.scales is None else self.scales[first:end])


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """Owns what its record points to."""

    panels: Tensor
    scales: Tensor | None
    record: MatrixRecord


def pack(weight: Weight, arena: Arena, *, pairs: bool = False) -> PackedMatrix:
    """A copy in panels, in the type it has; f32 numbers that are all bf16 numbers take half the memory.

    Args:
        pairs: what is stored in bf16 is multiplied with inputs rounded to bf16, two at once.

    Raises:
        ValueError: an e4m3 value is not a number, which the step has no way to say.
    """
    if weight.scales is not None:
        if bool(((_raw(weight.values) & 0x7F) == 0x7F).any()):
            raise ValueError("an FP8 weight is not a number")
        if float(weight.scales.abs().max()) >= _LARGEST_SCALE:
            weight = Weight(dense(weight))
    weight = Weight(_narrowed(weight.values), weight.scales)
    num_out, num_in = weight.values.shape
    pairs = pairs and weight.values.dtype == torch.bfloat16
    panels, scales = arena.hold(_pairs(weight.values) if pairs else _panels(weight.values)), None
    if weight.scales is not None:
        by_panel = _padded(weight.scales.float() * _FP8_EXPONENT, PANEL)
        scales = arena.hold(torch.unflatten(by_panel, 0, (-1, PANEL)).transpose(1, 2))
    record = MatrixRecord(
        panels=panels.data_ptr(),
        scales=None if scales is None else scales.data_ptr(),
        storage=_PAIRS if pairs else _STORAGE[weight.values.dtype],
        num_in=num_in,
        num_out=num_out,
    )
    return PackedMatrix(panels, scales, record)


def joined(weights: Sequence[Weight]) -> Weight:
    """Rows of several weights one after another. Where their types differ, the result is f32."""
    if len({weight.values.dtype for weight in weights}) > 1:
        weights = [Weight(dense(weight)) for weight in weights]
    scales = [weight.scales for weight in weights if weight.scales is not None]
    return Weight(_cat([weight.values for weight in weights]), torch.cat(scales) if scales else None)


def alternating(gate: Weight, up: Weight) -> Weight:
    """Runs of 16 rows of gate and of up in turn, each padded with rows of zeros to whole runs."""

    def runs(tensor: Tensor) -> Tensor:
        return torch.unflatten(_padded(tensor, HALF), 0, (-1, HALF))

    both = joined((gate, up))
    values, scales = both.values, both.scales
    middle = len(gate.values)
    mixed = torch.stack((runs(_raw(values[:middle])), runs(_raw(values[middle:]))), dim=1)
    if scales is not None:
        scales = torch.stack((runs(scales[:middle]), runs(scales[middle:])), dim=1).flatten(0, 2)
    return Weight(mixed.flatten(0, 2).view(values.dtype), scales)


def dense(weight: Weight) -> Tensor:
    """The weight [O, I] in f32."""
    values = weight.values.float()
    if weight.scales is None:
        return values
    return values * weight.scales.repeat_interleave(SCALE_INPUTS, dim=1)[:, : values.shape[1]]


def _panels(values: Tensor) -> Tensor:
    """[O, I] -> f32 [P, I, 32]; bf16 [P, I, 16, 2]; e4m3 [P, ceil(I / 2), 16, 2, 2]: the two halves of a panel lie
    within a 32-bit lane, and of two inputs for e4m3."""
    by_half = torch.unflatten(_padded(_raw(values), PANEL), 0, (-1, 2, HALF))  # [P, 2, 16, I]
    match values.dtype:
        case torch.float32:
            return by_half.permute(0, 3, 1, 2)
        case torch.bfloat16:
            return by_half.permute(0, 3, 2, 1)
        case torch.float8_e4m3fn:
            pairs = torch.unflatten(F.pad(by_half, (0, by_half.shape[-1] % 2)), -1, (-1, 2))  # [P, 2, 16, I / 2, 2]
            return pairs.permute(0, 3, 2, 4, 1)
        case other:
            raise ValueError(f"weights of type {other} cannot be packed")


def _pairs(values: Tensor) -> Tensor:
    """bf16 [O, I] -> [P, ceil(I / 2), 32, 2]: two inputs of an output lie within a 32-bit lane."""
    by_panel = torch.unflatten(_padded(values, PANEL), 0, (-1, PANEL))  # [P, 32, I]
    return torch.unflatten(F.pad(by_panel, (0, by_panel.shape[-1] % 2)), -1, (-1, 2)).permute(0, 2, 1, 3)


def _narrowed(values: Tensor) -> Tensor:
    """Checkpoints mostly hold bf16, which the step widens without loss: the same results from fewer bytes to read."""
    if values.dtype != torch.float32:
        return values
    narrow = values.to(torch.bfloat16)
    return narrow if torch.equal(narrow.float(), values) else values


def _padded(tensor: Tensor, rows: int) -> Tensor:
    return F.pad(tensor, (0, 0, 0, -len(tensor) % rows))


def _raw(values: Tensor) -> Tensor:
    """e4m3 as bytes, which can be padded and permuted; zero is zero in both."""
    return values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_raw(tensor) for tensor in tensors]).view(tensors[0].dtype)
