"""Drafts are what a plain forward of the prediction layers gives, whatever was known, guessed and taken back before."""

import random

import pytest
import torch
from torch import Tensor

from model_server.engine.backend import StepBackend
from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.cpu_drafter import CpuDrafter
from model_server.engine.drafter import Drafter
from model_server.engine.drafting import TokenDrafter
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.cpu.build import NoLibrary
from model_server.kernels.cpu.library import best_library
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.models.mtp import PredictionLayer
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import random_ids, random_model, small_config


@pytest.fixture(scope="module")
def model() -> MiMoV2Flash:
    return random_model(small_config(sliding_window=8), num_mtp_layers=3)


@pytest.fixture(params=["ref", "cpu"])
def pair(model: MiMoV2Flash, request: pytest.FixtureRequest) -> tuple[StepBackend, TokenDrafter]:
    """Backend and drafter that go together."""
    if request.param == "ref":
        return TorchBackend(model, 512), Drafter(model, 512)
    try:
        backend = CpuBackend(model, 512, best_library())
    except NoLibrary as reason:
        pytest.skip(f"the C++ step is not available: {reason}")
    return backend, CpuDrafter(backend)


@torch.inference_mode()
def plain_drafts(model: MiMoV2Flash, ids: list[int], count: int) -> list[int]:
    """One full forward over ``ids``, then each prediction layer over all positions that have a hidden state."""
    positions = torch.arange(len(ids) - 1)[None]
    hidden = model(torch.tensor([ids[:-1]]), positions).hidden
    table, mask = model.view(True, positions, None, hidden.dtype)
    known = list(ids)
    for index in range(count):
        layer = model.model.mtp.layers[index]
        assert isinstance(layer, PredictionLayer)
        ahead = torch.tensor([known[index + 1 : index + len(ids)]])
        out: Tensor = layer(model.model.embed_tokens(ahead), hidden, table, mask)
        known.append(int(model.lm_head(out[0, -1]).argmax()))
    return known[len(ids) :]


@pytest.mark.parametrize("seed", range(4))
def test_drafts_equal_a_plain_forward_after_any_history(
    model: MiMoV2Flash, pair: tuple[StepBackend, TokenDrafter], seed: int
) -> None:
    draw = random.Random(seed)
    backend, drafter = pair
    sequences = PooledSequences(model.config, backend)
    ids = random_ids(model.config, 150, seed)[0].tolist()
    state = drafter.new_state(0)
    while (start := sequences.lengths[0]) < len(ids) - 30:
        end = start + draw.choice((1, 1, 2, 3, 4, 20))
        state.absorb(sequences.step([sequences.segment(0, ids[start:end])]).hidden)
        length = draw.randint(0, 3)  # not every step drafts, and not always as far
        assert drafter.draft([(ids[: end + 1], state)], length) == [plain_drafts(model, ids[: end + 1], length)]


def test_sequences_draft_together_as_alone(model: MiMoV2Flash, pair: tuple[StepBackend, TokenDrafter]) -> None:
    prompts = [random_ids(model.config, length, seed=length)[0].tolist() for length in (2, 9, 10, 60)]
    backend, drafter = pair
    sequences = PooledSequences(model.config, backend, len(prompts))
    known = []
    for index, prompt in enumerate(prompts):
        state = drafter.new_state(0)
        state.absorb(sequences.step([sequences.segment(index, prompt[:-1])]).hidden)
        known.append((prompt, state))
    assert drafter.draft(known, 3) == [plain_drafts(model, prompt, 3) for prompt in prompts]


def test_a_window_that_begins_late_sees_nothing_before(
    model: MiMoV2Flash, pair: tuple[StepBackend, TokenDrafter]
) -> None:
    """After a prefix hit hidden states begin in the middle, and a ring may hold what another sequence left there."""
    backend, drafter = pair
    ids = random_ids(model.config, 40)[0].tolist()
    sequences = PooledSequences(model.config, backend)
    hidden = sequences.step([sequences.segment(0, ids[:-1])]).hidden
    used = drafter.new_state(0)
    used.absorb(hidden)
    drafter.draft([(ids, used)], 3)
    del used
    expected = []
    for _ in range(2):
        state = drafter.new_state(36)
        state.absorb(hidden[36:])
        expected.append(drafter.draft([(ids, state)], 3))
    reference = Drafter(model, 512)
    state = reference.new_state(36)
    state.absorb(hidden[36:])
    assert expected == [reference.draft([(ids, state)], 3)] * 2


def test_each_layer_guesses_by_its_own_weights(model: MiMoV2Flash) -> None:
    prompts = [random_ids(model.config, 12, seed=seed)[0].tolist() for seed in range(20)]
    right = [plain_drafts(model, prompt, 3) for prompt in prompts]
    layers = model.model.mtp.layers
    shuffled = MiMoV2Flash(model.config, 3)
    shuffled.load_state_dict(model.state_dict())
    shuffled.model.mtp.layers = torch.nn.ModuleList([layers[1], layers[2], layers[0]])
    wrong = [plain_drafts(shuffled, prompt, 3) for prompt in prompts]
    for place in range(3):
        assert [drafts[place] for drafts in right] != [drafts[place] for drafts in wrong]
