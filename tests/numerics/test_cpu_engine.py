"""Behind the C++ step no cache, no company and no guess changes a bit of what the engine reports."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from model_server.engine.backend import choose_kernels
from model_server.engine.draft_policy import NO_SPECULATION, Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.kernels.cpu.build import NoLibrary
from model_server.types import GenerateRequest, SamplingParams
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


async def _answer(engine: EmbeddedEngine, prompt: list[int]) -> list[tuple[int, float]]:
    sampling = SamplingParams(temperature=0.8, seed=3, max_tokens=40, num_logprobs=1)
    events = [event async for event in engine.generate(GenerateRequest("r", tuple(prompt), sampling))]
    return [(event.token_id, event.logprobs.sampled) for event in events if event.logprobs]
