"""Checkpoints come in whole and exact, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_server.config import ModelConfig, QuantizationConfig
from model_server.kernels.fp8 import dequantize_blocks, quantize_blocks
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights import CheckpointError, load_model, save_checkpoint
from tests.numerics.small_models import full_logits, random_ids, random_model, small_config

Tensors = dict[str, Tensor]


@pytest.mark.parametrize("shape", [(128, 128), (1, 1), (130, 257), (96, 300), (256, 128)])
def test_dequantised_weights_equal_a_plain_loop_over_blocks_bit_for_bit(shape: tuple[int, int]) -> None:
    values, scale = quantize_blocks(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(dequantize_blocks(values, scale), _loop(values, scale))


def test_quantising_keeps_three_bits_of_every_weight_and_the_largest_exactly() -> None:
    weight = torch.randn(3, 200, 140, generator=torch.Generator().manual_seed(0))
    values, scale = quantize_blocks(weight)
    assert values.dtype == torch.float8_e4m3fn
    assert scale.shape == (3, 2, 2)
    restored = dequantize_blocks(values, scale)
    smallest_step = scale.repeat_interleave(128, 1).repeat_interleave(128, 2)[:, :200, :140] * 2**-10
    assert ((restored - weight).abs() <= weight.abs() / 16 + smallest_step).all()
    assert torch.equal(scale[0, 0, 0], weight[0, :128, :128].abs().max() / 448)


def test_a_block_of_zeros_stays_zero() -> None:
    assert torch.equal(dequantize_blocks(*quantize_blocks(torch.zeros(5, 5))), torch.zeros(5, 5))


def test_an_unquantised_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = random_model(small_config(), num_mtp_layers=2)
    save_checkpoint(model, tmp_path, quantize=False)
    loaded = load_model(tmp_path, torch.float32)
    assert loaded.num_mtp_layers == 2
    _assert_same(loaded, model.state_dict())
    ids = random_ids(model.config, 20)
    assert torch.equal(full_logits(loaded, ids), full_logits(model, ids))


def test_a_quantised_checkpoint_holds_the_published_types_and_comes_back_exactly(tmp_path: Path) -> None:
    model = random_model(_ragged_config(), num_mtp_layers=1)
    save_checkpoint(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    fp8 = {name for name, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn}
    assert {name.split(".")[-2] for name in fp8} == {
        "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert {f"{name}_scale_inv" for name in fp8} == {name for name in tensors if name.endswith("_scale_inv")}
    f32 = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32 and "scale" not in name}
    assert f32 == {"model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias"}
    expected = {name: _as_stored(name, tensor) for name, tensor in model.state_dict().items()}
    loaded = load_model(tmp_path, torch.float32)
    _assert_same(loaded, expected)
    assert loaded.config.quantization_config is not None
    assert "model.layers.0.self_attn.o_proj" in loaded.config.quantization_config.ignored_layers
    assert "model.decoder.self_attn.o_proj" in loaded.config.quantization_config.ignored_layers


def test_routers_stay_in_f32_whatever_the_type_of_the_rest(tmp_path: Path) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    loaded = load_model(tmp_path, torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert types.pop("model.layers.1.mlp.gate.weight") == torch.float32
    assert types.pop("model.layers.1.mlp.gate.e_score_correction_bias") == torch.float32
    assert set(types.values()) == {torch.bfloat16}


def test_ignored_layers_stay_unquantised(tmp_path: Path) -> None:
    ignored = ("model.layers.0.mlp.up_proj", "model.decoder.self_attn.q_proj")
    config = small_config(quantization_config=QuantizationConfig(ignored_layers=ignored))
    save_checkpoint(random_model(config, num_mtp_layers=1), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert tensors["model.mtp.layers.0.self_attn.q_proj.weight"].dtype == torch.bfloat16
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float8_e4m3fn
    load_model(tmp_path, torch.float32)


def test_a_large_checkpoint_is_split_and_indexed(tmp_path: Path) -> None:
    model = random_model(small_config())
    save_checkpoint(model, tmp_path, max_shard_bytes=8000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in files for t in load_file(file).values())
    _assert_same(load_model(tmp_path, torch.float32), {n: _as_stored(n, t) for n, t in model.state_dict().items()})


def test_tied_embeddings_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = random_model(small_config(tie_word_embeddings=True))
    save_checkpoint(model, tmp_path, quantize=False)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path, torch.float32)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    ids = random_ids(model.config, 9)
    assert torch.equal(full_logits(loaded, ids), full_logits(model, ids))


@pytest.mark.parametrize("layer", ["model.layers.0", "model.layers.1", "model.mtp.layers.0"])
def test_key_and_value_scales_may_be_blocked_head_by_head(tmp_path: Path, layer: str) -> None:
    config = small_config(
        num_key_value_heads=2, head_dim=192, v_head_dim=128, swa_num_key_value_heads=4, swa_head_dim=192,
        swa_v_head_dim=128, quantization_config=QuantizationConfig(),
    )  # fmt: skip
    save_checkpoint(random_model(config, num_mtp_layers=1), tmp_path)
    kv_heads = 2 if layer == "model.layers.0" else 4
    scales = torch.rand(kv_heads, 3, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    names = [f"{layer}.self_attn.{part}_proj.weight" for part in "kv"]
    expected: Tensors = {}

    def block_by_head(tensors: Tensors) -> None:
        k, v = (tensors[name].float() for name in names)
        assert len(tensors[f"{names[0]}_scale_inv"]) == 3 * kv_heads // 2
        for head in range(kv_heads):
            joined = torch.cat((k[head * 192 : head * 192 + 192], v[head * 128 : head * 128 + 128]))
            whole = torch.cat([joined[128 * i : 128 * i + 128] * scales[head, i] for i in range(3)])
            for name, part in zip(names, (whole[:192], whole[192:]), strict=True):
                expected[name] = torch.cat((expected[name], part)) if name in expected else part
        tensors[f"{names[0]}_scale_inv"] = scales[:, :2].reshape(-1, 1).clone()
        tensors[f"{names[1]}_scale_inv"] = scales[:, 2:].reshape(-1, 1).clone()

    _edit(tmp_path, block_by_head)
    weights = load_model(tmp_path, torch.float32).state_dict()
    for name in names:
        assert torch.equal(weights[name], expected[name])


def test_the_published_shape_gives_the_published_names_and_size() -> None:
    pattern = (0, 1, 1, 1, 1, *(0, 1, 1, 1, 1, 1) * 7, 0)
    config = small_config(
        vocab_size=152576, hidden_size=4096, num_hidden_layers=48, intermediate_size=16384, moe_intermediate_size=2048,
        n_routed_experts=256, num_experts_per_tok=8, num_attention_heads=64, num_key_value_heads=4, head_dim=192,
        v_head_dim=128, swa_num_attention_heads=64, swa_num_key_value_heads=8, swa_head_dim=192, swa_v_head_dim=128,
        hybrid_layer_pattern=pattern, moe_layer_freq=(0, *(1,) * 47),
    )  # fmt: skip
    with torch.device("meta"):
        model = MiMoV2Flash(config, num_mtp_layers=1)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    mtp = sum(size for name, size in sizes.items() if ".mtp." in name)
    assert round((sum(sizes.values()) - mtp) / 1e9, 2) == 308.78
    assert round(mtp / 1e9, 3) == 0.329


def _remove(name: str) -> Callable[[Tensors], None]:
    def remove(tensors: Tensors) -> None:
        del tensors[name]

    return remove


def _replace(name: str, tensor: Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("model.layers.1.mlp.experts.3.up_proj.weight"), "missing weights: .*experts.3.up_proj.weight"),
        (_remove("model.layers.0.self_attn.q_proj.weight_scale_inv"), "FP8 but has no .*q_proj.weight_scale_inv"),
        (_replace("model.norm.weight", torch.ones(31)), r"model.norm.weight has shape \[31\].*\[32\]"),
        (
            _replace("model.layers.0.mlp.up_proj.weight_scale_inv", torch.ones(2, 1)),
            r"up_proj.weight_scale_inv has shape \[2, 1\], expected \[1, 1\]",
        ),
        (
            _replace("model.layers.0.self_attn.k_proj.weight_scale_inv", torch.ones(3, 1)),
            r"k_proj.weight_scale_inv has shape \[3, 1\], expected \[1, 1\]",
        ),
        (_replace("model.layers.9.extra", torch.ones(1)), "unexpected weights: model.layers.9.extra"),
        (_replace("model.norm.weight", torch.ones(32, dtype=torch.int32)), "model.norm.weight has type I32"),
        (_replace("lm_head.weight_scale_inv", torch.ones(1, 1)), "unexpected weights: lm_head.weight_scale_inv"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_name(
    tmp_path: Path, damage: Callable[[Tensors], None], message: str
) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    _edit(tmp_path, damage)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path, torch.float32)


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        load_model(tmp_path, torch.float32)


def test_a_weight_in_two_files_is_refused(tmp_path: Path) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    save_file({"model.norm.weight": torch.ones(32)}, tmp_path / "zz.safetensors")
    with pytest.raises(CheckpointError, match=r"zz\.safetensors: model\.norm\.weight is also in model\.safetensors"):
        load_model(tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no usable weight_map"),
        ("[]", "no usable weight_map"),
        ('{"weight_map": {"model.norm.weight": "../other.safetensors"}}', "outside the folder"),
        ('{"weight_map": {"model.norm.weight": "gone.safetensors"}}', "gone.safetensors: "),
        ('{"weight_map": {"model.norm.weight": "model.safetensors"}}', "the files disagree about lm_head.weight"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path, torch.float32)


def test_a_folder_without_weights_or_with_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json.*(?s:.*)model_type"):
        load_model(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text(small_config().model_dump_json(), "utf-8")
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file"):
        load_model(tmp_path, torch.float32)


def test_fp8_weights_without_their_settings_are_refused(tmp_path: Path) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    (tmp_path / "config.json").write_text(small_config().model_dump_json(), "utf-8")
    with pytest.raises(CheckpointError, match="no quantization_config"):
        load_model(tmp_path, torch.float32)


def _ragged_config() -> ModelConfig:
    """Widths that end inside a block."""
    return small_config(hidden_size=150, intermediate_size=200, moe_intermediate_size=140, swa_head_dim=48)


def _edit(checkpoint: Path, change: Callable[[Tensors], None]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


def _as_stored(name: str, weight: Tensor) -> Tensor:
    """What a quantised export keeps of a weight."""
    if name.endswith(("mlp.gate.weight", "e_score_correction_bias")):
        return weight
    if name.endswith("experts.gate_up"):
        return torch.cat([dequantize_blocks(*quantize_blocks(half)) for half in weight.chunk(2, dim=1)], dim=1)
    if name.endswith("experts.down") or name.split(".")[-2] in (
        "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"
    ):  # fmt: skip
        return dequantize_blocks(*quantize_blocks(weight))
    return weight.bfloat16().float()


def _assert_same(model: MiMoV2Flash, expected: Tensors) -> None:
    weights = model.state_dict()
    assert weights.keys() == expected.keys()
    assert [name for name, weight in weights.items() if not torch.equal(weight, expected[name])] == []


def _loop(values: Tensor, scale: Tensor) -> Tensor:
    result = torch.empty(values.shape)
    for row in range(values.shape[0]):
        for block in range(scale.shape[1]):
            part = slice(128 * block, 128 * block + 128)
            result[row, part] = values[row, part].float() * scale[row // 128, block]
    return result
