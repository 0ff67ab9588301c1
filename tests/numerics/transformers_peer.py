"""transformers' MiMoV2Flash classes with the weights of one of our models: the peer to compare with."""

from typing import Any

import torch
from torch import nn
from transformers import MiMoV2FlashConfig, MiMoV2FlashForCausalLM

from model_server.models.mimo_v2_flash import MiMoV2Flash


def transformers_model(model: MiMoV2Flash, experts: str = "eager", **changes: Any) -> MiMoV2FlashForCausalLM:
    """The same weights in f32; ``changes`` replace fields of their configuration."""
    config = model.config
    rope = {"rope_type": "default", "partial_rotary_factor": config.partial_rotary_factor}
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "moe_intermediate_size": config.moe_intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "v_head_dim": config.v_head_dim,
        "n_routed_experts": config.n_routed_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
        "rms_norm_eps": config.layernorm_epsilon,
        "attention_value_scale": config.attention_value_scale,
        "max_position_embeddings": config.max_position_embeddings,
        "sliding_window": config.window_keys,  # transformers counts keys
        "layer_types": [("full_attention", "sliding_attention")[kind] for kind in config.hybrid_layer_pattern],
        "mlp_layer_types": [("dense", "sparse")[kind] for kind in config.moe_layer_freq],
        "rope_parameters": {
            "full_attention": {**rope, "rope_theta": config.rope_theta},
            "sliding_attention": {**rope, "rope_theta": config.swa_rope_theta},
        },
        "attn_implementation": "eager",
        "experts_implementation": experts,
        "pad_token_id": None,
    }
    peer: MiMoV2FlashForCausalLM = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**(fields | changes)))
    weights = {_their_name(name): weight for name, weight in model.state_dict().items() if "mtp" not in name}
    for index, layer in enumerate(peer.model.layers):
        # transformers ties sinks to the kind of layer; here they are a setting for each kind.
        name = f"model.layers.{index}.self_attn.sinks"
        layer.self_attn.sinks = nn.Parameter(torch.empty_like(weights[name])) if name in weights else None
    peer.load_state_dict(weights, strict=True)
    nn.Module.eval(peer)
    return peer


def _their_name(name: str) -> str:
    return (
        name.replace("attention_sink_bias", "sinks")
        .replace("experts.gate_up", "experts.gate_up_proj")
        .replace("experts.down", "experts.down_proj")
    )
