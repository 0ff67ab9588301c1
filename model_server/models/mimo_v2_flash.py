"""The decoder: hybrid global and window attention, dense first layer, experts after it.

Module names are the hub's, so that weights load by name; only the experts are stacked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_server.config import ModelConfig
from model_server.layers.attention import Attention, KeyValues, attention_mask
from model_server.layers.mlp import DenseMLP
from model_server.layers.moe import MoE
from model_server.layers.norm import RMSNorm
from model_server.layers.rope import rotary_table
from model_server.models.mtp import MultiTokenPrediction


@dataclass(frozen=True, slots=True)
class ForwardOutput:
    """``hidden`` [B, T, C] is the residual stream *before* the final norm, which multi-token prediction reads;
    ``experts`` [B, T, M, K] are the experts used in each of the M layers that have any."""

    hidden: Tensor
    experts: Tensor | None


class DecoderLayer(nn.Module):
    """x + Attn(N(x)), then x + FFN(N(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.window = bool(config.hybrid_layer_pattern[layer])
        self.self_attn = Attention(config, self.window)
        self.mlp = (
            MoE(config) if config.moe_layer_freq[layer] else DenseMLP(config.hidden_size, config.intermediate_size)
        )
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)


class Decoder(nn.Module):
    """Embedding, layers and final norm: everything the hub keeps below ``model.``."""

    def __init__(self, config: ModelConfig, num_mtp_layers: int) -> None:
        super().__init__()
        embeddings = torch.empty(config.vocab_size, config.hidden_size)
        if not embeddings.is_meta:  # torch's normal distribution for shapes without memory loads its compiler: 5 s
            embeddings.normal_()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=embeddings)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        if num_mtp_layers:
            self.mtp = MultiTokenPrediction(config, num_mtp_layers)


class MiMoV2Flash(nn.Module):
    """The language model. ``num_mtp_layers`` is not in the configuration: it follows from the weights at hand."""

    def __init__(self, config: ModelConfig, num_mtp_layers: int = 0) -> None:
        super().__init__()
        self.config = config
        self.num_mtp_layers = num_mtp_layers
        self.model = Decoder(config, num_mtp_layers)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self, ids: Tensor, positions: Tensor, cache: KeyValues | None = None, forced_experts: Tensor | None = None
    ) -> ForwardOutput:
        """Run tokens ids [B, T] at positions [B, T]; position -1 is padding and sees nothing.

        ``forced_experts`` [B, T, M, K] replaces the routers' choice, layer by layer.
        """
        hidden = self.model.embed_tokens(ids)
        views = {window: self.view(window, positions, cache, hidden.dtype) for window in self._kinds()}
        used: list[Tensor] = []
        for index, layer in enumerate(self.model.layers):
            assert isinstance(layer, DecoderLayer)
            table, mask = views[layer.window]
            hidden = hidden + layer.self_attn(layer.input_layernorm(hidden), table, mask, index, cache)
            normed = layer.post_attention_layernorm(hidden)
            if isinstance(layer.mlp, MoE):
                forced = None if forced_experts is None else forced_experts[:, :, len(used)]
                mixed, experts = layer.mlp(normed, forced)
                used.append(experts)
            else:
                mixed = layer.mlp(normed)
            hidden = hidden + mixed
        return ForwardOutput(hidden, torch.stack(used, dim=2) if used else None)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: [..., C] -> [..., vocabulary]."""
        result: Tensor = self.lm_head(self.model.norm(hidden))
        return result

    def view(
        self, window: bool, positions: Tensor, cache: KeyValues | None, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Rotary table and mask that all layers of one kind share."""
        heads = self.config.heads(window)
        table = rotary_table(positions, heads.rotary_dim, heads.theta)
        keys = positions if cache is None else cache.key_positions(window)
        mask = attention_mask(positions, keys, self.config.window_keys if window else None, dtype)
        return table, mask

    def _kinds(self) -> set[bool]:
        return {bool(kind) for kind in self.config.hybrid_layer_pattern}
