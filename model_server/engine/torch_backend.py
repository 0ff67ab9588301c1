"""The backend `ref`: a step in plain PyTorch, always there, and what the others are compared with.

The arithmetic is that of ``model_server.models``, which tests hold it equal to; here it is arranged in few large
calls, because at one token a step the calls cost more than the arithmetic. All rows of a batch share the matrix
products; only attention goes sequence by sequence, over exactly the keys that sequence has.

Shape letters as in ``model_server.kernels.batch``; N heads, S keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model_server.config import Heads
from model_server.kernels.batch import BLOCK, FREE, PAGE, CachePools, Segment, StepOutput, ring_size
from model_server.layers.attention import attention_mask
from model_server.layers.linear import Linear, dense_weight
from model_server.layers.mlp import DenseMLP
from model_server.layers.moe import BlockScaledExperts, MoE
from model_server.layers.rope import rotary_table, rotate
from model_server.models.mimo_v2_flash import DecoderLayer, MiMoV2Flash
from model_server.models.mtp import PredictionLayer

_FEW_ROWS = 16
"""Up to this many rows, experts share buffers instead of going through the differentiable form."""

_TILE_ROWS = 64
"""Queries of a chunk that attend together: their scores stay in the processor's cache, and a window layer computes
few scores that the window hides."""

KeysValues = tuple[Tensor, Tensor]
"""k [G, S, D] and v [G, S, V] of one layer."""


class TorchBackend:
    """A model packed for inference; see :class:`model_server.engine.backend.StepBackend`."""

    def __init__(self, model: MiMoV2Flash, context_length: int) -> None:
        config = model.config
        self._model = model
        self._window_keys = config.window_keys
        self._layers = [
            pack(layer, config.window_keys) for layer in model.model.layers if isinstance(layer, DecoderLayer)
        ]
        kinds = [bool(kind) for kind in config.hybrid_layer_pattern]
        self._places = [(kind, kinds[:index].count(kind)) for index, kind in enumerate(kinds)]
        self._tables = {kind: RotaryRows(config.heads(kind), context_length) for kind in set(kinds)}

    @torch.inference_mode()
    def step(self, batch: Sequence[Segment], pools: CachePools) -> StepOutput:
        ids = torch.tensor([token for segment in batch for token in segment.ids])
        rows = BatchRows(
            [(len(segment.ids), _PooledSequence(segment, pools, self._places, self._window_keys)) for segment in batch],
            forced_experts(batch),
        )
        hidden = F.embedding(ids, self._model.model.embed_tokens.weight)
        for index, layer in enumerate(self._layers):
            hidden = layer.forward(hidden, self._tables[layer.window].at(rows.positions), rows, index)
        logits = self._model.logits(hidden[wanted_rows(batch)]).float()
        return StepOutput(logits, hidden.float(), rows.stacked_experts())


class Storage(Protocol):
    """Keys and values of one sequence, in every layer that is run over it."""

    @property
    def num_tokens(self) -> int:
        """Tokens before the new ones; also the position of the first new one."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Store new k [T, G, D] and v [T, G, V] and show what they attend to: all keys that the first of them or a
        later one sees, in the order of their positions, the new ones last."""


class _PooledSequence:
    """One segment's keys and values in the pools."""

    def __init__(
        self, segment: Segment, pools: CachePools, places: Sequence[tuple[bool, int]], window_keys: int
    ) -> None:
        """``places``: for each layer, whether it is a window layer and its number among those of its kind."""
        self.num_tokens = segment.first
        self._pools = pools
        self._places = places
        self._ring = segment.ring
        end = segment.first + len(segment.ids)
        self._num_seen = end
        self._pages = torch.tensor(segment.pages[: -(-end // PAGE)])
        positions = torch.arange(segment.first, end)
        slots = positions % PAGE
        self._new_in_pages = (self._pages[positions // PAGE], slots, slots // BLOCK, slots % BLOCK)
        size = ring_size(window_keys)
        self._new_in_ring = _in_ring(positions[-size:], size)
        self._before_in_ring = _in_ring(torch.arange(max(0, segment.first - window_keys + 1), segment.first), size)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        window, place = self._places[layer]
        return self._extend_ring(place, k, v) if window else self._extend_pages(place, k, v)

    def _extend_pages(self, place: int, k: Tensor, v: Tensor) -> KeysValues:
        pool_k, pool_v = self._pools.page_k[:, place], self._pools.page_v[:, place]
        pages, slots, blocks, places = self._new_in_pages
        pool_k[pages, :, blocks, :, places] = k.to(pool_k.dtype)
        pool_v[pages, :, slots] = v.to(pool_v.dtype)
        held_k = pool_k[self._pages].permute(1, 3, 0, 2, 4).flatten(2).transpose(1, 2)
        held_v = pool_v[self._pages].transpose(0, 1).flatten(1, 2)
        return held_k[:, : self._num_seen].to(k.dtype), held_v[:, : self._num_seen].to(v.dtype)

    def _extend_ring(self, place: int, k: Tensor, v: Tensor) -> KeysValues:
        ring_k, ring_v = self._pools.ring_k[self._ring, place], self._pools.ring_v[self._ring, place]
        new_k, new_v = k.to(ring_k.dtype), v.to(ring_v.dtype)
        slots, blocks, places = self._before_in_ring
        seen_k = torch.cat((ring_k[:, blocks, :, places], new_k)).transpose(0, 1)
        seen_v = torch.cat((ring_v.index_select(1, slots), new_v.transpose(0, 1)), dim=1)
        slots, blocks, places = self._new_in_ring
        ring_k[:, blocks, :, places] = new_k[-len(slots) :]
        ring_v[:, slots] = new_v[-len(slots) :].transpose(0, 1)
        return seen_k.to(k.dtype), seen_v.to(v.dtype)


def _in_ring(positions: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Slot of each position in a ring, its block, and its place in that."""
    slots = positions % size
    return slots, slots // BLOCK, slots % BLOCK


class BatchRows:
    """Where the new tokens of several sequences lie among the rows of a batch."""

    def __init__(self, sequences: Sequence[tuple[int, Storage]], forced_experts: Tensor | None = None) -> None:
        """``forced_experts``: [R, M, K]; see :class:`model_server.kernels.batch.Segment`."""
        self.parts: list[tuple[int, int, Storage]] = []
        """First row, end and storage of each."""
        self.experts: list[Tensor] = []
        """Ids [R, K] that each layer with experts chose, in the order of layers."""
        self._forced_experts = forced_experts
        positions: list[int] = []
        for num_new, storage in sequences:
            first = len(positions)
            self.parts.append((first, first + num_new, storage))
            positions += range(storage.num_tokens, storage.num_tokens + num_new)
        self.positions = torch.tensor(positions)

    def forced_experts(self) -> Tensor | None:
        """Ids [R, K] for the next layer with experts."""
        return None if self._forced_experts is None else self._forced_experts[:, len(self.experts)]

    def stacked_experts(self) -> Tensor:
        """uint8 [R, M, K]"""
        if not self.experts:
            return torch.empty(len(self.positions), 0, 0, dtype=torch.uint8)
        return torch.stack(self.experts, dim=1).to(torch.uint8)


class RotaryRows:
    """Rotary cosine and sine of all positions of a context, for one kind of layers."""

    def __init__(self, heads: Heads, context_length: int) -> None:
        cos, sin = rotary_table(torch.arange(context_length)[None], heads.rotary_dim, heads.theta)
        self._cos, self._sin = cos[0].transpose(0, 1), sin[0].transpose(0, 1)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [R, 1, rotary_dim / 2] for rows at ``positions`` [R]."""
        return self._cos[positions], self._sin[positions]


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One decoder layer. Matrices are transposed views, q, k and v joined, dense gate and up joined."""

    window: bool
    window_keys: int
    heads: Heads
    value_scale: float
    sink: Tensor | None
    norms: tuple[Tensor, Tensor]
    eps: float
    qkv: Tensor
    output: Tensor
    mlp: "_Dense | _Mixture"

    def forward(self, hidden: Tensor, table: tuple[Tensor, Tensor], rows: BatchRows, index: int) -> Tensor:
        """hidden [R, C] -> [R, C]"""
        mixed = self._attention(self._norm(hidden, 0), table, rows, index)
        hidden = torch.addmm(hidden, mixed, self.output)
        return self.mlp.add(hidden, self._norm(hidden, 1), rows)

    def _norm(self, x: Tensor, which: int) -> Tensor:
        weight = self.norms[which]
        return torch.rms_norm(x, weight.shape, weight, self.eps)

    def _attention(self, x: Tensor, table: tuple[Tensor, Tensor], rows: BatchRows, index: int) -> Tensor:
        """x [R, C] -> [R, N * V]"""
        heads, num_rows = self.heads, len(x)
        num_qk = heads.num_heads + heads.num_kv_heads
        joined = x @ self.qkv
        qk = rotate(joined[:, : num_qk * heads.qk_dim].view(num_rows, num_qk, heads.qk_dim), table)
        v = joined[:, num_qk * heads.qk_dim :].view(num_rows, heads.num_kv_heads, heads.v_dim) * self.value_scale
        q, k = qk[:, : heads.num_heads], qk[:, heads.num_heads :]
        mixed = [
            self._attend(q[first:end], *storage.extend(index, k[first:end], v[first:end]))
            for first, end, storage in rows.parts
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, N, D] of the last T of the keys k [G, S, D] and v [G, S, V] -> [T, N * V]"""
        heads, num_new = self.heads, len(q)
        grouped = (q * heads.qk_dim**-0.5).view(num_new, heads.num_kv_heads, -1, heads.qk_dim).permute(1, 2, 0, 3)
        if num_new == 1:
            return self._tile(grouped, k, v, num_hideable=0)
        num_before = k.shape[1] - num_new
        tiles = []
        for first in range(0, num_new, _TILE_ROWS):
            end = min(first + _TILE_ROWS, num_new)
            keys = slice(max(0, num_before + first + 1 - self.window_keys) if self.window else 0, num_before + end)
            hideable = keys.stop - keys.start if self.window else end - first
            tiles.append(self._tile(grouped[:, :, first:end], k[:, keys], v[:, keys], hideable))
        return torch.cat(tiles)

    def _tile(self, q: Tensor, k: Tensor, v: Tensor, num_hideable: int) -> Tensor:
        """q [G, N / G, T, D] of the last T keys -> [T, N * V]; only the last ``num_hideable`` keys may need hiding."""
        groups, per_group, num_new, qk_dim = q.shape
        scores = torch.bmm(q.reshape(groups, per_group * num_new, qk_dim), k.transpose(1, 2))
        if num_hideable:
            band = _band(num_new, num_hideable, self.window_keys if self.window else None, scores.dtype)
            scores.view(groups, per_group, num_new, -1)[..., -num_hideable:] += band
        if self.sink is not None:
            sink = self.sink if num_new == 1 else self.sink.repeat_interleave(num_new, dim=1)
            scores = torch.cat((scores, sink), dim=-1)
        weights = scores.softmax(-1)
        mixed = torch.bmm(weights if self.sink is None else weights[..., :-1], v)
        return mixed.view(groups, per_group, num_new, -1).permute(2, 0, 1, 3).reshape(num_new, -1)


@lru_cache(maxsize=256)
def _band(num_new: int, num_keys: int, window_keys: int | None, dtype: torch.dtype) -> Tensor:
    """What the last ``num_new`` of consecutive positions may see of all ``num_keys``, as an addend [T, S]."""
    positions = torch.arange(num_keys)[None]
    return attention_mask(positions[:, -num_new:], positions, window_keys, dtype)[0, 0]


@dataclass(frozen=True, slots=True)
class _Dense:
    """gate and up [C, 2 I] and down [I, C]."""

    gate_up: Tensor
    down: Tensor

    def add(self, hidden: Tensor, x: Tensor, rows: BatchRows) -> Tensor:
        return torch.addmm(hidden, _gated(x @ self.gate_up), self.down)


@dataclass(frozen=True, slots=True)
class _Mixture:
    """Experts; for a few rows without the sorting that many rows need."""

    moe: MoE
    width: int
    """2 I"""
    gate_up: Callable[[int], Tensor]
    """[C, 2 I] of an expert"""
    down: Callable[[int], Tensor]
    """[I, C] of an expert"""

    def add(self, hidden: Tensor, x: Tensor, rows: BatchRows) -> Tensor:
        ids, shares = self._route(x, rows.forced_experts())
        rows.experts.append(ids)
        if len(x) > _FEW_ROWS:
            mixed: Tensor = self.moe.experts(x, ids, shares)
            return hidden + mixed
        return self._add_few(hidden, x, ids, shares)

    def _route(self, x: Tensor, forced: Tensor | None) -> tuple[Tensor, Tensor]:
        """Expert ids [R, K] and their shares."""
        ids, shares = self.moe.gate(x)
        if forced is None:
            return ids, shares
        free = (forced == FREE).all(-1, keepdim=True)
        rerouted: tuple[Tensor, Tensor] = self.moe.gate(x, torch.where(free, ids, forced.long()))
        return rerouted

    def _add_few(self, hidden: Tensor, x: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
        """The same sum with all experts' rows in one buffer, so that only the matrix products go expert by expert."""
        top_k = ids.shape[1]
        chosen = ids.flatten().tolist()
        order = sorted(range(len(chosen)), key=chosen.__getitem__)
        runs = _runs([chosen[pair] for pair in order])
        rows = torch.tensor([pair // top_k for pair in order])
        sources = x.index_select(0, rows) if len(x) > 1 else x.expand(top_k, -1)
        inner = x.new_empty(len(order), self.width)
        for expert, first, end in runs:
            torch.mm(sources[first:end], self.gate_up(expert), out=inner[first:end])
        inner = _gated(inner)
        outer = x.new_empty(len(order), x.shape[1])
        for expert, first, end in runs:
            torch.mm(inner[first:end], self.down(expert), out=outer[first:end])
        outer *= shares.flatten()[order].unsqueeze(1)
        return hidden.index_add(0, rows, outer)


def _gated(joined: Tensor) -> Tensor:
    gate, up = joined.chunk(2, dim=-1)
    return F.silu(gate) * up


def _runs(experts: list[int]) -> list[tuple[int, int, int]]:
    """Sorted expert ids -> (expert, first, end) of each run of equal ones."""
    runs = []
    first = 0
    for end in range(1, len(experts) + 1):
        if end == len(experts) or experts[end] != experts[first]:
            runs.append((experts[first], first, end))
            first = end
    return runs


def pack(layer: DecoderLayer | PredictionLayer, window_keys: int) -> PackedLayer:
    """The layer's attention and feed-forward block, weights laid out for few calls."""
    attention = layer.self_attn
    if isinstance(layer, DecoderLayer):
        window, second_norm = layer.window, layer.post_attention_layernorm
    else:
        window, second_norm = True, layer.pre_mlp_layernorm
    groups = attention.heads.num_kv_heads
    dtype = layer.input_layernorm.weight.dtype
    sink = attention.attention_sink_bias
    mlp = layer.mlp
    return PackedLayer(
        window=window,
        window_keys=window_keys,
        heads=attention.heads,
        value_scale=attention.value_scale,
        sink=None if sink is None else sink.detach().view(groups, -1, 1),
        norms=(layer.input_layernorm.weight.detach(), second_norm.weight.detach()),
        eps=layer.input_layernorm.eps,
        qkv=_joined(dtype, attention.q_proj, attention.k_proj, attention.v_proj),
        output=_joined(dtype, attention.o_proj),
        mlp=_pack_experts(mlp, dtype) if isinstance(mlp, MoE) else _pack_dense(mlp, dtype),
    )


def _pack_dense(mlp: DenseMLP, dtype: torch.dtype) -> _Dense:
    return _Dense(_joined(dtype, mlp.gate_proj, mlp.up_proj), _joined(dtype, mlp.down_proj))


def _pack_experts(moe: MoE, dtype: torch.dtype) -> _Mixture:
    """Experts in FP8 stay so and are dequantised in use: they are nearly all of a model. Other weights are few, and a
    dequantised copy of them is kept."""
    experts = moe.experts
    width = experts.gate_up.shape[1]
    if isinstance(experts, BlockScaledExperts):
        return _Mixture(
            moe,
            width,
            gate_up=lambda expert: experts.dense_gate_up(expert).to(dtype).T,
            down=lambda expert: experts.dense_down(expert).to(dtype).T,
        )
    gate_up = experts.gate_up.detach().transpose(1, 2).unbind()
    down = experts.down.detach().transpose(1, 2).unbind()
    return _Mixture(moe, width, gate_up.__getitem__, down.__getitem__)


def _joined(dtype: torch.dtype, *layers: Linear) -> Tensor:
    weights = [dense_weight(layer, dtype) for layer in layers]
    return (weights[0] if len(weights) == 1 else torch.cat(weights)).T


def wanted_rows(batch: Sequence[Segment]) -> list[int]:
    """The rows after which logits are wanted."""
    ends = accumulate(len(segment.ids) for segment in batch)
    return [row for segment, end in zip(batch, ends, strict=True) for row in range(end - segment.num_logits, end)]


def forced_experts(batch: Sequence[Segment]) -> Tensor | None:
    """[R, M, K]; None if no segment has any."""
    given = next((segment.forced_experts for segment in batch if segment.forced_experts is not None), None)
    if given is None:
        return None
    return torch.cat(
        [
            given.new_full((len(segment.ids), *given.shape[1:]), FREE)
            if segment.forced_experts is None
            else segment.forced_experts
            for segment in batch
        ]
    )
