"""The scales of an FP8 matrix.

Those of keys and values come in two layouts, told apart by the number of K's scale rows: blocks over all rows of a
matrix, or blocks over each head's K rows and V rows together, one of which may cover the end of K and the beginning of
V. Here the second becomes blocks of fewer rows, so that whoever applies scales knows one rule: row // block rows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.weights.files import CheckpointError, Source
from model_server.weights.layout import SCALE, Slot, ceil, is_ignored


@dataclass(frozen=True, slots=True)
class Scales:
    """Which tensors hold the scales of one matrix, and the rows and columns each scale stands for."""

    name: str
    block: tuple[int, int]
    """Of one scale that :meth:`take` returns."""
    by_head: "_ByHead | None" = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.by_head is None else (self.name, self.by_head.k_name)

    def take(self, scales: Mapping[str, Tensor]) -> Tensor:
        """f32 [ceil(R / block), ceil(C / block)]"""
        if self.by_head is None:
            return scales[self.name]
        return self.by_head.take(scales[self.by_head.k_name], None if self.is_k else scales[self.name], self.block[0])

    @property
    def is_k(self) -> bool:
        return self.by_head is not None and self.by_head.k_name == self.name


@dataclass(frozen=True, slots=True)
class _ByHead:
    """The layout that blocks a head's K rows and V rows together. The scale of a block that has both is K's."""

    k_name: str
    num_heads: int
    k_rows: int
    v_rows: int
    block_rows: int
    """Of the files."""

    def take(self, k_scale: Tensor, v_scale: Tensor | None, finer: int) -> Tensor:
        """Scales of K, or with ``v_scale`` of V, for blocks of ``finer`` rows, which divide every boundary."""
        num_cols = k_scale.shape[1]
        heads = k_scale.view(self.num_heads, -1, num_cols)
        if v_scale is not None:
            heads = torch.cat((heads, v_scale.view(self.num_heads, -1, num_cols)), dim=1)
        rows = heads.repeat_interleave(self.block_rows // finer, dim=1)
        first, num_rows = (0, self.k_rows) if v_scale is None else (self.k_rows, self.v_rows)
        return rows[:, first // finer : (first + num_rows) // finer].reshape(-1, num_cols)


def find_scales(slot: Slot, config: ModelConfig, source: Source) -> Scales:
    quantization, path = config.quantization_config, source.headers[slot.name].path
    if quantization is None:
        raise CheckpointError(f"{slot.name} is FP8 but config.json has no quantization_config")
    if is_ignored(slot.name, quantization):
        raise CheckpointError(f"{path}: {slot.name} is FP8 but config.json has it in ignored_layers")
    name, block = slot.name + SCALE, quantization.weight_block_size
    if name not in source.headers:
        raise CheckpointError(f"{path}: {slot.name} is FP8 but has no {name}")
    if len(slot.shape) != 2:
        raise CheckpointError(f"{path}: {slot.name} is FP8 but no matrix")
    scale = source.headers[name]
    if source.is_fp8(name):
        raise CheckpointError(f"{scale.path}: {name} has type F8_E4M3, expected F32")
    if by_head := _by_head(slot, config, block, source):
        return Scales(name, (math.gcd(block[0], by_head.k_rows, by_head.v_rows), block[1]), by_head)
    uniform = (ceil(slot.shape[0], block[0]), ceil(slot.shape[1], block[1]))
    if scale.shape != uniform:
        raise CheckpointError(f"{scale.path}: {name} has shape {list(scale.shape)}, expected {list(uniform)}")
    return Scales(name, block)


def _by_head(slot: Slot, config: ModelConfig, block: tuple[int, int], source: Source) -> _ByHead | None:
    """Set for K and V whose scales are blocked by head, which the number of K's scale rows shows."""
    match = re.fullmatch(r"(model\.(mtp\.)?layers\.(\d+)\.self_attn\.)[kv]_proj\.weight", slot.name)
    if match is None:
        return None
    heads = config.heads(window=bool(match[2]) or bool(config.hybrid_layer_pattern[int(match[3])]))
    groups, cols = heads.num_kv_heads, ceil(slot.shape[1], block[1])
    k_blocks = ceil(heads.qk_dim, block[0])
    v_blocks = ceil(heads.qk_dim + heads.v_dim, block[0]) - k_blocks
    k_scale, v_scale = (source.headers.get(f"{match[1]}{part}_proj.weight{SCALE}") for part in "kv")
    found = [None if scale is None else scale.shape for scale in (k_scale, v_scale)]
    if found != [(groups * k_blocks, cols), (groups * v_blocks, cols)]:
        return None
    if k_blocks * groups == ceil(groups * heads.qk_dim, block[0]):
        return None
    assert k_scale is not None
    return _ByHead(f"{match[1]}k_proj.weight{SCALE}", groups, heads.qk_dim, heads.v_dim, block[0])
