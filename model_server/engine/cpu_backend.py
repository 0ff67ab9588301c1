"""The backend `cpu`: a model in the hands of the C++ step. Its weights are packed, its records filled, its calls made.

Computes in f32 whatever the weights are stored as; f32, bf16 and FP8 blocks keep their size. With a library that
multiplies pairs, matrices stored in bf16 are multiplied with inputs rounded to bf16. Either way a row's results do not
depend, to the last bit, on which rows share its step, on how a prompt was cut, or on what a cache held.
"""

import ctypes
import weakref
from array import array
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model_server.config import ModelConfig
from model_server.kernels.batch import CachePools, Segment, StepOutput
from model_server.kernels.cpu.library import (
    BatchRecord,
    HeadsRecord,
    LayerRecord,
    Library,
    MatrixRecord,
    ModelRecord,
    PredictionRecord,
)
from model_server.kernels.cpu.packing import SCALE_INPUTS, Weight, alternating, joined, pack
from model_server.kernels.fp8 import dequantize_blocks
from model_server.kernels.memory import Arena
from model_server.layers.linear import BlockScaledLinear, Linear
from model_server.layers.moe import BlockScaledExperts, Experts, MoE
from model_server.layers.rope import rotary_table
from model_server.models.mimo_v2_flash import DecoderLayer, MiMoV2Flash
from model_server.models.mtp import PredictionLayer

_STORAGE = {torch.float32: 0, torch.bfloat16: 1}
_ALIGNMENT = 64


class CpuBackend:
    """A model packed for the C++ step; see :class:`model_server.engine.backend.DecodingBackend`. One step at a time."""

    most_together = 64
    """As in ``interface.h``."""

    def __init__(
        self,
        model: MiMoV2Flash,
        context_length: int,
        library: Library,
        take_weights: bool = False,
        num_threads: int = 1,
    ) -> None:
        """With ``take_weights``, those of all layers leave the model while they are packed, so that memory holds them
        once; the model keeps embedding and head. ``num_threads`` share a step where that is faster, the caller's own
        among them; they change no bit of what comes out."""
        self.config = model.config
        self._library = library
        self._context_length = context_length
        self._packed = _PackedModel(model, context_length, take_weights, pairs=library.pairs)
        self._model = ctypes.addressof(self._packed.record)
        self._batch = BatchRecord(crew=library.new_crew(num_threads))
        weakref.finalize(self, library.end_crew, self._batch.crew)
        self._batch_address = ctypes.addressof(self._batch)
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._scratch_rows = 0

    @property
    def num_predictions(self) -> int:
        """Prediction layers of the model."""
        return int(self._packed.record.num_predictions)

    @property
    def num_bytes(self) -> int:
        """Of the packed weights."""
        return self._packed.arena.num_bytes

    def step(self, segments: Sequence[Segment], pools: CachePools) -> StepOutput:
        ids, words = self._set_segments(segments)
        output = self._new_output(len(ids), sum(segment.num_logits for segment in segments), pools)
        self._library.step(self._model, self._batch_address)
        del words  # the records pointed to it until here
        return output

    def decode(
        self, segments: Sequence[Segment], pools: CachePools, most: int, stops: Collection[int], *, keep_logits: bool
    ) -> StepOutput:
        count = len(segments)
        assert 0 < count <= self.most_together, count
        for segment in segments:
            assert len(segment.ids) == segment.num_logits == 1, segment
            assert segment.first + most <= self._context_length, (segment.first, most)
            assert segment.forced_experts is None
        ids, words = self._set_segments(segments)
        output = self._new_output(most * count, most * count if keep_logits else count, pools)
        likeliest, stopping = array("q", [-1]) * (most * count), array("q", stops)
        self._batch.likeliest = likeliest.buffer_info()[0]
        done = self._library.decode(
            self._model, self._batch_address, most, stopping.buffer_info()[0], len(stopping), keep_logits
        )
        del ids, words  # the records pointed to them until here

        def by_segment(rows: Tensor) -> Tensor:
            return rows[: done * count].view(done, count, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)

        return StepOutput(
            by_segment(output.logits) if keep_logits else output.logits[:0],
            by_segment(output.hidden),
            by_segment(output.experts),
            array("q", [token for first in range(count) for token in likeliest[first : done * count : count]]),
        )

    def predict(
        self, layer: int, segments: Sequence[Segment], hidden: Tensor, rings: tuple[Tensor, Tensor]
    ) -> list[int]:
        """The likeliest token after each segment by prediction layer ``layer``; see ``model_server.models.mtp``.

        A segment's ids are the tokens ``layer + 1`` places after its positions, and ``hidden`` f32 [R, C] the main
        model's hidden states at the positions themselves. Keys and values go to the layer's part of ``rings`` (k, v).
        Segments without logits (``num_logits`` 0) get -1.
        """
        batch = self._batch
        ids, words = self._set_segments(segments)
        assert hidden.shape == (len(ids), self.config.hidden_size), hidden.shape
        assert hidden.dtype == torch.float32, hidden.dtype
        assert hidden.is_contiguous()
        likeliest = array("q", [-1]) * len(segments)
        batch.ring_k, batch.ring_v = rings[0].data_ptr(), rings[1].data_ptr()
        batch.cache_storage = _STORAGE[rings[0].dtype]
        batch.hidden, batch.prediction = hidden.data_ptr(), layer
        batch.likeliest = likeliest.buffer_info()[0]
        self._library.predict(self._model, self._batch_address)
        del words
        return likeliest.tolist()

    def _new_output(self, num_rows: int, num_logits: int, pools: CachePools) -> StepOutput:
        """Where the library writes; the batch record points to it, and to the pools."""
        config, batch = self.config, self._batch
        logits = torch.empty(num_logits, config.vocab_size)
        likeliest = array("q", [-1]) * num_logits
        hidden = torch.empty(num_rows, config.hidden_size)
        experts = torch.empty(num_rows, sum(config.moe_layer_freq), config.num_experts_per_tok, dtype=torch.uint8)
        batch.page_k, batch.page_v = pools.page_k.data_ptr(), pools.page_v.data_ptr()
        batch.ring_k, batch.ring_v = pools.ring_k.data_ptr(), pools.ring_v.data_ptr()
        batch.cache_storage = _STORAGE[pools.ring_k.dtype]
        batch.hidden, batch.logits, batch.experts = hidden.data_ptr(), logits.data_ptr(), experts.data_ptr()
        batch.likeliest = likeliest.buffer_info()[0]
        return StepOutput(logits, hidden, experts, likeliest)

    def _set_segments(self, segments: Sequence[Segment]) -> tuple["array[int]", "array[int]"]:
        """Token ids, and the segment records; the batch record points into both."""
        ids, words = array("q"), array("q")
        for segment in segments:
            count, end = len(segment.ids), segment.first + len(segment.ids)
            assert 0 < count <= end <= self._context_length, (segment.first, count)
            assert 0 <= segment.num_logits <= count, segment.num_logits
            ids.extend(segment.ids)
            forced = 0 if segment.forced_experts is None else self._forced(segment.forced_experts, count)
            # A MimoSegment, word by word.
            address = segment.pages.buffer_info()[0]
            words.extend((count, segment.first, segment.ring, segment.num_logits, segment.oldest, address, forced))
        batch = self._batch
        batch.num_rows, batch.num_segments = len(ids), len(segments)
        batch.ids, batch.segments = ids.buffer_info()[0], words.buffer_info()[0]
        if len(ids) > self._scratch_rows:
            self._grow(len(ids))
        return ids, words

    def _forced(self, experts: Tensor, count: int) -> int:
        expected = (count, sum(self.config.moe_layer_freq), self.config.num_experts_per_tok)
        assert experts.shape == expected, (experts.shape, expected)
        assert experts.dtype == torch.uint8, experts.dtype
        assert experts.is_contiguous()
        return experts.data_ptr()

    def _grow(self, num_rows: int) -> None:
        size = self._library.scratch_bytes(self._model, self._batch.crew, num_rows)
        self._scratch = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
        self._batch.scratch = -(-self._scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT
        self._scratch_rows = num_rows


class _PackedModel:
    """The model's record, and everything it points to."""

    def __init__(self, model: MiMoV2Flash, context_length: int, take_weights: bool, *, pairs: bool) -> None:
        config = model.config
        self._pairs = pairs
        self._kept: list[object] = []
        self.arena = Arena()
        layers = [layer for layer in model.model.layers if isinstance(layer, DecoderLayer)]
        predictions = [
            layer
            for layer in (model.model.mtp.layers if model.num_mtp_layers else ())
            if isinstance(layer, PredictionLayer)
        ]
        kinds = [layer.window for layer in layers]
        layer_records = []
        for index, layer in enumerate(layers):
            layer_records.append(self._layer(layer, kinds[:index].count(kinds[index])))
            if take_weights:
                _drop_weights(layer)
        prediction_records = []
        for index, prediction in enumerate(predictions):
            prediction_records.append(self._prediction(prediction, index))
            if take_weights:
                _drop_weights(prediction)
        embedding = model.model.embed_tokens.weight.detach()
        self.record = ModelRecord(
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            num_layers=len(layers),
            num_expert_layers=sum(config.moe_layer_freq),
            num_predictions=len(predictions),
            num_experts=config.n_routed_experts,
            top_k=config.num_experts_per_tok,
            normalise=config.norm_topk_prob,
            scaling=config.routed_scaling_factor or 1.0,
            eps=config.layernorm_epsilon,
            value_scale=config.attention_value_scale,
            embedding_storage=_STORAGE[embedding.dtype],
            embedding=self._keep(embedding.contiguous()),
            final_norm=self._vector(model.model.norm.weight),
            head=self._pack(Weight(model.lm_head.weight.detach())),
            layers=self._array(LayerRecord, layer_records),
            predictions=self._array(PredictionRecord, prediction_records),
        )
        for window in (False, True):
            self.record.heads[window] = self._heads(config, window, kinds.count(window), context_length)

    def _heads(self, config: ModelConfig, window: bool, num_layers: int, context_length: int) -> HeadsRecord:
        heads = config.heads(window)
        cos, sin = rotary_table(torch.arange(context_length)[None], heads.rotary_dim, heads.theta)
        return HeadsRecord(
            num_heads=heads.num_heads,
            num_kv_heads=heads.num_kv_heads,
            qk_dim=heads.qk_dim,
            v_dim=heads.v_dim,
            half_rotary=heads.rotary_dim // 2,
            window_keys=config.window_keys if window else 0,
            num_layers=num_layers,
            cos=self._keep(cos.contiguous()),
            sin=self._keep(sin.contiguous()),
        )

    def _prediction(self, layer: PredictionLayer, index: int) -> PredictionRecord:
        return PredictionRecord(
            embedding_norm=self._vector(layer.enorm.weight),
            hidden_norm=self._vector(layer.hnorm.weight),
            final_norm=self._vector(layer.final_layernorm.weight),
            projection=self._pack(Weight(layer.eh_proj.weight.detach())),
            block=self._layer(layer, index),
        )

    def _layer(self, layer: DecoderLayer | PredictionLayer, cache_layer: int) -> LayerRecord:
        attention = layer.self_attn
        if isinstance(layer, DecoderLayer):
            window, second_norm = layer.window, layer.post_attention_layernorm
        else:
            window, second_norm = True, layer.pre_mlp_layernorm
        record = LayerRecord(
            attention_norm=self._vector(layer.input_layernorm.weight),
            mlp_norm=self._vector(second_norm.weight),
            sink=None if attention.attention_sink_bias is None else self._vector(attention.attention_sink_bias),
            qkv=self._pack(joined([_weight(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj)])),
            output=self._pack(_weight(attention.o_proj)),
            window=window,
            cache_layer=cache_layer,
        )
        if isinstance(layer.mlp, MoE):
            self._add_experts(record, layer.mlp)
        else:
            record.gate_up = self._pack(alternating(_weight(layer.mlp.gate_proj), _weight(layer.mlp.up_proj)))
            record.down = self._pack(_weight(layer.mlp.down_proj))
        return record

    def _add_experts(self, record: LayerRecord, moe: MoE) -> None:
        pairs = [_expert(moe.experts, index) for index in range(len(moe.experts.gate_up))]
        record.has_experts = True
        record.router = self._pack(Weight(moe.gate.weight.detach().float()), pairs=False)  # which experts must be exact
        record.router_bias = self._vector(moe.gate.e_score_correction_bias)
        record.expert_gate_up = self._array(MatrixRecord, [self._pack(gate_up) for gate_up, _ in pairs])
        record.expert_down = self._array(MatrixRecord, [self._pack(down) for _, down in pairs])

    def _pack(self, weight: Weight, *, pairs: bool = True) -> MatrixRecord:
        packed = pack(weight, self.arena, pairs=pairs and self._pairs)
        self._kept.append(packed)
        return packed.record

    def _vector(self, vector: Tensor) -> int:
        return self._keep(vector.detach().float().contiguous())

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _array(self, record_type: type[ctypes.Structure], records: Sequence[ctypes.Structure]) -> Any:
        array = (record_type * max(len(records), 1))(*records)
        self._kept.append(array)
        return array


def _drop_weights(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _weight(layer: Linear) -> Weight:
    if isinstance(layer, BlockScaledLinear):
        return _block_scaled(layer.weight.detach(), layer.weight_scale_inv.detach(), layer.block)
    return Weight(layer.weight.detach())


def _expert(experts: Experts | BlockScaledExperts, index: int) -> tuple[Weight, Weight]:
    """gate_up with alternating rows, and down."""
    if isinstance(experts, BlockScaledExperts):
        gate_up = _block_scaled(
            experts.gate_up[index].detach(), experts.gate_up_scale_inv[index].detach(), experts.gate_up_block
        )
        down = _block_scaled(experts.down[index].detach(), experts.down_scale_inv[index].detach(), experts.down_block)
    else:
        gate_up, down = Weight(experts.gate_up[index].detach()), Weight(experts.down[index].detach())
    middle = len(gate_up.values) // 2
    return alternating(gate_up.rows(0, middle), gate_up.rows(middle, 2 * middle)), down


def _block_scaled(values: Tensor, scale: Tensor, block: tuple[int, int]) -> Weight:
    """One scale per row and 128 inputs; blocks of another width are dequantised."""
    by_row = scale.float().repeat_interleave(block[0], dim=0)[: len(values)]
    if block[1] != SCALE_INPUTS:
        return Weight(dequantize_blocks(values, scale, block))
    return Weight(values, by_row)
