"""The embedded engine through its door: streams, limits, cancellation, failures, reuse."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import torch

from model_server.engine.cache_plan import CachePlan
from model_server.engine.engine import EmbeddedEngine
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import (
    CacheStats,
    ContextLengthExceeded,
    EngineError,
    GenerateRequest,
    Overloaded,
    SamplingParams,
    TokenDeadline,
    TokenEvent,
)
from tests.numerics.small_models import full_logits, random_ids, random_model, small_config

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def model() -> MiMoV2Flash:
    return random_model(small_config())


@pytest.fixture
async def engine(model: MiMoV2Flash) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(model, max_running=4, max_waiting=4, context_length=512)
    yield engine
    await engine.close()


async def test_greedy_text_is_that_of_a_plain_forward(engine: EmbeddedEngine, model: MiMoV2Flash) -> None:
    prompt = _prompt(30)
    events = await _generate(engine, prompt, max_tokens=40)
    ids = [*prompt, *(event.token_id for event in events)]
    assert full_logits(model, torch.tensor([ids]))[0, 29:-1].argmax(-1).tolist() == ids[30:]
    assert [event.finish_reason for event in events] == [None] * 39 + ["length"]


async def test_a_stop_token_ends_the_text_and_is_reported(engine: EmbeddedEngine) -> None:
    prompt = _prompt(30)
    free = [event.token_id for event in await _generate(engine, prompt, max_tokens=10)]
    stop = free[4]
    events = await _generate(engine, prompt, max_tokens=10, stop_ids=frozenset({stop}))
    assert [event.token_id for event in events] == free[: free.index(stop) + 1]
    assert events[-1].finish_reason == "stop"


async def test_a_token_that_does_not_come_in_time_is_put_in_once(engine: EmbeddedEngine) -> None:
    prompt = _prompt(30)
    free = _ids(await _generate(engine, prompt, max_tokens=10))
    missing = next(token for token in range(100) if token not in free)
    forced = _ids(await _generate(engine, prompt, max_tokens=10, deadline=TokenDeadline(missing, 4)))
    assert forced[:5] == [*free[:4], missing]
    assert _ids(await _generate(engine, prompt, max_tokens=10, deadline=TokenDeadline(free[2], 4))) == free


async def test_logprobs_of_every_token_are_those_of_a_plain_forward(engine: EmbeddedEngine, model: MiMoV2Flash) -> None:
    prompt = _prompt(30)
    events = await _generate(engine, prompt, max_tokens=5, num_logprobs=2)
    scores = full_logits(model, torch.tensor([[*prompt, *_ids(events)]]))[0, 29:-1].log_softmax(-1)
    for event, row in zip(events, scores, strict=True):
        assert event.logprobs is not None
        assert event.logprobs.likeliest[0] == (event.token_id, event.logprobs.sampled)
        assert abs(event.logprobs.sampled - float(row[event.token_id])) < 1e-4
        assert len(event.logprobs.likeliest) == 2


async def test_a_bias_on_a_token_outside_the_vocabulary_is_refused(engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineError, match="outside the vocabulary"):
        await _generate(engine, _prompt(5), max_tokens=1, logit_bias=((1_000_000, 1.0),))


async def test_neighbours_change_neither_greedy_nor_sampled_text(engine: EmbeddedEngine) -> None:
    ways: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 0.9},
        {"temperature": 0.9, "top_p": 0.8},
        {"temperature": 0.9, "frequency_penalty": 1.0},
        {"temperature": 0.0, "logit_bias": ((3, 2.0),)},
        {"temperature": 0.0, "num_logprobs": 0},
    ]
    requests = [(_prompt(5 + 20 * index, seed=index), ways[index % 6] | {"seed": index}) for index in range(8)]
    alone = [await _generate(engine, prompt, max_tokens=25, **settings) for prompt, settings in requests]
    together = await asyncio.gather(
        *(_generate(engine, prompt, max_tokens=25, **settings) for prompt, settings in requests)
    )
    assert [_ids(events) for events in together] == [_ids(events) for events in alone]


async def test_sampling_follows_the_seed(engine: EmbeddedEngine) -> None:
    prompt = _prompt(12)
    same = [_ids(await _generate(engine, prompt, max_tokens=20, temperature=1.5, seed=7)) for _ in range(2)]
    other = _ids(await _generate(engine, prompt, max_tokens=20, temperature=1.5, seed=8))
    assert same[0] == same[1] != other


async def test_a_prompt_that_continues_a_finished_sequence_reuses_it(model: MiMoV2Flash) -> None:
    engine = EmbeddedEngine(model, context_length=512)
    cold = EmbeddedEngine(model, context_length=512, plan=CachePlan(num_pages=16, num_snapshots=0, num_sessions=0))
    history, num_cached = _prompt(40), 0
    for turn in range(4):
        events = await _generate(engine, history, max_tokens=15)
        assert _ids(events) == _ids(await _generate(cold, history, max_tokens=15))
        # The last token sampled was never run through the model, so it is not in the cache.
        assert {event.cached_tokens for event in events} == {num_cached}
        history = [*history, *_ids(events)]
        num_cached = len(history) - 1
        history += _prompt(10, seed=turn)
    await engine.close()
    await cold.close()


async def test_a_prompt_that_departs_from_the_sampled_text_reuses_the_prompt_before_it(model: MiMoV2Flash) -> None:
    engine = EmbeddedEngine(model, context_length=512)
    cold = EmbeddedEngine(model, context_length=512, plan=CachePlan(num_pages=16, num_snapshots=0, num_sessions=0))
    prompt = _prompt(40)
    await _generate(engine, prompt, max_tokens=15)
    departed = [*prompt, *_prompt(20, seed=1)]
    events = await _generate(engine, departed, max_tokens=15)
    assert {event.cached_tokens for event in events} == {40}
    assert _ids(events) == _ids(await _generate(cold, departed, max_tokens=15))
    await engine.close()
    await cold.close()


async def test_a_prompt_that_departs_early_from_the_prompt_before_it_starts_cold(engine: EmbeddedEngine) -> None:
    prompt = _prompt(150)
    await _generate(engine, prompt, max_tokens=5)
    departed = [*prompt[:60], (prompt[60] + 1) % 97, *prompt[61:]]
    assert {event.cached_tokens for event in await _generate(engine, departed, max_tokens=3)} == {0}


async def test_closing_the_stream_cancels_the_sequence(engine: EmbeddedEngine) -> None:
    stream = engine.generate(_request(_prompt(20), max_tokens=400))
    await anext(stream)
    await stream.aclose()
    await _until(lambda: engine.stats().running == 0)
    await _assert_nothing_leaks(engine)


async def test_a_hundred_cancelled_requests_leave_no_caches(engine: EmbeddedEngine) -> None:
    async def start_and_leave(index: int) -> None:
        stream = engine.generate(_request(_prompt(1 + index), max_tokens=300))
        for _ in range(index % 3 + 1):
            await anext(stream)
        await stream.aclose()

    for first in range(0, 100, 4):
        await asyncio.gather(*(start_and_leave(first + offset) for offset in range(4)))
        await _until(lambda: engine.stats().running == 0)
    assert engine.stats().waiting == 0
    await _assert_nothing_leaks(engine)


async def test_a_cancelled_task_cancels_its_sequence_while_it_waits(model: MiMoV2Flash) -> None:
    engine = EmbeddedEngine(model, max_running=1, context_length=512)
    running = engine.generate(_request(_prompt(5), max_tokens=400))
    await anext(running)
    waiting = asyncio.create_task(_generate(engine, _prompt(6), max_tokens=400))
    await _until(lambda: engine.stats().waiting == 1)
    waiting.cancel()
    await _until(lambda: engine.stats().waiting == 0)
    assert engine.stats().running == 1
    await running.aclose()
    await engine.close()


async def test_a_full_queue_refuses_at_once_and_serves_those_it_took(model: MiMoV2Flash) -> None:
    engine = EmbeddedEngine(model, max_running=1, max_waiting=1, context_length=512)
    first = engine.generate(_request(_prompt(5), max_tokens=100))
    await anext(first)
    second = asyncio.create_task(_generate(engine, _prompt(6), max_tokens=5))
    await _until(lambda: engine.stats().waiting == 1)
    with pytest.raises(Overloaded, match="2 sequences"):
        await _generate(engine, _prompt(7), max_tokens=5)
    assert [event async for event in first][-1].finish_reason == "length"
    assert len(await second) == 5
    await engine.close()


async def test_what_does_not_fit_the_context_is_refused_with_both_numbers(engine: EmbeddedEngine) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"500 tokens and 13 .* 512"):
        await _generate(engine, _prompt(500), max_tokens=13)
    assert len(await _generate(engine, _prompt(500), max_tokens=12)) == 12


@pytest.mark.parametrize("prompt", [[], [97], [-1]])
async def test_prompts_that_are_no_tokens_are_refused(engine: EmbeddedEngine, prompt: list[int]) -> None:
    with pytest.raises(EngineError, match=r"at least one prompt token|outside the vocabulary of 97"):
        await _generate(engine, prompt, max_tokens=1)


async def test_logits_that_are_not_finite_fail_their_sequence_only() -> None:
    model = random_model(small_config())
    model.model.embed_tokens.weight[5] = torch.nan
    engine = EmbeddedEngine(model, context_length=512)
    healthy = [token for token in _prompt(20) if token != 5]
    good, bad = await asyncio.gather(
        _generate(engine, healthy, max_tokens=1),
        _generate(engine, [1, 5, 2], max_tokens=1),
        return_exceptions=True,
    )
    assert isinstance(good, list)
    assert isinstance(bad, EngineError)
    assert "not finite" in str(bad)
    assert len(await _generate(engine, healthy, max_tokens=1)) == 1
    await engine.close()


async def test_an_exception_in_a_step_fails_its_sequences_and_the_engine_goes_on() -> None:
    model = random_model(small_config())
    engine = EmbeddedEngine(model, context_length=512)
    embeddings = model.model.embed_tokens.weight
    whole = embeddings.data
    embeddings.data = whole[:1]
    with pytest.raises(EngineError, match="the step failed: IndexError"):
        await _generate(engine, [3, 4, 5], max_tokens=5)
    embeddings.data = whole
    assert len(await _generate(engine, [3, 4, 5], max_tokens=5)) == 5
    await engine.close()


async def test_closing_ends_what_runs_and_refuses_what_comes(model: MiMoV2Flash) -> None:
    engine = EmbeddedEngine(model, context_length=512)
    stream = engine.generate(_request(_prompt(5), max_tokens=500))
    await anext(stream)
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        async for _ in stream:
            pass
    with pytest.raises(EngineError, match="closed"):
        await _generate(engine, _prompt(5), max_tokens=1)
    assert _cache(engine).used_pages == _cache(engine).kept_pages


async def _assert_nothing_leaks(engine: EmbeddedEngine) -> None:
    """What sequences held is free or kept, and what is kept can be given up."""
    cache = _cache(engine)
    assert cache.used_pages == cache.kept_pages
    assert cache.used_rings == cache.snapshots + cache.sessions
    await engine.flush_cache()
    cache = _cache(engine)
    assert (cache.used_pages, cache.used_rings, cache.snapshots, cache.used_bytes) == (0, 0, 0, 0)


def _cache(engine: EmbeddedEngine) -> CacheStats:
    cache = engine.stats().cache
    assert cache is not None
    return cache


def _prompt(length: int, seed: int = 0) -> list[int]:
    ids: list[int] = random_ids(small_config(), length, seed)[0].tolist()
    return ids


def _request(prompt: list[int], **settings: object) -> GenerateRequest:
    sampling = SamplingParams(**({"temperature": 0.0} | settings))  # type: ignore[arg-type]
    return GenerateRequest("test", tuple(prompt), sampling)


async def _generate(engine: EmbeddedEngine, prompt: list[int], **settings: object) -> list[TokenEvent]:
    return [event async for event in engine.generate(_request(prompt, **settings))]


def _ids(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (the engine has no event for it)
        await asyncio.sleep(0.001)
