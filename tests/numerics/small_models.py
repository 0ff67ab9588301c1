"""Random small models for the numerics tests."""

import random
from typing import Any

import torch

from model_server.config import ModelConfig
from model_server.models.mimo_v2_flash import MiMoV2Flash


def small_config(**changes: Any) -> ModelConfig:
    """A tiny model with one global and one window layer, dense then experts."""
    fields: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "v_head_dim": 8,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 12,
        "swa_v_head_dim": 8,
        "partial_rotary_factor": 0.334,
        "rope_theta": 5e6,
        "swa_rope_theta": 1e4,
        "max_position_embeddings": 4096,
        "sliding_window": 8,
        "hybrid_layer_pattern": (0, 1),
        "moe_layer_freq": (0, 1),
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "attention_value_scale": 0.707,
    }
    return ModelConfig.model_validate(fields | changes)


def random_config(seed: int) -> ModelConfig:
    """Shapes drawn at random; only what transformers' classes can express (window layers have twice the key heads)."""
    draw = random.Random(seed)
    layers = draw.randint(1, 4)
    pattern = {0: (0,) * layers, 1: (1,) * layers}.get(seed % 4, tuple(draw.randint(0, 1) for _ in range(layers)))
    kv_heads = draw.choice((1, 2))
    heads = kv_heads * 2 * draw.choice((1, 2, 3))
    qk_dim, v_dim = draw.choice(((12, 8), (24, 16), (12, 12), (48, 32), (20, 26)))
    experts = draw.choice((2, 4, 8, 16))
    return small_config(
        vocab_size=draw.choice((61, 97, 128)),
        hidden_size=draw.choice((24, 32, 40)),
        num_hidden_layers=layers,
        intermediate_size=draw.choice((24, 48)),
        moe_intermediate_size=draw.choice((8, 16, 20)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=qk_dim,
        v_head_dim=v_dim,
        swa_num_attention_heads=heads,
        swa_num_key_value_heads=2 * kv_heads,
        swa_head_dim=qk_dim,
        swa_v_head_dim=v_dim,
        partial_rotary_factor=draw.choice((0.334, 0.5, 1.0)),
        rope_theta=draw.choice((640000.0, 5e6)),
        sliding_window=draw.choice((1, 3, 8, 128)),
        hybrid_layer_pattern=pattern,
        moe_layer_freq=tuple(draw.randint(0, 1) for _ in range(layers)),
        n_routed_experts=experts,
        num_experts_per_tok=draw.randint(1, min(4, experts)),
        norm_topk_prob=draw.random() < 0.8,
        routed_scaling_factor=draw.choice((None, None, 2.5)),
        attention_value_scale=draw.choice((0.707, 1.0)),
        add_swa_attention_sink_bias=draw.random() < 0.7,
        add_full_attention_sink_bias=draw.random() < 0.2,
    )


def random_model(config: ModelConfig, seed: int = 0, num_mtp_layers: int = 0) -> MiMoV2Flash:
    """Weights of a size that keeps every part of the model audible in the logits."""
    model = MiMoV2Flash(config, num_mtp_layers).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        if name.endswith("norm.weight"):
            weight.copy_(1 + 0.2 * torch.randn(weight.shape, generator=generator))
        elif name.endswith(("attention_sink_bias", "e_score_correction_bias")):
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
        else:
            scale = 1.0 if "embed_tokens" in name else weight.shape[-1] ** -0.5
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model


def random_ids(config: ModelConfig, length: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, length), generator=generator)


@torch.inference_mode()
def full_logits(model: MiMoV2Flash, ids: torch.Tensor, first_position: int = 0) -> torch.Tensor:
    """Logits [B, T, vocabulary] of one plain forward over ids [B, T]."""
    positions = first_position + torch.arange(ids.shape[1]).expand_as(ids)
    return model.logits(model(ids, positions).hidden)
