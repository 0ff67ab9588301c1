"""Chunks, batches, pages and rings change nothing: in f32 the plain backend equals one plain forward."""

import random

import pytest
import torch
from torch import Tensor

from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.batch import FREE, TILE, ring_size
from model_server.models.mimo_v2_flash import MiMoV2Flash
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import full_logits, random_config, random_ids, random_model, small_config

_TOLERANCE = 1e-5


def _sequences(model: MiMoV2Flash, num: int = 1) -> PooledSequences:
    return PooledSequences(model.config, TorchBackend(model, 512), num)


@pytest.mark.parametrize("seed", range(20))
def test_any_chunks_give_the_log_probs_of_a_plain_forward(seed: int) -> None:
    config = random_config(seed)
    model = random_model(config, seed)
    draw = random.Random(seed)
    ids = random_ids(config, 200, seed)[0].tolist()
    expected = _log_probs(full_logits(model, torch.tensor([ids]))[0])
    sequences = _sequences(model)
    while (start := sequences.lengths[0]) < len(ids):
        logits = sequences.forward([(0, ids[start : start + draw.choice((1, 1, 1, 2, 5, 17, 60, 150))])])
        assert _close(_log_probs(logits)[0], expected[sequences.lengths[0] - 1])


@pytest.mark.parametrize("seed", range(6))
def test_tokens_that_were_taken_back_leave_no_trace(seed: int) -> None:
    config = small_config(sliding_window=8)
    model = random_model(config, seed)
    draw = random.Random(seed)
    ids = random_ids(config, 120, seed)[0].tolist()
    expected = _log_probs(full_logits(model, torch.tensor([ids]))[0])
    sequences = _sequences(model)
    sequences.forward([(0, ids[:3])])
    while (start := sequences.lengths[0]) < len(ids) - 5:
        num_kept, num_wrong = draw.randint(1, 4), draw.choice((0, 1, 3, TILE - 4))
        wrong = [draw.randrange(config.vocab_size) for _ in range(num_wrong)]
        output = sequences.step([sequences.segment(0, [*ids[start : start + num_kept], *wrong], num_kept + num_wrong)])
        assert _close(_log_probs(output.logits[:num_kept]), expected[start : start + num_kept])
        sequences.lengths[0] = start + num_kept


@pytest.mark.parametrize("window", [8, 128])
def test_sequences_of_different_lengths_share_a_step(window: int) -> None:
    config = small_config(sliding_window=window)
    model = random_model(config)
    prompts = [random_ids(config, length, seed=length)[0].tolist() for length in (1, 7, 129, 130, 200)]
    sequences = _sequences(model, len(prompts))
    starts = [len(prompt) for prompt in prompts]
    for _ in range(30):
        lengths = list(sequences.lengths)
        logits = sequences.forward([(index, prompt[lengths[index] :]) for index, prompt in enumerate(prompts)])
        for prompt, row in zip(prompts, logits, strict=True):
            prompt.append(int(row.argmax()))
    for prompt, start in zip(prompts, starts, strict=True):
        expected = full_logits(model, torch.tensor([prompt]))[0]
        assert expected[start - 1 : -1].argmax(-1).tolist() == prompt[start:]


def test_a_long_chunk_beside_decoding_rows_changes_neither() -> None:
    config = small_config()
    model = random_model(config)
    first, second = (random_ids(config, length, seed=length)[0].tolist() for length in (60, 90))
    sequences = _sequences(model, 2)
    sequences.forward([(0, first[:-1])])
    logits = sequences.forward([(0, first[-1:]), (1, second)])
    for row, ids in zip(logits, (first, second), strict=True):
        assert _close(_log_probs(row), _log_probs(full_logits(model, torch.tensor([ids]))[0, -1]))


def test_more_rows_than_the_short_path_for_experts_takes_give_the_same() -> None:
    config = small_config()
    model = random_model(config)
    prompts = [random_ids(config, 5, seed=seed)[0].tolist() for seed in range(40)]
    logits = _sequences(model, 40).forward(list(enumerate(prompts)))
    assert _close(_log_probs(logits), _log_probs(full_logits(model, torch.tensor(prompts))[:, -1]))


@pytest.mark.parametrize("num_tokens", [3, 40])
def test_given_experts_are_used_and_free_rows_choose_their_own(num_tokens: int) -> None:
    config = small_config(num_hidden_layers=3, hybrid_layer_pattern=(0, 1, 1), moe_layer_freq=(0, 1, 1))
    model = random_model(config)
    ids = random_ids(config, num_tokens)[0].tolist()
    forced = torch.stack([torch.randperm(config.n_routed_experts)[:2] for _ in range(num_tokens * 2)])
    forced = forced.view(num_tokens, 2, 2)
    expected = _forced_logits(model, ids, forced)
    sequences = _sequences(model, 3)
    given = sequences.segment(0, ids, num_tokens, forced.to(torch.uint8))
    free = sequences.segment(1, ids, num_tokens, torch.full((num_tokens, 2, 2), FREE, dtype=torch.uint8))
    output = sequences.step([given, free, sequences.segment(2, ids, num_tokens)])
    by_segment = output.logits.split(num_tokens)
    assert _close(_log_probs(by_segment[0]), _log_probs(expected))
    assert torch.equal(output.experts[:num_tokens].long(), forced)
    plain = full_logits(model, torch.tensor([ids]))[0]
    assert _close(_log_probs(by_segment[1]), _log_probs(plain))
    assert _close(_log_probs(by_segment[2]), _log_probs(plain))
    assert not _close(_log_probs(expected), _log_probs(plain))


def test_a_step_that_is_run_again_gives_the_same() -> None:
    config = small_config()
    sequences = _sequences(random_model(config))
    ids = random_ids(config, 90)[0].tolist()
    sequences.forward([(0, ids[:50])])
    segment = sequences.segment(0, ids[50:70], num_logits=20)
    first, second = (sequences.backend.step([segment], sequences.pools) for _ in range(2))
    assert torch.equal(first.logits, second.logits)


def test_a_ring_holds_the_window_and_a_tile_whatever_the_context() -> None:
    config = small_config(sliding_window=128, max_position_embeddings=65536)
    assert ring_size(config.window_keys) == 160
    backend = TorchBackend(random_model(config), 2048)
    sizes = [PooledSequences(config, backend, 1, length).pools.ring_k.nbytes for length in (512, 65536)]
    heads = config.heads(window=True)
    assert sizes == [160 * heads.num_kv_heads * heads.qk_dim * 4] * 2


def test_pools_in_bf16_stay_near_f32_and_chunks_change_nothing() -> None:
    config = small_config()
    model = random_model(config)
    ids = random_ids(config, 60)[0].tolist()
    expected = full_logits(model, torch.tensor([ids]))[0, -1]
    found = []
    for cut in (1, 30, 59):
        sequences = PooledSequences(config, TorchBackend(model, 512), dtype=torch.bfloat16)
        sequences.forward([(0, ids[:cut])])
        found.append(sequences.forward([(0, ids[cut:])])[0])
    assert all((logits - expected).std() < 0.02 * expected.std() for logits in found)
    assert all(_close(_log_probs(logits), _log_probs(found[0])) for logits in found)


def test_bf16_stays_near_f32() -> None:
    config = small_config()
    model = random_model(config)
    ids = random_ids(config, 60)[0].tolist()
    expected = full_logits(model, torch.tensor([ids]))[0, -1]
    model.bfloat16()
    sequences = PooledSequences(config, TorchBackend(model, 512), dtype=torch.bfloat16)
    sequences.forward([(0, ids[:40])])
    for token in ids[40:-1]:
        sequences.forward([(0, [token])])
    assert (sequences.forward([(0, ids[-1:])])[0] - expected).std() < 0.2 * expected.std()


@torch.inference_mode()
def _forced_logits(model: MiMoV2Flash, ids: list[int], experts: Tensor) -> Tensor:
    positions = torch.arange(len(ids))[None]
    return model.logits(model(torch.tensor([ids]), positions, forced_experts=experts[None]).hidden)[0]


def _log_probs(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def _close(ours: Tensor, plain: Tensor) -> bool:
    return float((ours - plain).abs().max()) < _TOLERANCE
