"""What the hub calls each tensor, its shape and its type, and which part of our parameters it is."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.config import ModelConfig, QuantizationConfig
from model_server.kernels.fp8 import FP8
from model_server.models.mimo_v2_flash import MiMoV2Flash

SCALE = "_scale_inv"
ROUTER = (".mlp.gate.weight", ".mlp.gate.e_score_correction_bias")
QUANTIZED = re.compile(r"\.(?:[qkv]_proj|(?:gate|up|down)_proj)\.weight$")
"""Modules the published checkpoint quantises: all attention inputs and all feed-forward blocks."""
MTP_LAYER = re.compile(r"model\.mtp\.layers\.(\d+)\.")
MTP_ALIAS = "model.decoder."
"""How the hub's ``ignored_layers`` names the prediction layers, all at once."""


@dataclass(frozen=True, slots=True)
class HubTensor:
    """One tensor of a checkpoint's files."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def hub_layout(config: ModelConfig, num_mtp_layers: int) -> Iterator[HubTensor]:
    """Every tensor the published checkpoint of this shape has, scales included; nothing is allocated."""
    quantization = config.quantization_config or QuantizationConfig()
    with torch.device("meta"):
        model = MiMoV2Flash(config, num_mtp_layers)
    for slot in all_slots(model):
        yield from stored(slot, quantization)


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the hub's layout and the part of our parameter it fills."""

    name: str
    shape: tuple[int, ...]
    parameter: str
    expert: int | None = None
    """Index in a stacked parameter; None for one that is not stacked."""
    first_row: int = 0

    def part_of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self._part(parameters[self.parameter].detach(), 1)

    def scales_of(self, parameters: Mapping[str, Tensor], block_rows: int) -> Tensor:
        return self._part(parameters[self.parameter + SCALE].detach(), block_rows)

    def _part(self, whole: Tensor, block_rows: int) -> Tensor:
        if self.expert is None:
            return whole
        first = self.first_row // block_rows
        return whole[self.expert, first : first + ceil(self.shape[0], block_rows)]


def all_slots(model: MiMoV2Flash) -> list[Slot]:
    return [slot for name, parameter in model.named_parameters() for slot in _slots_of(name, parameter)]


def stored(slot: Slot, quantization: QuantizationConfig) -> Iterator[HubTensor]:
    """A slot as a quantised checkpoint's files have it: FP8 values and their scales, f32 for routers, else bf16."""
    if is_quantized(slot.name, quantization):
        yield HubTensor(slot.name, slot.shape, FP8)
        rows, cols = map(ceil, slot.shape, quantization.weight_block_size)
        yield HubTensor(slot.name + SCALE, (rows, cols), torch.float32)
    else:
        yield HubTensor(slot.name, slot.shape, torch.float32 if slot.name.endswith(ROUTER) else torch.bfloat16)


def is_quantized(name: str, quantization: QuantizationConfig) -> bool:
    return bool(QUANTIZED.search(name)) and not is_ignored(name, quantization)


def is_ignored(name: str, quantization: QuantizationConfig) -> bool:
    module = name.removesuffix(".weight")
    return not {module, MTP_LAYER.sub(MTP_ALIAS, module)}.isdisjoint(quantization.ignored_layers)


def ceil(size: int, step: int) -> int:
    return -(-size // step)


def _slots_of(name: str, parameter: Tensor) -> list[Slot]:
    shape = tuple(parameter.shape)
    if name.endswith(".experts.down"):
        prefix = name.removesuffix("down")
        return [Slot(f"{prefix}{e}.down_proj.weight", shape[1:], name, e) for e in range(shape[0])]
    if name.endswith(".experts.gate_up"):
        prefix, width = name.removesuffix("gate_up"), shape[1] // 2
        return [
            Slot(f"{prefix}{e}.{half}.weight", (width, shape[2]), name, e, first_row)
            for e in range(shape[0])
            for half, first_row in (("gate_proj", 0), ("up_proj", width))
        ]
    return [Slot(name, shape, name)]
