"""A configuration that this model cannot be is refused by name when it is read."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model_server.config import ModelConfig, load_config
from tests.numerics.small_models import small_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hybrid_layer_pattern": (0,)}, "hybrid_layer_pattern has 1 entries for 2 layers"),
        ({"moe_layer_freq": (0, 1, 1)}, "moe_layer_freq has 3 entries for 2 layers"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok 9 > n_routed_experts 8"),
        ({"swa_num_key_value_heads": 3}, "4 heads cannot share 3 key-value heads"),
        ({"head_dim": 10}, "head_dim 10 x partial_rotary_factor gives 3 dimensions"),
        ({"partial_rotary_factor": 0.01}, "gives 0 dimensions"),
        ({"scoring_func": "softmax"}, "scoring_func"),
        ({"topk_method": "greedy"}, "topk_method"),
        ({"n_shared_experts": 1}, "n_shared_experts"),
        ({"n_group": 4}, "n_group"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"model_type": "llama"}, "model_type"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"moe_intermediate_size": 2**40}, "moe_intermediate_size"),
        ({"max_position_embeddings": 2**70}, "max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "positions cannot be scaled.*yarn"),
        ({"rope_scaling": {}}, "positions cannot be scaled"),
    ],
)
def test_what_the_model_cannot_be_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_config(**changes)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    fields = json.loads(small_config().model_dump_json())
    del fields["swa_rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(fields), "utf-8")
    with pytest.raises(ValidationError, match="swa_rope_theta"):
        load_config(tmp_path)


def test_a_written_configuration_reads_back(tmp_path: Path) -> None:
    config = small_config()
    (tmp_path / "config.json").write_text(config.model_dump_json(), "utf-8")
    assert load_config(tmp_path) == config


def test_fields_of_other_programs_are_ignored() -> None:
    fields = small_config().model_dump() | {"transformers_version": "4.40.1", "auto_map": {}, "use_cache": True}
    assert ModelConfig.model_validate(fields) == small_config()


def test_a_scaling_of_positions_that_scales_nothing_is_none() -> None:
    assert small_config(rope_scaling={"rope_type": "default"}).rope_scaling is None


def test_a_window_of_128_shows_129_keys() -> None:
    assert small_config(sliding_window=128).window_keys == 129
