"""Caches, preemption and sessions change how much is computed, never what is said; and nothing leaks.

Texts are those of a backend that reads every token back from pages and rings (see ``adding_backend``).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from model_server.engine.cache_plan import CachePlan
from model_server.engine.engine import EmbeddedEngine
from model_server.types import (
    CacheStats,
    CacheTooSmall,
    EngineError,
    GenerateRequest,
    SamplingParams,
    TokenEvent,
)
from tests.numerics.small_models import random_model, small_config
from tests.unit.model_server.adding_backend import AddingBackend

pytestmark = pytest.mark.anyio

CONFIG = small_config(hidden_size=4, intermediate_size=4, moe_intermediate_size=4)


@asynccontextmanager
async def serving(
    *, pages: int = 200, mtp: int = 0, context_length: int = 512, **settings: Any
) -> AsyncIterator[tuple[EmbeddedEngine, AddingBackend]]:
    """An engine that must have nothing left at the end."""
    backend = AddingBackend(CONFIG)
    plan = CachePlan(num_pages=pages, num_snapshots=8, num_sessions=4)
    model = random_model(CONFIG, num_mtp_layers=mtp)
    engine = EmbeddedEngine(model, context_length=context_length, plan=plan, backend=backend, **settings)
    for pool in (engine.pools.page_k, engine.pools.page_v, engine.pools.ring_k, engine.pools.ring_v):
        pool.fill_(float("nan"))
    try:
        yield engine, backend
        while engine.stats().running:  # noqa: ASYNC110 (the engine has no event for it)
            await asyncio.sleep(0.001)
        await engine.flush_cache()
        cache = cache_stats(engine)
        assert (cache.used_pages, cache.used_rings, cache.snapshots) == (0, 0, 0)
    finally:
        await engine.close()


def tokens(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(CONFIG.vocab_size), k=length)


async def generate(engine: EmbeddedEngine, prompt: Sequence[int], max_tokens: int, **fields: Any) -> list[TokenEvent]:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    request = GenerateRequest("test", tuple(prompt), sampling, experts_from=0, **fields)
    return [event async for event in engine.generate(request)]


def ids(events: Sequence[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


def cache_stats(engine: EmbeddedEngine) -> CacheStats:
    cache = engine.stats().cache
    assert cache is not None
    return cache


@pytest.mark.parametrize("seed", range(6))
async def test_any_requests_say_what_they_would_alone_and_leave_nothing_behind(seed: int) -> None:
    draw = random.Random(seed)
    texts: list[list[int]] = [tokens(draw.randint(1, 200), seed=index) for index in range(4)]

    async def ask(engine: EmbeddedEngine, backend: AddingBackend, index: int) -> None:
        base = draw.choice(texts)
        prompt = [*base[: draw.choice((len(base), draw.randint(1, len(base))))], *tokens(draw.randint(1, 40), index)]
        prompt, max_tokens = prompt[-380:], draw.randint(1, 90)
        fields: dict[str, Any] = {
            "cache_salt": draw.choice(("", "", "other")),
            "session_id": draw.choice((None, None, "a", "b")),
            "priority": draw.choice((0, 0, 1, -5)),
        }
        if draw.random() < 0.2:
            return await leave(engine, prompt, draw.randint(0, 5), fields)
        events = await generate(engine, prompt, max_tokens, **fields)
        assert ids(events) == backend.text(prompt, max_tokens)
        assert events[-1].experts is not None
        assert torch.equal(events[-1].experts, backend.routes([*prompt, *ids(events)[:-1]]))
        assert 0 <= events[0].cached_tokens < len(prompt)
        texts.append([*prompt, *ids(events)])
        return None

    async def leave(engine: EmbeddedEngine, prompt: list[int], after: int, fields: dict[str, Any]) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=50)
        stream = engine.generate(GenerateRequest("test", tuple(prompt), sampling, **fields))
        for _ in range(after):
            await anext(stream)
        await stream.aclose()

    async with serving(max_running=3, pages=(9, 14, 40)[seed % 3], mtp=seed % 2) as (engine, backend):
        for first in range(0, 42, 7):
            await asyncio.gather(*(ask(engine, backend, first + offset) for offset in range(7)))


async def test_sequences_that_are_made_to_stop_say_the_same_in_the_end() -> None:
    prompts = [tokens(100, seed=index) for index in range(4)]
    async with serving(max_running=4, pages=13) as (engine, backend):
        answers = await asyncio.gather(*(generate(engine, prompt, 200) for prompt in prompts))
        assert cache_stats(engine).preemptions > 0
        for prompt, events in zip(prompts, answers, strict=True):
            assert ids(events) == backend.text(prompt, 200)
            assert events[-1].experts is not None
            assert torch.equal(events[-1].experts, backend.routes([*prompt, *ids(events)[:-1]]))


async def test_experts_of_a_sequence_that_was_made_to_stop_are_those_it_was_sampled_under() -> None:
    prompts = [tokens(100, seed=index) for index in range(2)]
    async with serving(max_running=2, pages=7) as (engine, backend):
        first, second = (engine.generate(_request(prompt, 200)) for prompt in prompts)
        seen = [await anext(second) for _ in range(80)]
        before = backend.routes([*prompts[1], *ids(seen)])[:150]
        backend.drift = 1
        await asyncio.gather(_read(first), _read(second, seen))
        assert cache_stats(engine).preemptions > 0
        assert seen[-1].experts is not None
        assert torch.equal(seen[-1].experts[:150], before)


@pytest.mark.parametrize(
    ("priorities", "pages", "last"), [((0, 0, 0), 7, 2), ((0, 0, 2), 7, 1), ((-1, 0, 0), 7, 0), ((0, 9), 5, 0)]
)
async def test_the_youngest_of_the_lowest_priority_stops(priorities: Sequence[int], pages: int, last: int) -> None:
    async with serving(pages=pages) as (engine, _):
        done: list[int] = []

        async def ask(index: int, priority: int) -> None:
            await generate(engine, tokens(60, seed=index), 130, priority=priority)
            done.append(index)

        await asyncio.gather(*(ask(index, priority) for index, priority in enumerate(priorities)))
        assert cache_stats(engine).preemptions > 0
        assert done[-1] == last


async def test_running_sequences_share_the_pages_of_one_prompt() -> None:
    prompt = tokens(320)
    async with serving(max_running=6, pages=24) as (engine, backend):
        answers = await asyncio.gather(*(generate(engine, prompt, 40) for _ in range(6)))
        assert [events[0].cached_tokens for events in answers] == [0] + [319] * 5
        assert all(ids(events) == backend.text(prompt, 40) for events in answers)
        assert backend.most_sequences == 6
        assert cache_stats(engine).preemptions == 0


async def test_a_prompt_is_reused_while_the_one_before_it_still_runs() -> None:
    prompt = tokens(100)
    async with serving() as (engine, backend):
        running = engine.generate(_request(prompt, 300))
        await anext(running)
        events = await generate(engine, [*prompt, 1, 2, 3], 20)
        assert events[0].cached_tokens == 100
        assert ids(events) == backend.text([*prompt, 1, 2, 3], 20)
        assert ids(await _read(running)) == backend.text(prompt, 300)[1:]


async def test_what_two_prompts_have_in_common_is_reused_by_the_third() -> None:
    common = tokens(200)
    prompts = [[*common, index, *tokens(100, seed=index)] for index in (1, 2, 3)]
    async with serving() as (engine, backend):
        answers = [await generate(engine, prompt, 5) for prompt in prompts]
        assert [events[0].cached_tokens for events in answers] == [0, 0, 200]
        assert [ids(events) for events in answers] == [backend.text(prompt, 5) for prompt in prompts]


async def test_a_long_text_can_be_continued_from_its_middle() -> None:
    first, second = tokens(2300), [*tokens(2300)[:2200], *tokens(50, seed=1)]
    async with serving(context_length=2560) as (engine, backend):
        await generate(engine, first, 2)
        events = await generate(engine, second, 5)
        assert events[0].cached_tokens == 2048
        assert ids(events) == backend.text(second, 5)
        said = await generate(engine, tokens(1000, seed=2), 100)
        departed = [*tokens(1000, seed=2), *ids(said)[:40], *tokens(30, seed=3)]
        events = await generate(engine, departed, 5)
        assert events[0].cached_tokens == 1024
        assert ids(events) == backend.text(departed, 5)


@pytest.mark.parametrize(("num_changed", "num_cached"), [(1, 139), (40, 100), (41, 0)])
async def test_a_ring_goes_back_as_far_as_it_reaches(num_changed: int, num_cached: int) -> None:
    prompt = tokens(140)
    changed = [*prompt[:-num_changed], *((token + 1) % 97 for token in prompt[-num_changed:])]
    async with serving() as (engine, backend):
        await generate(engine, prompt, 1)
        events = await generate(engine, changed, 20)
        assert events[0].cached_tokens == num_cached
        assert ids(events) == backend.text(changed, 20)


async def test_two_salts_never_share() -> None:
    prompt = tokens(150)
    async with serving() as (engine, _):
        cached = [
            (await generate(engine, prompt, 3, cache_salt=salt))[0].cached_tokens for salt in ("a", "b", "", "a", "b")
        ]
        assert cached == [0, 0, 0, 149, 149]


async def test_old_prefixes_leave_when_memory_is_short_and_used_ones_stay() -> None:
    prompts = [tokens(128, seed=index) for index in range(5)]
    async with serving(max_running=1, pages=9) as (engine, _):
        for prompt in prompts[:3]:
            await generate(engine, prompt, 2)
        await generate(engine, prompts[0], 2)
        await generate(engine, prompts[3], 2)
        cached = {index: (await generate(engine, prompts[index], 1))[0].cached_tokens for index in (0, 3)}
        assert cached == {0: 127, 3: 127}
        assert (await generate(engine, prompts[1], 1))[0].cached_tokens == 0


async def test_a_session_goes_on_from_its_own_cache_and_says_where_it_does_not() -> None:
    async with serving() as (engine, backend):
        history = tokens(70)
        for turn in range(3):
            events = await generate(engine, history, 12, session_id="x")
            assert events[-1].segment == 0
            assert events[0].cached_tokens == (0 if turn == 0 else len(history) - 5)
            assert ids(events) == backend.text(history, 12)
            history += [*ids(events), *tokens(4, seed=turn)]
        departed = [*history[:90], *tokens(30, seed=9)]
        events = await generate(engine, departed, 12, session_id="x")
        assert (events[-1].segment, ids(events)) == (1, backend.text(departed, 12))
        events = await generate(engine, [*departed, *ids(events), 1], 12, session_id="x")
        assert events[-1].segment == 1
        assert (await generate(engine, history, 1, session_id="x", cache_salt="other"))[-1].segment == 0
        assert (await generate(engine, history, 1))[-1].segment is None


async def test_a_session_keeps_its_experts_though_its_cache_was_given_up() -> None:
    async with serving() as (engine, backend):
        history = tokens(70)
        history += ids(await generate(engine, history, 12, session_id="x"))
        before = backend.routes(history[:-1])
        backend.drift = 2
        await engine.flush_cache()
        events = await generate(engine, [*history, 5], 12, session_id="x")
        assert (events[0].cached_tokens, events[-1].segment) == (0, 0)
        assert events[-1].experts is not None
        assert torch.equal(events[-1].experts[:81], before)
        assert torch.equal(events[-1].experts[81:], backend.routes([*history, 5, *ids(events)])[81:-1])


async def test_a_session_whose_client_left_before_the_last_tokens_begins_a_new_segment() -> None:
    async with serving() as (engine, backend):
        prompt = tokens(70)
        stream = engine.generate(_request(prompt, 400, session_id="x"))
        seen = [await anext(stream) for _ in range(3)]
        while cache_stats(engine).used_pages < 3:  # noqa: ASYNC110 (tokens nobody read need another page)
            await asyncio.sleep(0.001)
        await stream.aclose()
        history = [*prompt, *ids(seen)]
        events = await generate(engine, history, 5, session_id="x")
        assert (events[-1].segment, ids(events)) == (1, backend.text(history, 5))


async def test_a_dropped_session_begins_anew_and_the_longest_unused_are_dropped() -> None:
    async with serving() as (engine, _):
        for name in "abcde":
            await generate(engine, tokens(20), 1, session_id=name)
            await generate(engine, tokens(10, seed=1), 1, session_id=name)
        assert cache_stats(engine).sessions == 4
        assert [await engine.drop_session("", name) for name in "aeb"] == [False, True, True]
        assert cache_stats(engine).sessions == 2
        segments = [(await generate(engine, tokens(20), 1, session_id=name))[-1].segment for name in "edc"]
        assert segments == [0, 2, 2]


async def test_a_session_that_is_dropped_while_it_is_in_use_ends_with_its_answer() -> None:
    async with serving() as (engine, backend):
        prompt = tokens(70)
        running = engine.generate(_request(prompt, 40, session_id="x"))
        seen = [await anext(running)]
        assert await engine.drop_session("", "x")
        await _read(running, seen)
        assert (ids(seen), seen[-1].segment) == (backend.text(prompt, 40), 0)
        assert cache_stats(engine).sessions == 0
        assert not await engine.drop_session("", "x")


async def test_sessions_that_nobody_uses_are_forgotten() -> None:
    async with serving(session_idle_s=0.0) as (engine, _):
        await generate(engine, tokens(20), 1, session_id="x")
        await generate(engine, tokens(20, seed=1), 2)
        assert cache_stats(engine).sessions == 0


async def test_given_experts_are_used_and_neither_taken_from_the_cache_nor_left_there() -> None:
    prompt = tokens(100)
    async with serving() as (engine, backend):
        await generate(engine, prompt, 5)
        backend.drift = 3
        forced = backend.routes(prompt)[:90]
        backend.drift = 0
        events = await generate(engine, prompt, 5, forced_experts=forced)
        assert events[0].cached_tokens == 0
        assert events[-1].experts is not None
        assert torch.equal(events[-1].experts[:90], forced)
        assert torch.equal(events[-1].experts[90:], backend.routes([*prompt, *ids(events)])[90:-1])
        again = await generate(engine, [*prompt, *ids(events), 1], 1)
        assert again[0].cached_tokens == 104
        assert again[-1].experts is not None
        assert torch.equal(again[-1].experts[:100], backend.routes(prompt))


@pytest.mark.parametrize(
    "experts",
    [
        torch.zeros(3, 1, 2, dtype=torch.int64),
        torch.zeros(3, 2, 2, dtype=torch.uint8),
        torch.full((3, 1, 2), 8, dtype=torch.uint8),
        torch.zeros(3, 1, 2, dtype=torch.uint8),
    ],
)
async def test_experts_that_cannot_be_are_refused(experts: torch.Tensor) -> None:
    async with serving() as (engine, _):
        with pytest.raises(EngineError, match="forced experts"):
            await generate(engine, tokens(10), 1, forced_experts=experts)


async def test_what_can_never_fit_the_memory_is_refused_with_the_numbers() -> None:
    async with serving(pages=5) as (engine, backend):
        assert engine.stats().context_length == 320
        with pytest.raises(CacheTooSmall, match=r"300 tokens and 21 .* 320 "):
            await generate(engine, tokens(300), 21)
        prompt = tokens(270)
        assert ids(await generate(engine, prompt, 50)) == backend.text(prompt, 50)


async def test_a_step_that_fails_ends_only_the_sequence_to_blame() -> None:
    async with serving(max_running=4) as (engine, backend):
        good = [engine.generate(_request(tokens(20, seed=seed), 100)) for seed in (1, 2)]
        for stream in good:
            await anext(stream)
        backend.poison = 96
        with pytest.raises(EngineError, match="poisoned"):
            await generate(engine, [*tokens(20, seed=3), 96], 5)
        backend.poison = None
        for seed, stream in zip((1, 2), good, strict=True):
            assert ids(await _read(stream)) == backend.text(tokens(20, seed=seed), 100)[1:]


async def test_a_thousand_clients_that_disconnect_leave_nothing() -> None:
    async def start_and_leave(engine: EmbeddedEngine, index: int) -> None:
        stream = engine.generate(_request(tokens(1 + index % 90, seed=index % 7), 300))
        for _ in range(index % 3):
            await anext(stream)
        await stream.aclose()

    async with serving(max_running=8, max_waiting=1000) as (engine, _):
        await asyncio.gather(*(start_and_leave(engine, index) for index in range(1000)))
        assert ids(await generate(engine, tokens(5), 3)) == AddingBackend(CONFIG).text(tokens(5), 3)


def _request(prompt: Sequence[int], max_tokens: int, **fields: Any) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    return GenerateRequest("test", tuple(prompt), sampling, experts_from=0, **fields)


async def _read(stream: Any, events: list[TokenEvent] | None = None) -> list[TokenEvent]:
    events = [] if events is None else events
    async for event in stream:
        events.append(event)
    return events
