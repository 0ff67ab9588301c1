"""The forward pass over a batch of segments, each the next tokens of one sequence.

The arithmetic is that of ``model_server.models``, which tests hold it equal to; here it is arranged in few large
calls, because at one token a step the calls cost more than the arithmetic. All rows of a batch share the matrix
products; only attention goes sequence by sequence, over exactly the keys that sequence has.

Shape letters as in ``model_server.layers``; R rows, the tokens of all segments one after another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model_server.config import Heads
from model_server.engine.kv_cache import KeysValues, SequenceCache
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


class Storage(Protocol):
    """Keys and values of one sequence, in every layer that is run over it."""

    @property
    def num_tokens(self) -> int:
        """Tokens before the new ones; also the position of the first new one."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """See :meth:`model_server.engine.kv_cache.SequenceCache.extend`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The next tokens of one sequence, following what its cache holds."""

    ids: Sequence[int]
    cache: SequenceCache
    num_logits: int = 1
    """After so many of the newest tokens, logits are wanted."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Per segment: f32 logits [num_logits, vocabulary], the hidden states [T, C] of all its tokens before the final
    norm, and the experts uint8 [T, M, K] they used in each of the M layers that have any."""

    logits: Sequence[Tensor]
    hidden: Sequence[Tensor]
    experts: Sequence[Tensor]


class Runner:
    """A model packed for inference. Owns no sequences and decides nothing."""

    def __init__(self, model: MiMoV2Flash, context_length: int) -> None:
        self.config = model.config
        self.dtype = model.lm_head.weight.dtype
        self._model = model
        self._layers = [
            pack(layer, self.config.window_keys) for layer in model.model.layers if isinstance(layer, DecoderLayer)
        ]
        positions = torch.arange(context_length)[None]
        self._tables = {
            kind: _row_table(positions, self.config.heads(kind))
            for kind in {bool(kind) for kind in self.config.hybrid_layer_pattern}
        }

    def new_cache(self) -> SequenceCache:
        return SequenceCache(self.config, self.dtype)

    def forward(self, batch: Sequence[Segment]) -> Tensor:
        """Run and commit all segments; f32 logits [len(batch), vocabulary] after each one's last token."""
        output = self.step(batch)
        for segment, experts in zip(batch, output.experts, strict=True):
            segment.cache.commit(len(segment.ids), experts)
        return torch.stack([logits[-1] for logits in output.logits])

    @torch.inference_mode()
    def step(self, batch: Sequence[Segment]) -> StepOutput:
        """Store the keys and values of all segments. They count once the caller commits them."""
        ids = torch.tensor([token for segment in batch for token in segment.ids])
        rows = BatchRows([(len(segment.ids), segment.cache) for segment in batch])
        hidden = F.embedding(ids, self._model.model.embed_tokens.weight)
        for index, layer in enumerate(self._layers):
            hidden = layer.forward(hidden, self.table(layer.window, rows.positions), rows, index)
        wanted = [
            row
            for segment, (_, end, _) in zip(batch, rows.parts, strict=True)
            for row in range(end)[-segment.num_logits :]
        ]
        logits = self._model.logits(hidden[wanted]).float()
        lengths = [len(segment.ids) for segment in batch]
        return StepOutput(
            logits=logits.split([segment.num_logits for segment in batch]),
            hidden=hidden.split(lengths),
            experts=rows.stacked_experts().split(lengths),
        )

    def table(self, window: bool, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary cosine and sine for rows at ``positions`` [R]."""
        cos, sin = self._tables[window]
        return cos[positions], sin[positions]


class BatchRows:
    """Where the new tokens of several sequences lie among the rows of a batch."""

    def __init__(self, sequences: Sequence[tuple[int, Storage]]) -> None:
        self.parts: list[tuple[int, int, Storage]] = []
        """First row, end and storage of each."""
        self.experts: list[Tensor] = []
        """Ids [R, K] that each layer with experts chose, in the order of layers."""
        positions: list[int] = []
        for num_new, storage in sequences:
            first = len(positions)
            self.parts.append((first, first + num_new, storage))
            positions += range(storage.num_tokens, storage.num_tokens + num_new)
        self.positions = torch.tensor(positions)

    def stacked_experts(self) -> Tensor:
        """uint8 [R, M, K]"""
        if not self.experts:
            return torch.empty(len(self.positions), 0, 0, dtype=torch.uint8)
        return torch.stack(self.experts, dim=1).to(torch.uint8)


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
        ids, shares = self.moe.gate(x)
        rows.experts.append(ids)
        if len(x) > _FEW_ROWS:
            mixed: Tensor = self.moe.experts(x, ids, shares)
            return hidden + mixed
        return self._add_few(hidden, x, ids, shares)

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


def _row_table(positions: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """Cosine and sine [positions, 1, rotary_dim / 2]."""
    cos, sin = rotary_table(positions, heads.rotary_dim, heads.theta)
    return cos[0].transpose(0, 1), sin[0].transpose(0, 1)
