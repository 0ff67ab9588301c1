"""Two layers of random weights over the small vocabulary."""

import torch

from model_server.config import ModelConfig
from model_server.models.mimo_v2_flash import MiMoV2Flash
from tests.unit.model_server.small_tokenizer import small_tokenizer

CONTEXT = 512


def tiny_model(vocab_size: int | None = None) -> MiMoV2Flash:
    """The vocabulary is a little larger than the tokenizer's unless a size is given."""
    config = ModelConfig(
        vocab_size=vocab_size or small_tokenizer().get_vocab_size() + 10,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=12,
        v_head_dim=8,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=12,
        swa_v_head_dim=8,
        partial_rotary_factor=0.334,
        rope_theta=5_000_000,
        swa_rope_theta=10_000,
        max_position_embeddings=CONTEXT,
        sliding_window=16,
        hybrid_layer_pattern=(0, 1),
        moe_layer_freq=(0, 1),
        n_routed_experts=4,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    model = MiMoV2Flash(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
