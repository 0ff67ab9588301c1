"""A whole step in ops: with the plain forms it is the model on quantised activations, and Triton's kernels give the
same. Without a GPU they run under Triton's interpreter."""

import asyncio
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_server.engine.engine import EmbeddedEngine
from model_server.engine.ops_backend import OpsBackend
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.ops import REF, Ops, choose
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import GenerateRequest, SamplingParams
from model_server.weights.load import load_model
from model_server.weights.save import save_checkpoint
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import random_ids, random_model, small_config

_CONFIG = small_config(num_hidden_layers=3, hybrid_layer_pattern=(0, 1, 0), moe_layer_freq=(0, 1, 1))
_IDS = random_ids(_CONFIG, 40, batch=2).tolist()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MiMoV2Flash:
    folder: Path = tmp_path_factory.mktemp("fp8")
    save_checkpoint(random_model(_CONFIG), folder)
    return load_model(folder, torch.float32, keep_fp8=True)


@pytest.fixture(params=["ref", "triton"])
def ops(request: pytest.FixtureRequest) -> Ops:
    if request.param == "ref":
        return REF
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("the pools of this test are in the processor's memory, where a GPU's kernels cannot read")
    return choose(torch.device("cpu"), "triton")


def test_steps_give_the_models_logits_within_what_quantised_activations_cost(model: MiMoV2Flash, ops: Ops) -> None:
    exact, experts = _answers(PooledSequences(_CONFIG, TorchBackend(model, 64), 2, 64))
    found, _ = _answers(PooledSequences(_CONFIG, OpsBackend(model, 64, ops), 2, 64), experts)
    assert (found - exact).norm() < 0.08 * exact.norm()


def test_kernels_and_plain_forms_give_the_same_steps(model: MiMoV2Flash, ops: Ops) -> None:
    plain, experts = _answers(PooledSequences(_CONFIG, OpsBackend(model, 64, REF), 2, 64))
    found, used = _answers(PooledSequences(_CONFIG, OpsBackend(model, 64, ops), 2, 64), experts)
    assert torch.equal(used, experts)
    # Here and there a value between two of e4m3 goes to the other one.
    assert (found - plain).norm() < 0.01 * plain.norm()


@pytest.mark.anyio
async def test_the_engine_serves_on_it(model: MiMoV2Flash) -> None:
    engine = EmbeddedEngine(model, context_length=64, backend=OpsBackend(model, 64, REF))
    try:
        first, again = [await asyncio.gather(*[_written(engine, ids) for ids in _IDS]) for _ in range(2)]
    finally:
        await engine.close()
    assert first == again
    assert all(len(written) == 6 for written in first)


def test_weights_that_are_not_fp8_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a checkpoint in FP8"):
        OpsBackend(random_model(_CONFIG), 64, REF)


def _answers(sequences: PooledSequences, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits and experts of a prompt in two parts beside another one, and of two steps of both."""
    outputs, done = [], 0
    for step in ([(0, 0, 30)], [(0, 30, 35), (1, 0, 9)], [(0, 35, 36), (1, 9, 10)], [(1, 10, 12), (0, 36, 37)]):
        segments = []
        for sequence, first, end in step:
            experts = None if forced is None else forced[done : done + end - first].contiguous()
            segments.append(sequences.segment(sequence, _IDS[sequence][first:end], 1, experts))
            done += end - first
        outputs.append(sequences.step(segments))
    return torch.cat([output.logits for output in outputs]), torch.cat([output.experts for output in outputs])


async def _written(engine: EmbeddedEngine, prompt: list[int]) -> list[int]:
    request = GenerateRequest("r", tuple(prompt), SamplingParams(temperature=0, max_tokens=6))
    return [event.token_id async for event in engine.generate(request)]
