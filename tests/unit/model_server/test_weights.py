"""Checkpoints come in whole and exact, or not at all."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_server.config import ModelConfig, QuantizationConfig
from model_server.kernels.fp8 import dequantize_blocks, quantize_blocks
from model_server.layers.linear import BlockScaledLinear
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights.files import CheckpointError
from model_server.weights.layout import HubTensor, hub_layout
from model_server.weights.load import check_checkpoint, load_model
from model_server.weights.save import save_checkpoint
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
        (
            _replace("model.norm.weight", torch.full((32,), math.nan)),
            "model.norm.weight has values that are no numbers",
        ),
        (
            _replace("model.layers.0.mlp.up_proj.weight_scale_inv", torch.full((1, 1), math.inf)),
            "up_proj.weight_scale_inv has values that are no numbers",
        ),
        (
            _replace("model.layers.0.mlp.up_proj.weight", torch.full((48, 32), math.nan).to(torch.float8_e4m3fn)),
            "up_proj.weight has values that are no numbers",
        ),
        (
            _replace("model.layers.0.mlp.up_proj.weight_scale_inv", torch.ones(1, 1).to(torch.float8_e4m3fn)),
            "up_proj.weight_scale_inv has type F8_E4M3, expected F32",
        ),
        (
            _replace("model.layers.0.self_attn.o_proj.weight", torch.ones(32, 32).to(torch.float8_e4m3fn)),
            "o_proj.weight is FP8 but config.json has it in ignored_layers",
        ),
        (_replace("model.norm.weight", torch.ones(32).to(torch.float8_e4m3fn)), "model.norm.weight is FP8 but has no"),
        (
            _replace("model.mtp.layers.1000000000.enorm.weight", torch.ones(32)),
            "prediction layers are not numbered from 0 on: 1000000000",
        ),
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


def test_weights_and_scales_may_be_in_different_files(tmp_path: Path) -> None:
    save_checkpoint(random_model(small_config()), tmp_path)
    expected = load_model(tmp_path, torch.float32).state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    for file, is_scale in (("model.safetensors", False), ("scales.safetensors", True)):
        part = {name: tensor for name, tensor in tensors.items() if name.endswith("_scale_inv") == is_scale}
        save_file(part, tmp_path / file)
    _assert_same(load_model(tmp_path, torch.float32), expected)


_PEAK_OF_LOADING = """
import sys
from pathlib import Path
import torch
from model_server.weights.load import load_model

def resident(field):
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024

small, large, keep_fp8 = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "keep"
load_model(small, torch.float32, keep_fp8)  # whatever a first call loads of libraries
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = resident("VmRSS")
model = load_model(large, torch.float32, keep_fp8)
print(resident("VmHWM") - before, sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="no /proc/self/clear_refs: Linux counts the peak"
)
@pytest.mark.parametrize("keep_fp8", [False, True])
def test_loading_takes_the_weights_and_one_file_at_most(tmp_path: Path, keep_fp8: bool) -> None:
    pattern = {"num_hidden_layers": 4, "moe_layer_freq": (0,) * 4, "hybrid_layer_pattern": (0, 1, 1, 0)}
    config = small_config(hidden_size=1024, intermediate_size=4096, **pattern)
    save_checkpoint(random_model(config), tmp_path / "large", max_shard_bytes=2 * 1024**2)
    save_checkpoint(random_model(small_config()), tmp_path / "small")
    largest = max(path.stat().st_size for path in tmp_path.glob("large/*.safetensors"))
    command = [sys.executable, "-c", _PEAK_OF_LOADING, str(tmp_path / "small"), str(tmp_path / "large")]
    # Freed memory goes back at once, so that the peak is what is held together.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(
        [*command, "keep" if keep_fp8 else "plain"], env=environment, capture_output=True, text=True, check=True
    )
    peak, weights = map(int, result.stdout.split())
    assert weights > 12 * largest
    # Dequantising holds one matrix and its spread scales in f32; a file of the published size exceeds them.
    one_matrix = 0 if keep_fp8 else 3 * 4 * 4096 * 1024
    assert peak < weights + largest + one_matrix + 4 * 1024**2


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


def _header_files(checkpoint: Path, tensors: Iterable[HubTensor]) -> None:
    """A checkpoint of the published kind without its 313 GB: true headers, and files that are one hole each."""
    layer = re.compile(r"model\.layers\.(\d+)\.")
    by_file: dict[str, list[HubTensor]] = {}
    for tensor in tensors:
        match = layer.match(tensor.name)
        file = f"model_{match[1]}" if match else "model_mtp" if ".mtp." in tensor.name else "model_top"
        by_file.setdefault(f"{file}.safetensors", []).append(tensor)
    names = {torch.float8_e4m3fn: "F8_E4M3", torch.bfloat16: "BF16", torch.float32: "F32"}
    for file, group in by_file.items():
        header, end = {}, 0
        for tensor in group:
            first, end = end, end + tensor.num_bytes
            header[tensor.name] = {"dtype": names[tensor.dtype], "shape": tensor.shape, "data_offsets": [first, end]}
        text = json.dumps(header).encode()
        with (checkpoint / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
    weight_map = {tensor.name: file for file, group in by_file.items() for tensor in group}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


_PUBLISHED = files("model_server.published").joinpath("MiMo-V2-Flash.json").read_text("utf-8")


@pytest.fixture(scope="module")
def published_layout() -> list[HubTensor]:
    return list(hub_layout(ModelConfig.model_validate_json(_PUBLISHED), 3))


@pytest.mark.parametrize("by_head", [False, True])
def test_headers_of_the_published_size_pass_every_check_without_memory(
    tmp_path: Path, published_layout: list[HubTensor], by_head: bool
) -> None:
    def stored(tensor: HubTensor) -> HubTensor:
        if by_head and tensor.name.endswith("k_proj.weight_scale_inv"):
            rows = {6: 8, 12: 16}[tensor.shape[0]]
            return HubTensor(tensor.name, (rows, tensor.shape[1]), tensor.dtype)
        return tensor

    (tmp_path / "config.json").write_text(_PUBLISHED)
    _header_files(tmp_path, map(stored, published_layout))
    model = check_checkpoint(tmp_path, keep_fp8=True)
    assert model.num_mtp_layers == 3
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    linear = model.get_submodule("model.layers.5.self_attn.k_proj")
    assert isinstance(linear, BlockScaledLinear)
    assert linear.block == ((64, 128) if by_head else (128, 128))
    assert linear.weight_scale_inv.shape == ((12, 32) if by_head else (6, 32))
    main = [parameter for name, parameter in model.named_parameters() if ".mtp." not in name]
    assert round(sum(p.numel() for p in main if p.dtype == torch.float8_e4m3fn) / 1e9, 2) == 305.87


def test_one_scale_of_another_shape_among_the_published_ones_is_named(
    tmp_path: Path, published_layout: list[HubTensor]
) -> None:
    name = "model.layers.46.mlp.experts.200.down_proj.weight_scale_inv"
    wrong = [HubTensor(t.name, (31, 16), t.dtype) if t.name == name else t for t in published_layout]
    (tmp_path / "config.json").write_text(_PUBLISHED)
    _header_files(tmp_path, wrong)
    with pytest.raises(
        CheckpointError, match=rf"model_46\.safetensors: {name} has shape \[31, 16\], expected \[32, 16\]"
    ):
        check_checkpoint(tmp_path)
