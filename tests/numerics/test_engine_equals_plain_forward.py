"""Chunks, batches, caches and reuse change nothing: in f32 the engine's runner equals one plain forward."""

import random

import pytest
import torch
from torch import Tensor

from model_server.engine.prefix_cache import PrefixCache
from model_server.engine.runner import Runner, Segment
from tests.numerics.small_models import full_logits, random_config, random_ids, random_model, small_config

_TOLERANCE = 1e-5


@pytest.mark.parametrize("seed", range(20))
def test_any_chunks_give_the_log_probs_of_a_plain_forward(seed: int) -> None:
    config = random_config(seed)
    model = random_model(config, seed)
    runner = Runner(model, 512)
    draw = random.Random(seed)
    ids = random_ids(config, 200, seed)[0].tolist()
    expected = _log_probs(full_logits(model, torch.tensor([ids]))[0])
    cache = runner.new_cache()
    while cache.num_tokens < len(ids):
        end = cache.num_tokens + draw.choice((1, 1, 1, 2, 5, 17, 60))
        logits = runner.forward([Segment(ids[cache.num_tokens : end], cache)])
        assert _close(_log_probs(logits)[0], expected[cache.num_tokens - 1])


@pytest.mark.parametrize("seed", range(6))
def test_tokens_that_were_taken_back_leave_no_trace(seed: int) -> None:
    config = small_config(sliding_window=8)
    model = random_model(config, seed)
    runner = Runner(model, 512)
    draw = random.Random(seed)
    ids = random_ids(config, 120, seed)[0].tolist()
    expected = _log_probs(full_logits(model, torch.tensor([ids]))[0])
    cache = runner.new_cache()
    runner.forward([Segment(ids[:3], cache)])
    while cache.num_tokens < len(ids) - 5:
        num_kept, num_wrong = draw.randint(1, 4), draw.randint(0, 4)
        start, end = cache.num_tokens, cache.num_tokens + num_kept
        wrong = [draw.randrange(config.vocab_size) for _ in range(num_wrong)]
        output = runner.step([Segment([*ids[start:end], *wrong], cache, num_logits=num_kept + num_wrong)])
        assert _close(_log_probs(output.logits[0][:num_kept]), expected[start:end])
        cache.commit(num_kept, output.experts[0])


@pytest.mark.parametrize("window", [8, 128])
def test_sequences_of_different_lengths_share_a_step(window: int) -> None:
    config = small_config(sliding_window=window)
    model = random_model(config)
    runner = Runner(model, 512)
    prompts = [random_ids(config, length, seed=length)[0].tolist() for length in (1, 7, 129, 130, 200)]
    caches = [runner.new_cache() for _ in prompts]
    starts = [len(prompt) for prompt in prompts]
    for _ in range(30):
        batch = zip(prompts, caches, strict=True)
        logits = runner.forward([Segment(prompt[cache.num_tokens :], cache) for prompt, cache in batch])
        for prompt, row in zip(prompts, logits, strict=True):
            prompt.append(int(row.argmax()))
    for prompt, start in zip(prompts, starts, strict=True):
        expected = full_logits(model, torch.tensor([prompt]))[0]
        assert expected[start - 1 : -1].argmax(-1).tolist() == prompt[start:]


def test_a_long_chunk_beside_decoding_rows_changes_neither() -> None:
    config = small_config()
    model = random_model(config)
    runner = Runner(model, 512)
    first, second = (random_ids(config, length, seed=length)[0].tolist() for length in (60, 90))
    decoding, reading = runner.new_cache(), runner.new_cache()
    runner.forward([Segment(first[:-1], decoding)])
    logits = runner.forward([Segment(first[-1:], decoding), Segment(second, reading)])
    for row, ids in zip(logits, (first, second), strict=True):
        assert _close(_log_probs(row), _log_probs(full_logits(model, torch.tensor([ids]))[0, -1]))


def test_more_rows_than_the_short_path_for_experts_takes_give_the_same() -> None:
    config = small_config()
    model = random_model(config)
    runner = Runner(model, 512)
    prompts = [random_ids(config, 5, seed=seed)[0].tolist() for seed in range(40)]
    logits = runner.forward([Segment(prompt, runner.new_cache()) for prompt in prompts])
    assert _close(_log_probs(logits), _log_probs(full_logits(model, torch.tensor(prompts))[:, -1]))


def test_a_continued_cache_gives_the_log_probs_of_a_cold_one() -> None:
    config = small_config()
    model = random_model(config)
    runner = Runner(model, 512)
    ids = random_ids(config, 150)[0].tolist()
    kept = PrefixCache(capacity=2)
    cache = runner.new_cache()
    runner.forward([Segment(ids[:100], cache)])
    kept.keep(ids, cache)
    assert kept.take(ids[:100]) is None
    assert kept.take([*ids[:99], ids[99] + 1, *ids[100:]]) is None
    taken = kept.take(ids)
    assert taken is cache
    assert len(kept) == 0
    logits = runner.forward([Segment(ids[100:], taken)])
    assert _close(_log_probs(logits)[0], _log_probs(full_logits(model, torch.tensor([ids]))[0, -1]))


@pytest.mark.parametrize("num_prompt", [5, 8, 9, 10, 60])
def test_a_cache_rewound_to_its_mark_gives_the_log_probs_of_a_cold_one(num_prompt: int) -> None:
    config = small_config(sliding_window=8)
    model = random_model(config)
    runner = Runner(model, 512)
    ids = random_ids(config, 100)[0].tolist()
    cache = runner.new_cache()
    runner.forward([Segment(ids[:num_prompt], cache)])
    cache.mark()
    for token in (1, 2, 3):
        runner.forward([Segment([token] * 4, cache)])
    kept = PrefixCache(capacity=1)
    kept.keep([*ids[:num_prompt], *[1] * 4, *[2] * 4, *[3] * 4], cache)
    taken = kept.take(ids)
    assert taken is not None
    assert taken.num_tokens == num_prompt
    logits = runner.forward([Segment(ids[num_prompt:], taken)])
    assert _close(_log_probs(logits)[0], _log_probs(full_logits(model, torch.tensor([ids]))[0, -1]))


def test_the_longest_kept_prefix_is_taken_and_the_oldest_leaves_first() -> None:
    config = small_config()
    runner = Runner(random_model(config), 512)
    ids = random_ids(config, 50)[0].tolist()
    kept = PrefixCache(capacity=2)
    caches = []
    for length in (30, 10, 20):
        caches.append(runner.new_cache())
        runner.forward([Segment(ids[:length], caches[-1])])
        kept.keep(ids, caches[-1])
    assert len(kept) == 2
    assert kept.take(ids) is caches[2]
    assert kept.take(ids) is caches[1]
    assert kept.take(ids) is None


def test_window_memory_does_not_depend_on_the_context() -> None:
    config = small_config(sliding_window=128, max_position_embeddings=65536)
    runner = Runner(random_model(config), 8192)
    cache = runner.new_cache()
    sizes = []
    for length in (500, 2500):
        while cache.num_tokens < length:
            runner.forward([Segment([1] * 250, cache)])
        sizes.append(cache.num_window_bytes)
    heads = config.heads(window=True)
    assert sizes == [129 * heads.num_kv_heads * (heads.qk_dim + heads.v_dim) * 4] * 2
    assert cache.num_bytes > sizes[0]


def test_bf16_stays_near_f32() -> None:
    config = small_config()
    model = random_model(config)
    ids = random_ids(config, 60)[0].tolist()
    expected = full_logits(model, torch.tensor([ids]))[0, -1]
    model.bfloat16()
    runner = Runner(model, 512)
    cache = runner.new_cache()
    runner.forward([Segment(ids[:40], cache)])
    for token in ids[40:-1]:
        runner.forward([Segment([token], cache)])
    assert (runner.forward([Segment(ids[-1:], cache)])[0] - expected).std() < 0.2 * expected.std()


def _log_probs(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def _close(ours: Tensor, plain: Tensor) -> bool:
    return float((ours - plain).abs().max()) < _TOLERANCE
