"""New weights under a running engine: who began before ends with the old ones, and nothing cached outlives them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import torch

from model_server.engine.backend import Loaded
from model_server.engine.cache_plan import CachePlan
from model_server.engine.drafter import Drafter
from model_server.engine.engine import EmbeddedEngine
from model_server.engine.torch_backend import TorchBackend
from model_server.types import (
    CacheStats,
    EngineUnavailable,
    GenerateRequest,
    SamplingParams,
    TokenEvent,
    UnsupportedRequest,
    WeightsRefused,
)
from model_server.weights.files import CheckpointError
from tests.numerics.small_models import random_ids, random_model, small_config

pytestmark = pytest.mark.anyio

CONFIG = small_config()
CONTEXT = 512
PROMPT = tuple(random_ids(CONFIG, 70)[0].tolist())


def loaded(folder: Path) -> Loaded:
    """The weights of a seed, which is the folder's name."""
    if folder.name == "huge":
        torch.empty(10**15)
    if not folder.name.isdigit():
        raise CheckpointError("no such weights")
    config = CONFIG if folder.name != "99" else small_config(sliding_window=9)
    model = random_model(config, seed=int(folder.name), num_mtp_layers=1 if folder.name == "98" else 0)
    return Loaded(config, TorchBackend(model, CONTEXT), Drafter(model, CONTEXT))


def engine_of(seed: int, plan: CachePlan | None = None) -> EmbeddedEngine:
    return EmbeddedEngine(random_model(CONFIG, seed), context_length=CONTEXT, plan=plan, reload=loaded, max_running=2)


@pytest.fixture
async def engine() -> AsyncIterator[EmbeddedEngine]:
    engine = engine_of(0)
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
async def texts() -> list[list[int]]:
    """What the weights of two seeds say by themselves."""
    said = []
    for seed in (0, 1):
        engine = engine_of(seed)
        said.append(ids(await ask(engine)))
        await engine.close()
    assert said[0] != said[1]
    return said


def request(prompt: Sequence[int] = PROMPT, count: int = 60, session_id: str | None = None) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=count)
    return GenerateRequest("x", tuple(prompt), sampling, experts_from=0, session_id=session_id)


async def ask(
    engine: EmbeddedEngine, prompt: Sequence[int] = PROMPT, session_id: str | None = None
) -> list[TokenEvent]:
    return [event async for event in engine.generate(request(prompt, session_id=session_id))]


def ids(events: Sequence[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


def cache_of(engine: EmbeddedEngine) -> CacheStats:
    cache = engine.stats().cache
    assert cache is not None
    return cache


async def test_what_runs_ends_with_the_old_weights_and_what_comes_waits_for_the_new(
    engine: EmbeddedEngine, texts: list[list[int]]
) -> None:
    running = engine.generate(request())
    seen = [await anext(running)]
    loading = asyncio.create_task(engine.load_weights("1", "second"))
    coming = []
    for _ in range(20):
        coming.append(asyncio.create_task(ask(engine)))
        await asyncio.sleep(0.01)
    await loading
    seen += await _rest(running)
    assert (ids(seen), seen[-1].weights_version) == (texts[0], "default")
    answers = [(ids(events), events[-1].weights_version) for events in await asyncio.gather(*coming)]
    assert set(map(str, answers)) <= {str((texts[0], "default")), str((texts[1], "second"))}
    assert ids(await ask(engine)) == texts[1]
    assert engine.stats().weights_version == "second"


async def test_nothing_cached_under_old_weights_is_used_again(engine: EmbeddedEngine, texts: list[list[int]]) -> None:
    assert ids(await ask(engine)) == texts[0]
    await engine.load_weights("1", "second")
    cache = cache_of(engine)
    assert (cache.used_pages, cache.used_rings, cache.snapshots) == (0, 0, 0)
    events = await ask(engine)
    assert events[0].cached_tokens == 0
    assert ids(events) == texts[1]


async def test_a_session_goes_on_with_its_tokens_and_with_experts_of_the_new_weights(engine: EmbeddedEngine) -> None:
    first = await ask(engine, session_id="chat")
    await engine.load_weights("1", "second")
    second = await ask(engine, [*PROMPT, *ids(first), 5], session_id="chat")
    fresh = engine_of(1)
    expected = await ask(fresh, [*PROMPT, *ids(first), 5])
    await fresh.close()
    assert ids(second) == ids(expected)
    assert (second[0].cached_tokens, second[-1].segment) == (0, 0)
    assert second[-1].experts is not None
    assert expected[-1].experts is not None
    assert second[-1].experts.equal(expected[-1].experts)


async def test_sequences_that_were_made_to_stop_are_resumed_before_the_weights_change() -> None:
    engine = engine_of(0, CachePlan(num_pages=5, num_snapshots=2, num_sessions=0))
    alone = engine_of(0)
    try:
        prompts = [random_ids(CONFIG, 70, seed)[0].tolist() for seed in (1, 2)]
        streams = [engine.generate(request(prompt, 100)) for prompt in prompts]
        seen = [[await anext(stream)] for stream in streams]
        loading = asyncio.create_task(engine.load_weights("1", "second"))
        rest = await asyncio.gather(*(_rest(stream) for stream in streams))
        await loading
        assert cache_of(engine).preemptions
        for prompt, start, end in zip(prompts, seen, rest, strict=True):
            expected = [event.token_id async for event in alone.generate(request(prompt, 100))]
            assert ids([*start, *end]) == expected
            assert end[-1].weights_version == "default"
    finally:
        await engine.close()
        await alone.close()


async def _rest(stream: AsyncIterator[TokenEvent]) -> list[TokenEvent]:
    return [event async for event in stream]


async def test_what_runs_can_be_ended_at_once(engine: EmbeddedEngine, texts: list[list[int]]) -> None:
    running = engine.generate(request(count=400))
    await anext(running)
    await engine.load_weights("1", "second", abort=True)
    with pytest.raises(EngineUnavailable, match="other weights"):
        await _rest(running)
    assert ids(await ask(engine)) == texts[1]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("none", "no such weights"),
        ("huge", "not enough memory"),
        ("99", "config.json is not that"),
        ("98", "1 prediction layers"),
    ],
)
async def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(
    engine: EmbeddedEngine, texts: list[list[int]], folder: str, reason: str
) -> None:
    with pytest.raises(WeightsRefused, match=reason):
        await engine.load_weights(folder, "second")
    events = await ask(engine)
    assert (ids(events), events[-1].weights_version) == (texts[0], "default")


async def test_an_engine_without_a_way_to_load_says_so() -> None:
    engine = EmbeddedEngine(random_model(CONFIG), context_length=CONTEXT)
    with pytest.raises(UnsupportedRequest):
        await engine.load_weights("1", "second")
    await engine.close()
