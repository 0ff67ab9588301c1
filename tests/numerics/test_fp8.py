"""Weights that stay FP8 in memory give what the dequantised ones give, bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_server.config import ModelConfig, QuantizationConfig
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.fp8 import FP8
from model_server.layers.linear import BlockScaledLinear
from model_server.layers.moe import BlockScaledExperts
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights.load import load_model
from model_server.weights.save import save_checkpoint
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import full_logits, random_config, random_ids, random_model, small_config


def _ragged() -> ModelConfig:
    """Widths that end inside a block, and experts whose up rows begin inside one."""
    return small_config(hidden_size=150, intermediate_size=200, moe_intermediate_size=140, swa_head_dim=48)


def _both(checkpoint: Path, dtype: torch.dtype = torch.float32) -> tuple[MiMoV2Flash, MiMoV2Flash]:
    return load_model(checkpoint, dtype, keep_fp8=True), load_model(checkpoint, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [_ragged(), random_config(1), random_config(2), random_config(7)])
def test_kept_weights_give_the_logits_of_dequantised_ones_bit_for_bit(
    tmp_path: Path, config: ModelConfig, dtype: torch.dtype
) -> None:
    save_checkpoint(random_model(config, num_mtp_layers=1), tmp_path)
    kept, plain = _both(tmp_path, dtype)
    ids = random_ids(config, 21, batch=2)
    assert torch.equal(full_logits(kept, ids), full_logits(plain, ids))


@torch.inference_mode()
def test_prediction_layers_that_are_kept_give_the_same_too(tmp_path: Path) -> None:
    save_checkpoint(random_model(_ragged(), num_mtp_layers=2), tmp_path)
    kept, plain = _both(tmp_path)
    x = torch.randn(1, 5, 150, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(5)[None]
    outputs = [
        [layer(x, 2 * x, *model.view(True, positions, None, x.dtype)) for layer in model.model.mtp.layers]
        for model in (kept, plain)
    ]
    assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))


@pytest.mark.parametrize("num_tokens", [3, 40])
def test_the_engine_serves_kept_weights_with_the_same_logits(tmp_path: Path, num_tokens: int) -> None:
    save_checkpoint(random_model(_ragged()), tmp_path)
    ids = random_ids(_ragged(), num_tokens)[0].tolist()
    logits = [
        PooledSequences(_ragged(), TorchBackend(model, context_length=64)).forward([(0, ids)])
        for model in _both(tmp_path)
    ]
    assert torch.equal(*logits)


def test_what_the_files_have_as_fp8_stays_so_and_nothing_else_does(tmp_path: Path) -> None:
    ignored = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.experts.3.down_proj")
    config = small_config(quantization_config=QuantizationConfig(ignored_layers=ignored))
    save_checkpoint(random_model(config, num_mtp_layers=1), tmp_path)
    kept = load_model(tmp_path, torch.float32, keep_fp8=True)
    linear = {name for name, module in kept.named_modules() if isinstance(module, BlockScaledLinear)}
    attention = [f"self_attn.{part}_proj" for part in "qkv"]
    dense = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    assert linear == {
        *(f"model.layers.{layer}.{part}" for layer in (0, 1) for part in attention),
        *(f"model.mtp.layers.0.{part}" for part in attention + dense),
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.down_proj",
    }
    # One expert in bf16: the stack has one type, so it is dequantised.
    assert not any(isinstance(module, BlockScaledExperts) for module in kept.modules())


def test_kept_weights_take_a_byte_each_and_have_no_gradient(tmp_path: Path) -> None:
    save_checkpoint(random_model(_ragged()), tmp_path)
    kept = load_model(tmp_path, torch.float32, keep_fp8=True)
    stored = load_file(tmp_path / "model.safetensors")
    experts = kept.get_submodule("model.layers.1.mlp.experts")
    assert isinstance(experts, BlockScaledExperts)
    assert experts.gate_up_block == (4, 128)  # 140 rows of gate, then up's first block
    fp8 = [parameter for parameter in kept.parameters() if parameter.dtype == FP8]
    assert sum(p.nbytes for p in fp8) == sum(t.nbytes for t in stored.values() if t.dtype == FP8)
    assert not any(parameter.requires_grad for parameter in kept.parameters())


@pytest.mark.parametrize("layer", ["model.layers.0", "model.layers.1", "model.mtp.layers.0"])
def test_scales_blocked_head_by_head_are_applied_as_the_dequantised_model_has_them(tmp_path: Path, layer: str) -> None:
    config = small_config(
        num_key_value_heads=2, head_dim=192, v_head_dim=128, swa_num_key_value_heads=4, swa_head_dim=192,
        swa_v_head_dim=128,
    )  # fmt: skip
    save_checkpoint(random_model(config, num_mtp_layers=1), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kv_heads = 2 if layer == "model.layers.0" else 4
    scales = torch.rand(kv_heads, 3, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    tensors[f"{layer}.self_attn.k_proj.weight_scale_inv"] = scales[:, :2].reshape(-1, 1).clone()
    tensors[f"{layer}.self_attn.v_proj.weight_scale_inv"] = scales[:, 2:].reshape(-1, 1).clone()
    save_file(tensors, tmp_path / "model.safetensors")
    kept, plain = _both(tmp_path)
    for part in "kv":
        name = f"{layer}.self_attn.{part}_proj"
        linear = kept.get_submodule(name)
        assert isinstance(linear, BlockScaledLinear)
        assert linear.block == (64, 128)
        assert torch.equal(linear.dense(), plain.get_parameter(f"{name}.weight"))


def test_a_model_with_kept_weights_cannot_be_saved(tmp_path: Path) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    kept = load_model(tmp_path, torch.float32, keep_fp8=True)
    with pytest.raises(ValueError, match="load it without keep_fp8"):
        save_checkpoint(kept, tmp_path / "copy")
