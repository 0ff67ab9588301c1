"""Multi-token prediction: small layers that guess tokens further ahead (technical report, section 2.3).

Layer j (from 0) serves draft step j + 1. At position t it reads the embedding of token t + j + 1 and the *main* model's
hidden state at t before the final norm, never another prediction layer's output. Embedding and head are the main ones.
"""

import torch
from torch import Tensor, nn

from model_server.config import ModelConfig
from model_server.layers.attention import Attention, KeyValues
from model_server.layers.mlp import DenseMLP
from model_server.layers.norm import RMSNorm


class PredictionLayer(nn.Module):
    """eh_proj([enorm(e); hnorm(h)]), one window attention and one dense block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layernorm_epsilon
        self.enorm = RMSNorm(size, eps)
        self.hnorm = RMSNorm(size, eps)
        self.eh_proj = nn.Linear(2 * size, size, bias=False)
        self.input_layernorm = RMSNorm(size, eps)
        self.self_attn = Attention(config, window=True)
        self.pre_mlp_layernorm = RMSNorm(size, eps)
        self.mlp = DenseMLP(size, config.mtp_intermediate_size or config.intermediate_size)
        self.final_layernorm = RMSNorm(size, eps)

    def forward(
        self,
        embeddings: Tensor,
        hidden: Tensor,
        table: tuple[Tensor, Tensor],
        mask: Tensor,
        layer: int = 0,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """embeddings and hidden [B, T, C] -> [B, T, C], ready for the main head (its norm is the last one here)."""
        x = self.eh_proj(torch.cat((self.enorm(embeddings), self.hnorm(hidden)), dim=-1))
        x = x + self.self_attn(self.input_layernorm(x), table, mask, layer, cache)
        x = x + self.mlp(self.pre_mlp_layernorm(x))
        result: Tensor = self.final_layernorm(x)
        return result


class MultiTokenPrediction(nn.Module):
    """The prediction layers, named as in the hub's files."""

    def __init__(self, config: ModelConfig, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PredictionLayer(config) for _ in range(num_layers))
