"""The published model's layout and what it needs, against the figures derived from its report and configuration."""

import json
import math
from pathlib import Path

import pytest
import torch

from model_server.__main__ import main
from model_server.config import ModelConfig
from model_server.plan import Layout, Machine, plan
from model_server.weights.layout import HubTensor, hub_layout

PUBLISHED = ModelConfig.model_validate_json(
    (Path(__file__).parents[3] / "model_server/published/MiMo-V2-Flash.json").read_text("utf-8")
)


@pytest.fixture(scope="module")
def layout() -> dict[str, HubTensor]:
    return {tensor.name: tensor for tensor in hub_layout(PUBLISHED, 3)}


def weights(layout: dict[str, HubTensor], mtp: bool) -> list[HubTensor]:
    return [t for t in layout.values() if (".mtp." in t.name) == mtp]


def num_parameters(tensors: list[HubTensor]) -> int:
    return sum(math.prod(t.shape) for t in tensors if not t.name.endswith("_scale_inv"))


def test_the_published_shape_has_the_published_size(layout: dict[str, HubTensor]) -> None:
    assert round(num_parameters(weights(layout, mtp=False)) / 1e9, 2) == 308.78
    assert round(num_parameters(weights(layout, mtp=True)) / 1e9, 2) == 0.99
    assert round(sum(t.num_bytes for t in weights(layout, mtp=False)) / 1e9, 1) == 311.9
    assert round(sum(t.num_bytes for t in weights(layout, mtp=True)) / 1e9, 1) == 1.2


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("model.embed_tokens.weight", (152576, 4096), torch.bfloat16),
        ("model.layers.0.mlp.gate_proj.weight", (16384, 4096), torch.float8_e4m3fn),
        ("model.layers.0.mlp.gate_proj.weight_scale_inv", (128, 32), torch.float32),
        ("model.layers.5.self_attn.k_proj.weight", (768, 4096), torch.float8_e4m3fn),
        ("model.layers.5.self_attn.k_proj.weight_scale_inv", (6, 32), torch.float32),
        ("model.layers.6.self_attn.k_proj.weight_scale_inv", (12, 32), torch.float32),
        ("model.layers.6.self_attn.o_proj.weight", (4096, 8192), torch.bfloat16),
        ("model.layers.6.self_attn.attention_sink_bias", (64,), torch.bfloat16),
        ("model.layers.47.mlp.gate.weight", (256, 4096), torch.float32),
        ("model.layers.47.mlp.gate.e_score_correction_bias", (256,), torch.float32),
        ("model.layers.47.mlp.experts.255.down_proj.weight", (4096, 2048), torch.float8_e4m3fn),
        ("model.mtp.layers.2.eh_proj.weight", (4096, 8192), torch.bfloat16),
        ("model.mtp.layers.2.mlp.up_proj.weight_scale_inv", (128, 32), torch.float32),
        ("model.mtp.layers.2.self_attn.o_proj.weight", (4096, 8192), torch.bfloat16),
    ],
)
def test_names_shapes_and_types_are_the_hubs(
    layout: dict[str, HubTensor], name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert layout[name] == HubTensor(name, shape, dtype)


def test_global_layers_have_no_sink_and_dense_layer_0_no_experts(layout: dict[str, HubTensor]) -> None:
    assert "model.layers.5.self_attn.attention_sink_bias" not in layout
    assert not [name for name in layout if name.startswith("model.layers.0.mlp.experts")]


def test_eight_large_gpus_hold_weights_and_long_contexts() -> None:
    by_tp = {layout.tp: layout for layout in plan(PUBLISHED, Machine(8, 141), window_ratio=0.1)}
    assert list(by_tp) == [1, 2, 4, 8]
    four = by_tp[4]
    assert four.dp == 2
    assert 39 < four.weights_gb < 41
    assert (four.bytes_per_token, four.bytes_per_window_slot) == (5760, 49920)
    assert 5.5e6 < four.tokens / four.dp < 6.2e6
    assert four.sequences[131_072] == 92
    # Beyond the number of key-value heads they are repeated: the same cache on twice as many GPUs.
    assert by_tp[8].bytes_per_token == four.bytes_per_token


def test_many_window_slots_leave_fewer_tokens_and_few_fewer_sequences() -> None:
    def at(ratio: float) -> Layout:
        return next(layout for layout in plan(PUBLISHED, Machine(8, 141), ratio) if layout.tp == 4)

    assert at(0.8).tokens < at(0.1).tokens < at(0.03).tokens
    assert at(0.0001).sequences[8192] < at(0.1).sequences[8192]


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "8", "--memory", "80", "--output", "json"]) == 0
    assert [layout["tp"] for layout in json.loads(capsys.readouterr().out)] == [1, 2, 4, 8]
    assert main(["plan", "--gpus", "2", "--memory", "80"]) == 0
    assert "too big" in capsys.readouterr().out


def test_heads_that_cannot_be_split_and_files_that_are_no_configuration_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(PUBLISHED.model_copy(update={"num_attention_heads": 62}).model_dump_json())
    assert main(["plan", "--gpus", "8", "--memory", "80", "--config", str(tmp_path)]) == 2
    assert "cannot share" in capsys.readouterr().err
    assert main(["plan", "--gpus", "8", "--memory", "80", "--config", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
