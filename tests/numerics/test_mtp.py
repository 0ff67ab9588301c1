"""The prediction layers read the embedding first, keep to the window and end in a norm."""

import torch
from torch import Tensor

from model_server.layers.attention import attention_mask
from model_server.layers.rope import rotary_table
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.models.mtp import PredictionLayer
from tests.numerics.small_models import random_model, small_config


def test_the_embedding_is_the_first_half_of_the_projection() -> None:
    model, layer = _layer()
    size = model.config.hidden_size
    embeddings, hidden = _rows(model, 1), _rows(model, 2)
    layer.eh_proj.weight[:, :size] = 0
    assert torch.equal(_run(model, layer, embeddings, hidden), _run(model, layer, _rows(model, 3), hidden))
    assert not torch.equal(_run(model, layer, embeddings, hidden), _run(model, layer, embeddings, _rows(model, 3)))


def test_a_prediction_layer_attends_to_its_window_only() -> None:
    model, layer = _layer()
    embeddings, hidden = _rows(model, 1), _rows(model, 2)
    before = _run(model, layer, embeddings, hidden)
    embeddings[:, 0] += 1
    after = _run(model, layer, embeddings, hidden)
    changed = (before != after).any(-1)[0].tolist()
    assert changed == [True] * model.config.window_keys + [False] * (20 - model.config.window_keys)


def test_the_output_is_normed_for_the_main_head() -> None:
    model, layer = _layer()
    layer.final_layernorm.weight.fill_(1)
    output = _run(model, layer, _rows(model, 1), _rows(model, 2))
    torch.testing.assert_close(output.square().mean(-1), torch.ones(1, 20), atol=1e-3, rtol=0)


def _layer() -> tuple[MiMoV2Flash, PredictionLayer]:
    model = random_model(small_config(), num_mtp_layers=1)
    layer = model.model.mtp.layers[0]
    assert isinstance(layer, PredictionLayer)
    return model, layer


def _rows(model: MiMoV2Flash, seed: int) -> Tensor:
    return torch.randn(1, 20, model.config.hidden_size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _run(model: MiMoV2Flash, layer: PredictionLayer, embeddings: Tensor, hidden: Tensor) -> Tensor:
    heads, positions = model.config.heads(window=True), torch.arange(20)[None]
    mask = attention_mask(positions, positions, model.config.window_keys, torch.float32)
    result: Tensor = layer(embeddings, hidden, rotary_table(positions, heads.rotary_dim, heads.theta), mask)
    return result
