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

_HEAD = 128
"""So many of the likeliest tokens usually hold all that ``top_p`` and ``min_p`` keep."""

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

    @property
    def takes_likeliest(self) -> bool:
        """Whether it is the largest of the logits as they are."""
        return self.temperature == 0 and not self.logit_bias


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
    if not count:
        return Logprobs(float(scores[token]), ())
    row = scores.numpy(force=True)
    ids = _ordered(row, _floors(row[None], count)[0])[:count]
    return Logprobs(float(scores[token]), tuple(zip(ids.tolist(), row[ids].tolist(), strict=True)))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments, with 53 random bits."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53


def _drawn(logits: Tensor, drawing: Drawing, places: Iterable[Place]) -> Iterator[int]:
    # Subtracting the largest first keeps tiny temperatures finite.
    scaled = ((logits.double() - logits.amax(-1, keepdim=True)) / drawing.temperature).numpy(force=True)
    masses = np.exp(scaled)
    if not drawing.top_k and drawing.top_p == 1 and not drawing.min_p:
        cumulative = torch.from_numpy(masses).cumsum(-1).numpy()  # NumPy takes twice as long
        yield from (_reaching(uniform(*place), row) for row, place in zip(cumulative, places, strict=True))
        return
    head = drawing.top_k or _HEAD
    rows = zip(scaled, masses, _floors(scaled, head), masses.sum(-1), places, strict=True)
    for row, mass, floor, total, place in rows:
        ids = _ordered(row, floor)
        while (cut := _cut(mass[ids], total, drawing)) is None and len(ids) < len(row):  # a flat row
            ids = _ordered(row, _floors(row[None], 8 * len(ids))[0])
        yield int(ids[_reaching(uniform(*place), mass[ids[:cut]].cumsum())])


def _floors(rows: _Row, count: int) -> _Row:
    """The ``count``-th largest number of each row; the least where there are not so many. Far cheaper than sorting."""
    kth = max(rows.shape[-1] - count, 0)
    return np.asarray(np.partition(rows, kth, axis=-1)[:, kth])


def _ordered(row: _Row, floor: float) -> NDArray[np.intp]:
    """The ids that are not below the floor, likeliest first, the lowest of equals first."""
    ids = np.flatnonzero(row >= floor)
    return ids[np.argsort(-row[ids], kind="stable")]


def _cut(masses: _Row, total: float, drawing: Drawing) -> int | None:
    """How many of the likeliest are kept; None where that depends on tokens that are not among them.

    Args:
        masses: unnormalised probabilities, the largest first.
        total: of the whole vocabulary.
    """
    cut: int | None = None
    if drawing.top_k:
        masses = masses[: drawing.top_k]
        cut, total = len(masses), float(masses.sum())
    if drawing.top_p < 1 and (reached := int(masses.cumsum().searchsorted(drawing.top_p * total))) < len(masses):
        cut = reached + 1
    if drawing.min_p and (likely := int((masses >= drawing.min_p * masses[0]).sum())) < len(masses):
        cut = min(cut or likely, likely)
    return cut


def _reaching(share: float, cumulative: _Row) -> int:
    """Where so large a share of the last number is reached."""
    total = float(cumulative[-1])
    # Rounding must not reach the total: past it is no token, and the last ones may be impossible.
    return int(cumulative.searchsorted(min(share * total, math.nextafter(total, 0.0)), side="right"))
