"""Draws tokens from logits. What is drawn depends on the logits, the parameters, the seed and the position only.

Rows that are drawn alike are drawn together: a call to PyTorch takes about as long for one row as for many.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_server.types import Logprobs, SamplingParams

_ROW_NUMBERS = 1 << 16
"""Of the rows that are drawn together: more do not stay in a processor's cache from one operation to the next."""

_Row = NDArray[np.float64]

Place = tuple[int, int]
"""Seed and position."""


class Drawing(NamedTuple):
    """What of a request's parameters decides between the tokens. A named tuple is the cheapest key of a dictionary, and
    each step looks up one for each row."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    logit_bias: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, sampling: SamplingParams) -> "Drawing":
        return cls(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.logit_bias)


def draw(logits: Tensor, drawing: Drawing, places: Collection[Place]) -> list[int]:
    """A token for each place from f32 logits [places, vocabulary]; no row depends on the others.

    Biases first, then temperature, then ``top_k``, then ``top_p`` of what is left: the smallest set of most likely
    tokens whose probabilities reach it; then ``min_p``. Ties go to the lowest id.
    """
    if drawing.logit_bias:
        biased, values = zip(*drawing.logit_bias, strict=True)
        added = torch.tensor(values, dtype=logits.dtype).expand(len(logits), -1)
        logits = logits.index_add(1, torch.tensor(biased), added)
    if drawing.temperature == 0:
        likeliest: list[int] = logits.numpy(force=True).argmax(-1).tolist()  # PyTorch takes over ten times as long
        return likeliest
    count = max(_ROW_NUMBERS // logits.shape[1], 1)
    left = iter(places)
    return [token for rows in logits.split(count) for token in _drawn(rows, drawing, islice(left, len(rows)))]


def logprobs(logits: Tensor, token: int, count: int) -> Logprobs:
    """What the model thought of ``token``, and its ``count`` likeliest tokens, from f32 logits [vocabulary]."""
    scores = logits.log_softmax(-1)
    if not count:  # sorting costs more than all the rest
        return Logprobs(float(scores[token]), ())
    values, ids = scores.sort(descending=True, stable=True)
    return Logprobs(float(scores[token]), tuple(zip(ids[:count].tolist(), values[:count].tolist(), strict=True)))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments, with 53 random bits."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53


def _drawn(logits: Tensor, drawing: Drawing, places: Iterable[Place]) -> Iterator[int]:
    # Subtracting the largest first keeps tiny temperatures finite.
    scaled = (logits.double() - logits.amax(-1, keepdim=True)) / drawing.temperature
    ids: Tensor | None = None
    if drawing.top_k or drawing.top_p < 1 or drawing.min_p:
        scaled, ids = scaled.sort(dim=-1, descending=True, stable=True)
        if drawing.top_k:
            scaled = scaled[:, : drawing.top_k]
    probabilities = scaled.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    rows = zip(probabilities.numpy(force=True), cumulative.numpy(force=True), places, strict=True)
    for row, (likely, reached, place) in enumerate(rows):
        index = _reaching(uniform(*place), likely, reached, drawing)
        yield index if ids is None else int(ids[row, index])


def _reaching(share: float, probabilities: _Row, cumulative: _Row, drawing: Drawing) -> int:
    """Where so large a share of what is kept is reached."""
    num_kept = len(cumulative)
    if drawing.top_p < 1:
        num_kept = min(num_kept, int(cumulative.searchsorted(drawing.top_p)) + 1)
    if drawing.min_p:
        num_kept = min(num_kept, int((probabilities >= drawing.min_p * probabilities[0]).sum()))
    total = float(cumulative[num_kept - 1])
    # Rounding must not reach the total: past it is no token, and the last ones may be impossible.
    return int(cumulative.searchsorted(min(share * total, math.nextafter(total, 0.0)), side="right"))
