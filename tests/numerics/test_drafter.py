"""Drafts are what a plain forward of the prediction layers gives, whatever was known, guessed and taken back before."""

import random

import pytest
import torch
from torch import Tensor

from model_server.engine.backend import StepBackend
from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.cpu_drafter import CpuDrafter
from model_server.engine.drafter import Drafter
from model_server.engine.drafting import Known, TokenDrafter
from model_server.engine.hidden_tail import HiddenTail
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
    state, hidden = drafter.new_state(), HiddenTail(drafter.num_hidden)
    while (start := sequences.lengths[0]) < len(ids) - 30:
        end = start + draw.choice((1, 1, 2, 3, 4, 20))
        _add(hidden, sequences.step([sequences.segment(0, ids[start:end])]).hidden)
        length = draw.randint(0, 3)  # not every step drafts, and not always as far
        assert drafter.draft([Known(ids[: end + 1], hidden, state)], length) == [
            plain_drafts(model, ids[: end + 1], length)
        ]


def test_sequences_draft_together_as_alone(model: MiMoV2Flash, pair: tuple[StepBackend, TokenDrafter]) -> None:
    prompts = [random_ids(model.config, length, seed=length)[0].tolist() for length in (2, 9, 10, 60)]
    backend, drafter = pair
    sequences = PooledSequences(model.config, backend, len(prompts))
    known = []
    for index, prompt in enumerate(prompts):
        hidden = HiddenTail(drafter.num_hidden)
        _add(hidden, sequences.step([sequences.segment(index, prompt[:-1])]).hidden)
        known.append(Known(prompt, hidden, drafter.new_state()))
    assert drafter.draft(known, 3) == [plain_drafts(model, prompt, 3) for prompt in prompts]


def test_a_window_that_begins_late_sees_nothing_before(
    model: MiMoV2Flash, pair: tuple[StepBackend, TokenDrafter]
) -> None:
    """Where hidden states begin in the middle; a ring may hold what another sequence left there."""
    backend, drafter = pair
    ids = random_ids(model.config, 40)[0].tolist()
    sequences = PooledSequences(model.config, backend)
    rows = sequences.step([sequences.segment(0, ids[:-1])]).hidden
    hidden = HiddenTail(drafter.num_hidden)
    _add(hidden, rows)
    late = HiddenTail(drafter.num_hidden, 36)
    _add(late, rows[36:])
    used = drafter.new_state()
    drafter.draft([Known(ids, hidden, used)], 3)
    del used
    found = [drafter.draft([Known(ids, late, drafter.new_state())], 3) for _ in range(2)]
    reference = Drafter(model, 512)
    assert found == [reference.draft([Known(ids, late, reference.new_state())], 3)] * 2


def test_kept_hidden_states_are_all_that_a_sequence_needs_to_guess_on_as_before(
    model: MiMoV2Flash, pair: tuple[StepBackend, TokenDrafter]
) -> None:
    """Behind a cached prefix, and after a pause."""
    backend, drafter = pair
    ids = random_ids(model.config, 100)[0].tolist()
    sequences = PooledSequences(model.config, backend)
    hidden = HiddenTail(drafter.num_hidden)
    _add(hidden, sequences.step([sequences.segment(0, ids[:50])]).hidden)
    state = drafter.new_state()
    drafter.draft([Known(ids[:51], hidden, state)], 3)
    for end in (70, 99):
        _add(hidden, sequences.step([sequences.segment(0, ids[hidden.end : end])]).hidden)
        expected = [plain_drafts(model, ids[: end + 1], 3)]
        assert drafter.draft([Known(ids[: end + 1], hidden.until(end), drafter.new_state())], 3) == expected
    assert drafter.draft([Known(ids, hidden, state)], 3) == expected


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


def _add(tail: HiddenTail, hidden: torch.Tensor) -> None:
    tail.add(hidden, 0, len(hidden))
