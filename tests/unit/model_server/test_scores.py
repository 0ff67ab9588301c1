"""What the model thinks of a prompt's own tokens, however the prompt is cut, cached or interrupted."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import torch

from model_server.engine.cache_plan import CachePlan
from model_server.engine.draft_policy import Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import GenerateRequest, SamplingParams, TokenEvent, UnsupportedRequest
from tests.numerics.small_models import full_logits, random_ids, random_model, small_config

pytestmark = pytest.mark.anyio

CONFIG = small_config()


@pytest.fixture(scope="module")
def model() -> MiMoV2Flash:
    return random_model(CONFIG, num_mtp_layers=2)


@pytest.fixture
async def engine(model: MiMoV2Flash) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(model, context_length=1536, speculation=Speculation(always=True))
    yield engine
    await engine.close()


async def score(engine: EmbeddedEngine, prompt: Sequence[int], start: int, count: int = 1, top: int = 0) -> TokenEvent:
    """The last event."""
    sampling = SamplingParams(temperature=0.0, max_tokens=count, num_logprobs=top)
    request = GenerateRequest("x", tuple(prompt), sampling, scored_from=start)
    return [event async for event in engine.generate(request)][-1]


def check(model: MiMoV2Flash, prompt: Sequence[int], start: int, event: TokenEvent) -> None:
    expected = full_logits(model, torch.tensor([prompt]))[0].log_softmax(-1)
    assert event.prompt_logprobs is not None
    assert len(event.prompt_logprobs) == max(len(prompt) - 1 - start, 0)
    for position, found in enumerate(event.prompt_logprobs, start=start + 1):
        assert found.sampled == pytest.approx(float(expected[position - 1, prompt[position]]), abs=1e-4)


@pytest.mark.parametrize(("length", "start"), [(1, 0), (2, 0), (2, 1), (40, 0), (40, 17), (40, 39), (1300, 0)])
async def test_scores_are_those_of_a_plain_forward(
    engine: EmbeddedEngine, model: MiMoV2Flash, length: int, start: int
) -> None:
    prompt = random_ids(CONFIG, length)[0].tolist()
    check(model, prompt, start, await score(engine, prompt, start))


async def test_a_cached_prefix_is_reused_up_to_the_first_score_and_nothing_else_changes(
    engine: EmbeddedEngine, model: MiMoV2Flash
) -> None:
    prompt = random_ids(CONFIG, 100)[0].tolist()
    await score(engine, prompt[:60], 0)
    await score(engine, prompt, 0, count=20)
    for start, reused in ((0, 0), (60, 60), (59, 59)):
        event = await score(engine, prompt, start, count=5)
        assert event.cached_tokens == reused
        check(model, prompt, start, event)


async def test_prompts_that_are_interrupted_are_scored_once(model: MiMoV2Flash) -> None:
    prompts = [random_ids(CONFIG, 70, seed)[0].tolist() for seed in range(3)]
    engine = EmbeddedEngine(model, max_running=3, context_length=256, plan=CachePlan(5, 4, 0))
    try:
        events = await asyncio.gather(*(score(engine, prompt, 10, count=180) for prompt in prompts))
        cache = engine.stats().cache
    finally:
        await engine.close()
    assert cache is not None
    assert cache.preemptions
    for prompt, event in zip(prompts, events, strict=True):
        check(model, prompt, 10, event)


async def test_the_likeliest_tokens_stand_beside_each(engine: EmbeddedEngine, model: MiMoV2Flash) -> None:
    prompt = random_ids(CONFIG, 30)[0].tolist()
    event = await score(engine, prompt, 0, top=2)
    assert event.prompt_logprobs is not None
    for found, row in zip(event.prompt_logprobs, full_logits(model, torch.tensor([prompt]))[0], strict=False):
        assert [token for token, _ in found.likeliest] == row.topk(2).indices.tolist()


async def test_a_session_cannot_be_scored(engine: EmbeddedEngine) -> None:
    request = GenerateRequest("x", (1, 2), SamplingParams(max_tokens=1), scored_from=0, session_id="chat")
    with pytest.raises(UnsupportedRequest, match="session"):
        await anext(engine.generate(request))
