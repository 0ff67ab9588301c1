"""Drafts are what a plain forward of the prediction layers gives, whatever was known, guessed and taken back before."""

import random

import pytest
import torch
from torch import Tensor

from model_server.engine.drafter import Drafter
from model_server.engine.torch_backend import TorchBackend
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.models.mtp import PredictionLayer
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import random_ids, random_model, small_config


@pytest.fixture(scope="module")
def model() -> MiMoV2Flash:
    return random_model(small_config(sliding_window=8), num_mtp_layers=3)


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
def test_drafts_equal_a_plain_forward_after_any_history(model: MiMoV2Flash, seed: int) -> None:
    draw = random.Random(seed)
    sequences = PooledSequences(model.config, TorchBackend(model, 512))
    drafter = Drafter(model, 512)
    ids = random_ids(model.config, 150, seed)[0].tolist()
    state = drafter.new_state(0)
    while (start := sequences.lengths[0]) < len(ids) - 30:
        end = start + draw.choice((1, 1, 2, 3, 4, 20))
        state.absorb(sequences.step([sequences.segment(0, ids[start:end])]).hidden)
        length = draw.randint(0, 3)  # not every step drafts, and not always as far
        assert drafter.draft([(ids[: end + 1], state)], length) == [plain_drafts(model, ids[: end + 1], length)]


def test_sequences_draft_together_as_alone(model: MiMoV2Flash) -> None:
    prompts = [random_ids(model.config, length, seed=length)[0].tolist() for length in (2, 9, 10, 60)]
    sequences = PooledSequences(model.config, TorchBackend(model, 512), len(prompts))
    drafter = Drafter(model, 512)
    known = []
    for index, prompt in enumerate(prompts):
        state = drafter.new_state(0)
        state.absorb(sequences.step([sequences.segment(index, prompt[:-1])]).hidden)
        known.append((prompt, state))
    assert drafter.draft(known, 3) == [plain_drafts(model, prompt, 3) for prompt in prompts]


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
