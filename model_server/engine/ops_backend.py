"""A step on FP8 weights, written in the ops of ``model_server.kernels.ops``; with ``triton``, for a GPU.

Activations are quantised for each FP8 product, as servers of the published weights do, so logits are some per cent of
their spread away from those of ``ref``. Shape letters as in ``model_server.kernels.ops``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model_server.engine.torch_backend import RotaryRows, forced_experts, wanted_rows
from model_server.kernels import experts
from model_server.kernels.batch import FREE, CachePools, Segment, StepOutput
from model_server.kernels.fp8 import BlockScaled
from model_server.kernels.ops import Ops
from model_server.kernels.rows import Rows
from model_server.layers.attention import Attention
from model_server.layers.linear import BlockScaledLinear, Linear
from model_server.layers.mlp import DenseMLP
from model_server.layers.moe import BlockScaledExperts, MoE
from model_server.layers.norm import RMSNorm
from model_server.layers.rope import rotate
from model_server.models.mimo_v2_flash import DecoderLayer, MiMoV2Flash

_Pool = tuple[Tensor, Tensor]
"""Keys and values of one layer."""


class OpsBackend:
    """A model whose weights stayed FP8 (``load_model(..., keep_fp8=True)``); see
    :class:`model_server.engine.backend.StepBackend`. It and the pools are on one device."""

    def __init__(self, model: MiMoV2Flash, context_length: int, ops: Ops) -> None:
        """Raises ValueError: the weights are not FP8."""
        config = model.config
        if config.quantization_config is None:
            raise ValueError("a step in ops needs a checkpoint in FP8")
        self._model = model
        self._ops = ops
        self._device = model.lm_head.weight.device
        self._group = config.quantization_config.weight_block_size[1]
        self._layers = [layer for layer in model.model.layers if isinstance(layer, DecoderLayer)]
        kinds = [bool(kind) for kind in config.hybrid_layer_pattern]
        self._places = [kinds[:index].count(kind) for index, kind in enumerate(kinds)]
        self._tables = {kind: RotaryRows(config.heads(kind), context_length) for kind in set(kinds)}

    @torch.inference_mode()
    def step(self, batch: Sequence[Segment], pools: CachePools) -> StepOutput:
        rows, forced = _rows(batch, self._device), forced_experts(batch)
        positions = torch.cat([torch.arange(part.first, part.first + len(part.ids)) for part in batch])
        tables = {kind: self._rotation(kind, positions) for kind in self._tables}
        ids = torch.tensor([token for part in batch for token in part.ids], device=self._device)
        residual = F.embedding(ids, self._model.model.embed_tokens.weight)
        change = torch.zeros_like(residual)
        used: list[Tensor] = []
        for layer, place in zip(self._layers, self._places, strict=True):
            residual, x, narrow = self._add_norm(change, residual, layer.input_layernorm)
            pool = _of_layer(pools, layer.window, place)
            change = self._attention(layer.self_attn, x, narrow, tables[layer.window], pool, rows)
            residual, x, narrow = self._add_norm(change, residual, layer.post_attention_layernorm)
            if isinstance(layer.mlp, MoE):
                chosen, shares = self._route(layer.mlp, x, None if forced is None else forced[:, len(used)])
                change = self._mix(layer.mlp, narrow, chosen, shares)
                used.append(chosen)
            else:
                change = self._dense(layer.mlp, narrow, x.dtype)
        hidden = residual + change
        logits = self._model.logits(hidden[wanted_rows(batch)])
        routes = torch.stack(used, dim=1) if used else ids.new_empty(len(ids), 0, 0)
        return StepOutput(logits.float().cpu(), hidden.float().cpu(), routes.to("cpu", torch.uint8))

    def _rotation(self, window: bool, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._tables[window].at(positions)
        return cos.to(self._device), sin.to(self._device)

    def _add_norm(self, change: Tensor, residual: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor, BlockScaled]:
        return self._ops.add_norm(change.to(residual.dtype), residual, norm.weight, norm.eps, self._group)

    def _attention(
        self, layer: Attention, x: Tensor, narrow: BlockScaled, table: tuple[Tensor, Tensor], pool: _Pool, rows: Rows
    ) -> Tensor:
        """x [R, C], also quantised -> [R, C]"""
        ops, heads, sink = self._ops, layer.heads, layer.attention_sink_bias
        q = rotate(self._product(layer.q_proj, x, narrow).view(len(x), heads.num_heads, -1), table)
        k = rotate(self._product(layer.k_proj, x, narrow).view(len(x), heads.num_kv_heads, -1), table)
        v = self._product(layer.v_proj, x, narrow).view(len(x), heads.num_kv_heads, -1) * layer.value_scale
        if layer.window_keys is None:
            ops.store_pages(k, v, *pool, rows)
            mixed = ops.attend_pages(q, *pool, rows, sink)
        else:
            mixed = ops.attend_rings(q, k, v, *pool, rows, layer.window_keys, sink)
            ops.store_rings(k, v, *pool, rows)
        return self._product(layer.o_proj, mixed.flatten(1))

    def _product(self, layer: Linear, x: Tensor, narrow: BlockScaled | None = None) -> Tensor:
        """``narrow`` is x quantised, where somebody has it already."""
        if not isinstance(layer, BlockScaledLinear):
            return F.linear(x, layer.weight)
        return self._ops.linear(narrow or self._ops.quantize(x, self._group), _weight(layer), x.dtype)

    def _route(self, layer: MoE, x: Tensor, forced: Tensor | None) -> tuple[Tensor, Tensor]:
        """Expert ids and their shares [R, K]."""
        gate = layer.gate
        logits = x.float() @ gate.weight.float().T
        ids, shares = self._ops.route(logits, gate.e_score_correction_bias, gate.top_k, gate.normalise, gate.scaling)
        if forced is None:
            return ids, shares
        forced = forced.to(ids.device, ids.dtype)
        rerouted, weights = gate(x, torch.where((forced == FREE).all(-1, keepdim=True), ids, forced).long())
        return rerouted.int(), weights

    def _mix(self, layer: MoE, narrow: BlockScaled, ids: Tensor, shares: Tensor) -> Tensor:
        stack = layer.experts
        assert isinstance(stack, BlockScaledExperts), "experts of a checkpoint in FP8 are FP8"
        gate_up = BlockScaled(stack.gate_up, stack.gate_up_scale_inv, stack.gate_up_block)
        down = BlockScaled(stack.down, stack.down_scale_inv, stack.down_block)
        return experts.mix(self._ops, narrow, ids, shares, gate_up, down)

    def _dense(self, layer: DenseMLP, narrow: BlockScaled, dtype: torch.dtype) -> Tensor:
        gate, up, down = (_weight(part) for part in (layer.gate_proj, layer.up_proj, layer.down_proj))
        joined = torch.cat([self._ops.linear(narrow, weight, dtype) for weight in (gate, up)], dim=1)
        return self._ops.linear(self._ops.gated(joined, self._group), down, dtype)


def _weight(layer: Linear) -> BlockScaled:
    assert isinstance(layer, BlockScaledLinear), "feed-forward blocks of a checkpoint in FP8 are FP8"
    return BlockScaled(layer.weight, layer.weight_scale_inv, layer.block)


def _of_layer(pools: CachePools, window: bool, place: int) -> _Pool:
    if window:
        return pools.ring_k[:, place], pools.ring_v[:, place]
    return pools.page_k[:, place], pools.page_v[:, place]


def _rows(batch: Sequence[Segment], device: torch.device) -> Rows:
    most = max(len(segment.pages) for segment in batch)
    pages = [[*segment.pages, *[0] * (most - len(segment.pages))] for segment in batch]
    return Rows(
        lengths=tuple(len(segment.ids) for segment in batch),
        firsts=tuple(segment.first for segment in batch),
        pages=torch.tensor(pages, dtype=torch.int32, device=device),
        slots=torch.tensor([segment.ring for segment in batch], dtype=torch.int32, device=device),
    )
