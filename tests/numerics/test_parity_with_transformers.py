"""In f32 the model's logits equal those of transformers' MiMoV2Flash classes on the same weights."""

import pytest
import torch
from transformers import MiMoV2FlashForCausalLM

from model_server.config import ModelConfig
from model_server.models.mimo_v2_flash import MiMoV2Flash
from tests.numerics.small_models import full_logits, random_config, random_ids, random_model, small_config
from tests.numerics.transformers_peer import transformers_model

_TOLERANCE = 1e-5
"""Largest error of a logit, as a part of the logits' standard deviation."""


@pytest.mark.parametrize("seed", range(28))
def test_logits_equal_transformers_on_random_shapes(seed: int) -> None:
    config = random_config(seed)
    model = random_model(config, seed)
    peer = transformers_model(model)
    for length in _lengths(config):
        assert _error(model, peer, random_ids(config, length, seed=length)) < _TOLERANCE, length


@pytest.mark.parametrize("length", [127, 128, 129, 130, 131, 300])
def test_logits_equal_transformers_across_the_edge_of_the_published_window(length: int) -> None:
    config = small_config(
        sliding_window=128, num_hidden_layers=3, hybrid_layer_pattern=(0, 1, 1), moe_layer_freq=(0, 1, 1)
    )
    model = random_model(config)
    assert _error(model, transformers_model(model), random_ids(config, length, batch=2)) < _TOLERANCE


def test_logits_equal_transformers_at_the_far_end_of_the_published_context() -> None:
    config = small_config(max_position_embeddings=262144, partial_rotary_factor=1.0)
    model = random_model(config)
    assert _error(model, transformers_model(model), random_ids(config, 24), first_position=262000) < _TOLERANCE


@pytest.mark.parametrize("change", [-1, 1])
def test_a_window_off_by_one_is_noticed(change: int) -> None:
    config = small_config(sliding_window=8)
    model = random_model(config)
    peer = transformers_model(model, sliding_window=config.window_keys + change)
    assert _error(model, peer, random_ids(config, 40)) > 100 * _TOLERANCE


def test_the_random_shapes_cover_every_kind_of_model() -> None:
    configs = [random_config(seed) for seed in range(28)]
    patterns = {frozenset(config.hybrid_layer_pattern) for config in configs}
    feed_forwards = {frozenset(config.moe_layer_freq) for config in configs}
    assert patterns == {frozenset({0}), frozenset({1}), frozenset({0, 1})}
    assert feed_forwards == {frozenset({0}), frozenset({1}), frozenset({0, 1})}
    windowed = [config for config in configs if 1 in config.hybrid_layer_pattern]
    assert {config.add_swa_attention_sink_bias for config in windowed} == {True, False}
    assert {config.sliding_window for config in windowed} == {1, 3, 8, 128}


def _lengths(config: ModelConfig) -> list[int]:
    edge = config.sliding_window
    return [1, *range(edge - 1, edge + 4)] if edge == 128 else [1, edge + 1, edge + 2, 37]


def _error(model: MiMoV2Flash, peer: MiMoV2FlashForCausalLM, ids: torch.Tensor, first_position: int = 0) -> float:
    ours = full_logits(model, ids, first_position)
    positions = first_position + torch.arange(ids.shape[1])[None]
    with torch.inference_mode():
        theirs = peer(input_ids=ids, position_ids=positions, use_cache=False).logits
    return float((ours - theirs).abs().max() / theirs.std())
