"""Each layer keeps its own promise: window edge, sinks, partial rotation, unequal widths, routing."""

import math

import pytest
import torch

from model_server.layers.attention import Attention, attend, attention_mask
from model_server.layers.moe import MoE, Router
from model_server.layers.rope import rotary_table, rotate
from tests.numerics.small_models import full_logits, random_ids, random_model, small_config


@pytest.mark.parametrize(("distance", "seen"), [(1, True), (127, True), (128, True), (129, False), (200, False)])
def test_a_planted_key_is_seen_up_to_a_distance_of_128(distance: int, seen: bool) -> None:
    config = small_config(sliding_window=128, num_hidden_layers=1, hybrid_layer_pattern=(1,), moe_layer_freq=(0,))
    model = random_model(config)
    ids = random_ids(config, 260)
    planted = ids.clone()
    planted[0, 259 - distance] = (planted[0, 259 - distance] + 1) % config.vocab_size
    before, after = full_logits(model, ids)[0, -1], full_logits(model, planted)[0, -1]
    assert torch.equal(before, after) is not seen


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize("window_keys", [None, 5])
def test_attention_equals_a_plain_loop_with_unequal_widths(sink: bool, window_keys: int | None) -> None:
    num_new, groups, num_heads, qk_dim, v_dim = 11, 2, 6, 10, 7
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, num_heads, num_new, qk_dim, generator=generator)
    k = torch.randn(1, groups, num_new, qk_dim, generator=generator)
    v = torch.randn(1, groups, num_new, v_dim, generator=generator)
    sinks = torch.randn(num_heads, generator=generator) if sink else None
    positions = torch.arange(num_new)[None]
    mixed = attend(q, k, v, attention_mask(positions, positions, window_keys, torch.float32), sinks)
    for head in range(num_heads):
        group = head // (num_heads // groups)
        for query in range(num_new):
            first = 0 if window_keys is None else max(0, query + 1 - window_keys)
            keys = range(first, query + 1)
            exps = [math.exp(float(q[0, head, query] @ k[0, group, key]) / math.sqrt(qk_dim)) for key in keys]
            total = sum(exps) + (math.exp(float(sinks[head])) if sinks is not None else 0.0)
            expected = sum(
                (e / total * v[0, group, key] for e, key in zip(exps, keys, strict=True)), torch.zeros(v_dim)
            )
            torch.testing.assert_close(mixed[0, head, query], expected, atol=1e-6, rtol=1e-5)


def test_window_layers_may_have_other_widths_than_global_ones() -> None:
    config = small_config(
        num_attention_heads=2, head_dim=24, v_head_dim=16,
        swa_num_attention_heads=6, swa_num_key_value_heads=3, swa_head_dim=12, swa_v_head_dim=20,
    )  # fmt: skip
    model = random_model(config)
    first, second = (layer.self_attn for layer in model.model.layers)
    assert isinstance(first, Attention)
    assert isinstance(second, Attention)
    assert first.q_proj.weight.shape == (48, 32)
    assert second.q_proj.weight.shape == (72, 32)
    assert second.o_proj.weight.shape == (32, 120)
    assert full_logits(model, random_ids(config, 20)).isfinite().all()


def test_only_the_rotary_dimensions_turn_and_pair_with_their_half() -> None:
    x = torch.randn(1, 1, 1, 12, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, rotary_table(torch.tensor([[7]]), 4, 1e4))[0, 0, 0]
    flat = x[0, 0, 0]
    for index, angle in enumerate((7.0, 7.0 / 100.0)):
        cos, sin = math.cos(angle), math.sin(angle)
        expected = (flat[index] * cos - flat[index + 2] * sin, flat[index + 2] * cos + flat[index] * sin)
        torch.testing.assert_close(turned[[index, index + 2]], torch.stack(expected))
    assert torch.equal(turned[4:], flat[4:])


def test_the_published_rotary_factor_turns_64_of_192_dimensions() -> None:
    assert small_config(head_dim=192, partial_rotary_factor=0.334).heads(window=False).rotary_dim == 64


def test_the_router_bias_changes_the_choice_only() -> None:
    config = small_config(n_routed_experts=4, num_experts_per_tok=2)
    router = Router(config)
    torch.nn.init.normal_(router.weight.data, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, config.hidden_size, generator=torch.Generator().manual_seed(1))
    scores = (x @ router.weight.T).sigmoid()
    router.e_score_correction_bias.data = torch.tensor([100.0, 100.0, -100.0, -100.0])
    ids, weights = router(x)
    assert ids.sort(-1).values.tolist() == [[0, 1]] * 5
    chosen = scores.gather(1, ids)
    torch.testing.assert_close(weights, chosen / chosen.sum(-1, keepdim=True))


def test_forced_experts_replace_the_choice_and_are_reported() -> None:
    config = small_config()
    moe = MoE(config)
    for weight in moe.parameters():
        torch.nn.init.normal_(weight.data, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 3, config.hidden_size, generator=torch.Generator().manual_seed(1))
    free, ids = moe(x)
    same, used = moe(x, ids)
    assert torch.equal(free, same)
    assert torch.equal(ids, used)
    other, used = moe(x, (ids + 1) % config.n_routed_experts)
    assert torch.equal(used, (ids + 1) % config.n_routed_experts)
    assert not torch.allclose(free, other)


def test_a_long_batch_of_rows_equals_its_rows_one_by_one() -> None:
    config = small_config(n_routed_experts=2, num_experts_per_tok=1)
    moe = MoE(config)
    for weight in moe.parameters():
        torch.nn.init.normal_(weight.data, std=0.2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 700, config.hidden_size, generator=torch.Generator().manual_seed(1))
    single = torch.cat([moe(x[:, row : row + 1])[0] for row in range(700)], dim=1)
    torch.testing.assert_close(moe(x)[0], single, atol=1e-5, rtol=1e-5)
