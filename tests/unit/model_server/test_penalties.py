"""Penalties change the logits as their protocols say, whatever else the engine does meanwhile."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from model_server.engine.cache_plan import CachePlan
from model_server.engine.draft_policy import Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import GenerateRequest, SamplingParams
from tests.numerics.small_models import full_logits, random_ids, random_model, small_config

pytestmark = pytest.mark.anyio

CONFIG = small_config()
PENALTIES: list[dict[str, Any]] = [
    {"frequency_penalty": 0.7},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -0.5, "presence_penalty": 2.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"frequency_penalty": 0.4, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def model() -> MiMoV2Flash:
    return random_model(CONFIG, num_mtp_layers=3)


@pytest.mark.parametrize("penalties", PENALTIES)
async def test_greedy_text_is_that_of_a_plain_forward_with_penalised_logits(
    model: MiMoV2Flash, penalties: dict[str, Any]
) -> None:
    prompt = random_ids(CONFIG, 20)[0].tolist()
    engine = EmbeddedEngine(model, context_length=256, speculation=Speculation(always=True))
    try:
        said = await ask(engine, prompt, **penalties)
        free = await ask(engine, prompt)
    finally:
        await engine.close()
    assert said == expected(model, prompt, **penalties)
    assert said != free == expected(model, prompt)


async def test_sequences_that_are_made_to_stop_and_prefixes_that_are_reused_count_the_same(model: MiMoV2Flash) -> None:
    prompts = [random_ids(CONFIG, 70, seed)[0].tolist() for seed in (1, 1, 2)]
    plan = CachePlan(num_pages=5, num_snapshots=4, num_sessions=0)
    engine = EmbeddedEngine(model, max_running=3, context_length=256, plan=plan)
    try:
        told = await asyncio.gather(*(ask(engine, prompt, count=180, **PENALTIES[-1]) for prompt in prompts))
        cache = engine.stats().cache
    finally:
        await engine.close()
    assert cache is not None
    assert cache.preemptions
    assert cache.hit_tokens
    assert told == [expected(model, prompt, count=180, **PENALTIES[-1]) for prompt in prompts]


async def test_logprobs_are_the_models_own(model: MiMoV2Flash) -> None:
    prompt = random_ids(CONFIG, 20)[0].tolist()
    engine = EmbeddedEngine(model, context_length=256)
    sampling = SamplingParams(temperature=0.0, max_tokens=30, num_logprobs=0, frequency_penalty=2.0)
    try:
        events = [event async for event in engine.generate(GenerateRequest("x", tuple(prompt), sampling))]
    finally:
        await engine.close()
    ids = [*prompt, *(event.token_id for event in events)]
    scores = full_logits(model, torch.tensor([ids]))[0, 19:-1].log_softmax(-1)
    for event, row in zip(events, scores, strict=True):
        assert event.logprobs is not None
        assert event.logprobs.sampled == pytest.approx(float(row[event.token_id]), abs=1e-4)


async def ask(engine: EmbeddedEngine, prompt: Sequence[int], count: int = 100, **penalties: float) -> list[int]:
    sampling = SamplingParams(temperature=0.0, max_tokens=count, **penalties)  # type: ignore[arg-type]
    return [event.token_id async for event in engine.generate(GenerateRequest("x", tuple(prompt), sampling))]


def expected(
    model: MiMoV2Flash,
    prompt: Sequence[int],
    count: int = 100,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
) -> list[int]:
    """OpenAI's formula, then transformers' own repetition penalty."""
    repetition = RepetitionPenaltyLogitsProcessor(repetition_penalty)
    ids, said = list(prompt), list[int]()
    for _ in range(count):
        logits = full_logits(model, torch.tensor([ids]))[0, -1].clone()
        for token in set(said):
            logits[token] -= said.count(token) * frequency_penalty + presence_penalty
        said.append(int(repetition(torch.tensor([ids]), logits[None])[0].argmax()))
        ids.append(said[-1])
    return said
