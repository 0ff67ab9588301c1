"""Drawing follows the distribution that temperature, top_k and top_p leave, and nothing but seed and position."""

from collections import Counter
from typing import Any

import pytest
import torch

from model_server.engine.sampler import Drawing, draw, logprobs, uniform
from model_server.types import SamplingParams

_LOGITS = torch.tensor([0.0, 3.0, 1.0, 3.0, -2.0])


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    assert _draw(_LOGITS, SamplingParams(temperature=0)) == 1


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_p": 0.4}, {1}),
        ({"top_p": 0.5}, {1, 3}),
        ({"top_p": 0.93}, {1, 2, 3}),
        ({"top_k": 2, "top_p": 0.6}, {1, 3}),
        ({"top_k": 100}, {0, 1, 2, 3, 4}),
        ({"temperature": 1e-6}, {1, 3}),
        ({"min_p": 0.1}, {1, 2, 3}),
        ({"min_p": 0.5}, {1, 3}),
        ({"min_p": 0.01, "top_k": 2}, {1, 3}),
    ],
)
def test_draws_stay_in_the_set_and_follow_its_shares(settings: dict[str, float], possible: set[int]) -> None:
    sampling = SamplingParams(**settings)  # type: ignore[arg-type]
    places = [(3, position) for position in range(3000)]
    counts = Counter(draw(_LOGITS.expand(3000, -1), Drawing.of(sampling), places))
    assert set(counts) == possible
    kept = torch.full_like(_LOGITS, -torch.inf)
    kept[list(possible)] = _LOGITS[list(possible)] / sampling.temperature
    shares = kept.softmax(-1)
    for token in possible:
        assert abs(counts[token] / 3000 - float(shares[token])) < 0.04


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 0.6, "top_p": 0.95},
        {"top_k": 40, "min_p": 0.02},
        {"temperature": 3.0, "logit_bias": ((7, 2.5), (3, -1.0))},
    ],
)
def test_rows_that_are_drawn_together_are_drawn_as_if_alone(settings: dict[str, Any]) -> None:
    logits = 3 * torch.randn(50, 4096, generator=torch.Generator().manual_seed(0))  # more than are kept in a cache
    drawing = Drawing.of(SamplingParams(**settings))
    places = [(row % 3, row) for row in range(50)]
    together = draw(logits, drawing, places)
    assert together == [draw(logits[row : row + 1], drawing, [place])[0] for row, place in enumerate(places)]
    assert len(set(together)) > 25


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 4.0])
@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.90037},
        {"top_p": 0.99983},
        {"min_p": 0.001},
        {"top_k": 300},
        {"top_k": 200, "top_p": 0.97, "min_p": 0.01},
    ],
)
def test_flat_and_steep_rows_keep_what_sorting_all_of_them_keeps(settings: dict[str, Any], spread: float) -> None:
    logits = (spread * torch.randn(20, 2000, generator=torch.Generator().manual_seed(1))).round(decimals=1)
    sampling = SamplingParams(**settings)
    places = [(row, 5) for row in range(20)]
    drawn = draw(logits, Drawing.of(sampling), places)
    for row, place, token in zip(logits.double(), places, drawn, strict=True):
        ordered, ids = row.sort(descending=True, stable=True)
        shares = ordered[: sampling.top_k or None].softmax(-1)
        kept = int(min((shares.cumsum(-1) < sampling.top_p).sum() + 1, (shares >= sampling.min_p * shares[0]).sum()))
        reached = shares[:kept].cumsum(-1)
        assert token == ids[int((reached <= uniform(*place) * reached[-1]).sum())]


def test_biases_come_before_everything_else() -> None:
    for settings in ({"temperature": 0.0}, {"temperature": 1.0, "top_k": 1}):
        sampling = SamplingParams(**settings, logit_bias=((1, -100.0), (4, 7.0)))  # type: ignore[arg-type]
        assert _draw(_LOGITS, sampling) == 4
    assert _LOGITS.tolist() == [0.0, 3.0, 1.0, 3.0, -2.0]


def test_logprobs_are_those_of_the_model_with_the_likeliest_first() -> None:
    found = logprobs(_LOGITS, token=2, count=3)
    expected = _LOGITS.log_softmax(-1).tolist()
    assert found.sampled == expected[2]
    assert found.likeliest == ((1, expected[1]), (3, expected[3]), (2, expected[2]))


def test_a_draw_is_a_function_of_seed_and_position() -> None:
    numbers = {(seed, position): uniform(seed, position) for seed in range(20) for position in range(20)}
    assert len(set(numbers.values())) == 400
    assert all(0 <= number < 1 for number in numbers.values())
    assert uniform(3, 4) == numbers[3, 4]


def test_a_vocabulary_of_one_far_likelier_token_and_infinite_others_is_drawn_safely() -> None:
    logits = torch.full((100,), -torch.inf)
    logits[42] = 5.0
    assert _draw(logits, SamplingParams(temperature=0.01, top_p=0.5)) == 42


def _draw(logits: torch.Tensor, sampling: SamplingParams) -> int:
    (token,) = draw(logits[None], Drawing.of(sampling), [(1, 1)])
    return token
