"""With and without any cache: the same tokens, experts and log-probs; of the compiled step to the last bit."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import torch

from model_server.engine.backend import StepBackend
from model_server.engine.cache_plan import CachePlan
from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.engine import EmbeddedEngine
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.cpu.build import NoLibrary
from model_server.kernels.cpu.library import best_library
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import GenerateRequest, SamplingParams, TokenEvent
from tests.numerics.small_models import random_config, random_ids, random_model, small_config

pytestmark = pytest.mark.anyio

_CONTEXT = 512
_COLD = CachePlan(num_pages=64, num_snapshots=0, num_sessions=0)
_KEEPING = CachePlan(num_pages=64, num_snapshots=16, num_sessions=8)
_SHORT = CachePlan(num_pages=11, num_snapshots=4, num_sessions=2)
_CONFIG = small_config(
    num_hidden_layers=4, hybrid_layer_pattern=(0, 1, 1, 0), moe_layer_freq=(0, 1, 1, 1), sliding_window=20
)


@pytest.fixture(params=["ref", "cpu"])
def kernels(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        try:
            best_library()
        except NoLibrary as reason:
            pytest.skip(f"the compiled step is not available: {reason}")
    return str(request.param)


def _backend(model: MiMoV2Flash, kernels: str) -> StepBackend:
    return TorchBackend(model, _CONTEXT) if kernels == "ref" else CpuBackend(model, _CONTEXT, best_library())


@asynccontextmanager
async def _engine(
    model: MiMoV2Flash, kernels: str, plan: CachePlan, max_running: int = 4
) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(model, max_running, context_length=_CONTEXT, plan=plan, backend=_backend(model, kernels))
    yield engine
    await engine.close()


async def _answer(
    engine: EmbeddedEngine, prompt: Sequence[int], count: int, seed: int | None = None, session: str | None = None
) -> list[TokenEvent]:
    sampling = SamplingParams(temperature=0.0 if seed is None else 0.8, seed=seed, max_tokens=count, num_logprobs=2)
    request = GenerateRequest("test", tuple(prompt), sampling, experts_from=0, session_id=session)
    return [event async for event in engine.generate(request)]


def _assert_same(ours: list[TokenEvent], plain: list[TokenEvent], kernels: str) -> None:
    assert [event.token_id for event in ours] == [event.token_id for event in plain]
    pairs = [(one.logprobs, other.logprobs) for one, other in zip(ours, plain, strict=True)]
    if kernels == "cpu":
        assert all(one == other for one, other in pairs)
    else:
        assert all(one and other and abs(one.sampled - other.sampled) < 1e-5 for one, other in pairs)
    assert ours[-1].experts is not None
    assert plain[-1].experts is not None
    assert torch.equal(ours[-1].experts.sort(-1).values, plain[-1].experts.sort(-1).values)


@pytest.mark.parametrize("session", [None, "x"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_conversation_that_is_continued(kernels: str, seed: int, session: str | None) -> None:
    config = _CONFIG if seed == 0 else random_config(seed)
    model = random_model(config, seed, num_mtp_layers=seed)
    draw = random.Random(seed)
    async with _engine(model, kernels, _KEEPING) as keeping, _engine(model, kernels, _COLD) as cold:
        history: list[int] = random_ids(config, 100, seed)[0].tolist()
        for turn in range(4):
            count = draw.randint(1, 40)
            ours = await _answer(keeping, history, count, turn * seed or None, session)
            assert (ours[0].cached_tokens > 0) == (turn > 0)
            _assert_same(ours, await _answer(cold, history, count, turn * seed or None), kernels)
            history += [event.token_id for event in ours] + [draw.randrange(config.vocab_size) for _ in range(12)]


async def test_prompts_that_share_and_depart(kernels: str) -> None:
    model, draw = random_model(_CONFIG), random.Random(0)
    base: list[int] = random_ids(_CONFIG, 300)[0].tolist()
    async with _engine(model, kernels, _KEEPING) as keeping, _engine(model, kernels, _COLD) as cold:
        num_cached = 0
        for index in range(8):
            prompt = [*base[: draw.choice((299, 290, 270, 150, 150))], index, *base[: draw.randint(0, 60)]]
            ours = await _answer(keeping, prompt, 8)
            num_cached += ours[0].cached_tokens
            _assert_same(ours, await _answer(cold, prompt, 8), kernels)
        assert num_cached > 500


async def test_sequences_that_had_to_stop_for_others(kernels: str) -> None:
    model = random_model(_CONFIG)
    prompts = [random_ids(_CONFIG, 90, seed)[0].tolist() for seed in range(4)]
    async with _engine(model, kernels, _SHORT) as short, _engine(model, kernels, _COLD, max_running=1) as alone:
        together = await asyncio.gather(*(_answer(short, prompt, 150, seed=3) for prompt in prompts))
        cache = short.stats().cache
        assert cache is not None
        assert cache.preemptions > 0
        for prompt, ours in zip(prompts, together, strict=True):
            _assert_same(ours, await _answer(alone, prompt, 150, seed=3), kernels)
