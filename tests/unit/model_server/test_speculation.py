"""Drafting changes how fast tokens come, never which."""

from collections.abc import AsyncIterator, Sequence

import pytest
import torch

from model_server.engine.draft_length import DraftLength
from model_server.engine.engine import EmbeddedEngine
from model_server.types import GenerateRequest, SamplingParams, TokenDeadline, TokenEvent
from tests.numerics.small_models import random_ids, random_model, small_config

pytestmark = pytest.mark.anyio

CONFIG = small_config(vocab_size=5)
"""So few tokens that random layers guess some of them."""


@pytest.fixture
async def engines() -> AsyncIterator[tuple[EmbeddedEngine, EmbeddedEngine]]:
    model = random_model(CONFIG, num_mtp_layers=3)
    pair = EmbeddedEngine(model, context_length=256), EmbeddedEngine(model, context_length=256, speculate=False)
    yield pair
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
    drafting, plain = (engine.stats() for engine in engines)
    assert drafting.drafted > drafting.accepted
    assert plain.drafted == 0


async def test_drafts_that_hold_are_all_accepted() -> None:
    model = random_model(CONFIG, num_mtp_layers=3)
    model.lm_head.weight.zero_()  # whoever is asked, token 0 is first among equals
    engine = EmbeddedEngine(model, context_length=256)
    events = await generated(engine, GenerateRequest("x", (1, 2, 3), SamplingParams(temperature=0.0, max_tokens=100)))
    stats = engine.stats()
    await engine.close()
    assert [event.token_id for event in events] == [0] * 100
    assert stats.drafted == stats.accepted > 0


async def test_experts_of_every_token_are_those_of_a_plain_forward_whatever_was_cached_or_guessed() -> None:
    model = random_model(CONFIG, num_mtp_layers=3)
    engine = EmbeddedEngine(model, context_length=256)
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


def test_drafts_are_as_long_as_pays() -> None:
    assert settled([0.001, 0.0012, 0.0014, 0.0016], accepted=[3, 3, 2]) == 3
    assert settled([0.001, 0.0012, 0.003, 0.005], accepted=[3, 3, 2]) == 1
    assert settled([0.001, 0.0012, 0.0014, 0.0016], accepted=[0, 0, 0]) == 0


def test_each_batch_size_is_judged_by_itself() -> None:
    lengths = DraftLength(1)
    for _ in range(200):
        for size, costs in ((1, (0.001, 0.0011)), (16, (0.001, 0.004))):
            length = lengths.choose(size)
            lengths.observe(size, length, costs[length], [length] * size)
    assert lengths.choose(1) == 1
    assert lengths.choose(16) == 0


def test_without_prediction_layers_nothing_is_drafted() -> None:
    assert DraftLength(0).choose(1) == 0


def settled(costs: Sequence[float], accepted: Sequence[int]) -> int:
    """The usual length after many steps that cost so much, s, by length, and accepted so many drafts, in turn."""
    lengths = DraftLength(3)
    chosen = []
    for step in range(400):
        length = lengths.choose(1)
        chosen.append(length)
        lengths.observe(1, length, costs[length], [min(accepted[step % len(accepted)], length)])
    return max(set(chosen[200:]), key=chosen[200:].count)


async def generated(engine: EmbeddedEngine, request: GenerateRequest) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]
