"""Behind the C++ step no cache, no company and no guess changes a bit of what the engine reports."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from model_server.engine.backend import choose_kernels
from model_server.engine.draft_policy import NO_SPECULATION, Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.kernels.cpu.build import NoLibrary
from model_server.types import GenerateRequest, SamplingParams, TokenEvent
from tests.numerics.small_models import random_ids, random_model, small_config

_CONFIG = small_config(sliding_window=20)
_PROMPTS = random_ids(_CONFIG, 90, batch=6).tolist()


@pytest.fixture(params=[NO_SPECULATION, Speculation()], ids=["plain", "guessing"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedEngine]:
    try:
        kernels = choose_kernels("cpu")
    except NoLibrary as reason:
        pytest.skip(f"the C++ step is not available: {reason}")
    model = random_model(_CONFIG, num_mtp_layers=2)
    backend, drafter = kernels.build(model, 512)
    engine = EmbeddedEngine(
        model, context_length=512, backend=backend, drafter=drafter, speculation=request.param, max_running=4
    )
    yield engine
    await engine.close()


@pytest.mark.anyio
async def test_logarithms_are_equal_alone_together_and_from_a_cache(engine: EmbeddedEngine) -> None:
    together = await asyncio.gather(*[_answer(engine, prompt) for prompt in _PROMPTS])
    warm = [await _answer(engine, prompt) for prompt in _PROMPTS]
    await engine.flush_cache()
    cold = [await _answer(engine, prompt) for prompt in _PROMPTS]
    assert together == warm == cold


@pytest.mark.anyio
async def test_a_turn_that_continues_a_cached_one_equals_a_cold_one(engine: EmbeddedEngine) -> None:
    answer = await _answer(engine, _PROMPTS[0])
    longer = [*_PROMPTS[0], *(token for token, _ in answer), 5, 6, 7]
    warm = await _answer(engine, longer)
    await engine.flush_cache()
    assert warm == await _answer(engine, longer)


@pytest.mark.anyio
async def test_a_greedy_answer_is_the_same_alone_and_together_where_several_steps_are_taken_at_once(
    engine: EmbeddedEngine,
) -> None:
    together = await asyncio.gather(*[_greedy(engine, prompt) for prompt in _PROMPTS])
    await engine.flush_cache()
    alone = [await _greedy(engine, prompt) for prompt in _PROMPTS]
    for one, other in zip(together, alone, strict=True):
        assert [(event.token_id, event.logprobs, event.finish_reason) for event in one] == [
            (event.token_id, event.logprobs, event.finish_reason) for event in other
        ]
        first, second = one[-1].experts, other[-1].experts
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)


@pytest.mark.anyio
async def test_a_greedy_answer_ends_with_its_stop_token_and_is_continued_from_there(engine: EmbeddedEngine) -> None:
    whole = [event.token_id for event in await _greedy(engine, _PROMPTS[0])]
    for stop in dict.fromkeys(whole):
        events = await _greedy(engine, _PROMPTS[0], stop_ids=frozenset((stop,)))
        assert [event.token_id for event in events] == whole[: whole.index(stop) + 1]
        assert events[-1].finish_reason == "stop"
        longer = [*_PROMPTS[0], *(event.token_id for event in events), 5, 6]
        warm = await _answer(engine, longer)
        await engine.flush_cache()
        assert warm == await _answer(engine, longer)


@pytest.mark.anyio
async def test_greedy_answers_that_take_several_steps_at_once_each_end_at_their_own_stop(
    engine: EmbeddedEngine,
) -> None:
    wholes = [[event.token_id for event in await _greedy(engine, prompt)] for prompt in _PROMPTS]
    stops = [whole[5 + 9 * index] for index, whole in enumerate(wholes)]
    asked = [_greedy(engine, prompt, stop_ids=frozenset((stop,))) for prompt, stop in zip(_PROMPTS, stops, strict=True)]
    for whole, stop, events in zip(wholes, stops, await asyncio.gather(*asked), strict=True):
        assert [event.token_id for event in events] == whole[: whole.index(stop) + 1]


async def _greedy(engine: EmbeddedEngine, prompt: list[int], **more: Any) -> list[TokenEvent]:
    sampling = SamplingParams(temperature=0.0, max_tokens=61, num_logprobs=1, **more)
    request = GenerateRequest("r", tuple(prompt), sampling, experts_from=0)
    return [event async for event in engine.generate(request)]


async def _answer(engine: EmbeddedEngine, prompt: list[int]) -> list[tuple[int, float]]:
    sampling = SamplingParams(temperature=0.8, seed=3, max_tokens=40, num_logprobs=1)
    events = [event async for event in engine.generate(GenerateRequest("r", tuple(prompt), sampling))]
    return [(event.token_id, event.logprobs.sampled) for event in events if event.logprobs]
