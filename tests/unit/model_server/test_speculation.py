"""Drafting changes how fast tokens come, never which."""

from collections.abc import AsyncIterator

import pytest
import torch

from model_server.engine.draft_policy import NO_SPECULATION, Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.types import GenerateRequest, SamplingParams, TokenDeadline, TokenEvent
from tests.numerics.small_models import random_ids, random_model, small_config

pytestmark = pytest.mark.anyio

CONFIG = small_config(vocab_size=5)
"""So few tokens that random layers guess some of them."""


SPECULATIONS = [
    Speculation(lookup=0, always=True),
    Speculation(lookup=9, layers=0, always=True),
    Speculation(always=True),
    Speculation(),
]


@pytest.fixture(params=SPECULATIONS, ids=["layers", "lookup", "both", "where it pays"])
async def engines(request: pytest.FixtureRequest) -> AsyncIterator[tuple[EmbeddedEngine, EmbeddedEngine]]:
    model = random_model(CONFIG, num_mtp_layers=3)
    pair = [
        EmbeddedEngine(model, context_length=256, speculation=allowed) for allowed in (request.param, NO_SPECULATION)
    ]
    yield pair[0], pair[1]
    for engine in pair:
        await engine.close()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0, max_tokens=120),
        SamplingParams(temperature=0.9, seed=5, max_tokens=120),
        SamplingParams(temperature=1.3, top_p=0.8, seed=6, max_tokens=120, num_logprobs=1),
        SamplingParams(temperature=0.9, seed=7, max_tokens=120, stop_ids=frozenset({4})),
        SamplingParams(temperature=0.0, max_tokens=60, deadline=TokenDeadline(3, 20)),
        SamplingParams(temperature=0.0, max_tokens=236),
    ],
)
async def test_the_same_tokens_come_with_and_without_drafts(
    engines: tuple[EmbeddedEngine, EmbeddedEngine], sampling: SamplingParams
) -> None:
    for seed in range(3):
        request = GenerateRequest("x", tuple(random_ids(CONFIG, 20, seed)[0].tolist()), sampling)
        with_drafts, without = [await generated(engine, request) for engine in engines]
        assert [event.token_id for event in with_drafts] == [event.token_id for event in without]
        assert [event.finish_reason for event in with_drafts] == [event.finish_reason for event in without]
        assert [event.logprobs is None for event in with_drafts] == [event.logprobs is None for event in without]


@pytest.mark.parametrize("allowed", [each for each in SPECULATIONS if each.always])
async def test_some_guesses_hold_and_some_do_not(allowed: Speculation) -> None:
    engine = EmbeddedEngine(random_model(CONFIG, num_mtp_layers=3), context_length=256, speculation=allowed)
    sampling = SamplingParams(temperature=0.9, seed=5, max_tokens=236)
    await generated(engine, GenerateRequest("x", tuple(random_ids(CONFIG, 20)[0].tolist()), sampling))
    stats = engine.stats()
    await engine.close()
    assert stats.drafted > stats.accepted > 0


async def test_nothing_is_guessed_where_that_is_switched_off() -> None:
    model = random_model(CONFIG, num_mtp_layers=3)
    engine = EmbeddedEngine(model, context_length=256, speculation=NO_SPECULATION)
    await generated(engine, GenerateRequest("x", (1, 2, 3), SamplingParams(temperature=0.0, max_tokens=200)))
    stats = engine.stats()
    await engine.close()
    assert stats.drafted == 0


@pytest.mark.parametrize("allowed", [each for each in SPECULATIONS if each.always])
async def test_drafts_that_hold_are_all_accepted(allowed: Speculation) -> None:
    model = random_model(CONFIG, num_mtp_layers=3)
    model.lm_head.weight.zero_()  # whoever is asked, token 0 is first among equals
    engine = EmbeddedEngine(model, context_length=256, speculation=allowed)
    events = await generated(engine, GenerateRequest("x", (1, 2, 3), SamplingParams(temperature=0.0, max_tokens=100)))
    stats = engine.stats()
    await engine.close()
    assert [event.token_id for event in events] == [0] * 100
    assert stats.drafted == stats.accepted > 0


async def test_experts_of_every_token_are_those_of_a_plain_forward_whatever_was_cached_or_guessed() -> None:
    model = random_model(CONFIG, num_mtp_layers=3)
    engine = EmbeddedEngine(model, context_length=256, speculation=Speculation(always=True))
    ids = random_ids(CONFIG, 20)[0].tolist()
    for turn in range(3):
        sampling = SamplingParams(temperature=0.8, seed=turn, max_tokens=40)
        request = GenerateRequest("x", tuple(ids), sampling, experts_from=5 * turn)
        events = await generated(engine, request)
        ids += [event.token_id for event in events]
        expected = model(torch.tensor([ids[:-1]]), torch.arange(len(ids) - 1)[None]).experts
        assert expected is not None
        assert all(event.experts is None for event in events[:-1])
        assert events[-1].experts is not None
        assert events[-1].experts.dtype == torch.uint8
        found = events[-1].experts.long().sort(-1).values
        assert torch.equal(found, expected[0, 5 * turn :].sort(-1).values)
        ids += [1, 2, 3]
    await engine.close()


async def test_a_conversation_goes_on_from_a_cache_that_drafts_were_taken_back_from(
    engines: tuple[EmbeddedEngine, EmbeddedEngine],
) -> None:
    answers = []
    for engine in engines:
        ids = random_ids(CONFIG, 20)[0].tolist()
        for turn in range(4):
            sampling = SamplingParams(temperature=0.8, seed=turn, max_tokens=30)
            events = await generated(engine, GenerateRequest("x", tuple(ids), sampling))
            assert turn == 0 or events[0].cached_tokens > 0
            ids += [event.token_id for event in events] + [1, 2, 3]
        answers.append(ids)
    assert answers[0] == answers[1]


async def generated(engine: EmbeddedEngine, request: GenerateRequest) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]
