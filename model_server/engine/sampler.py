"""Draws a token from logits. What is drawn depends on the logits, the parameters, the seed and the position only."""

import hashlib
import math

import torch
from torch import Tensor

from model_server.types import Logprobs, SamplingParams


def draw(logits: Tensor, sampling: SamplingParams, seed: int, position: int) -> int:
    """A token for ``position`` from f32 logits [vocabulary].

    Biases first, then temperature, then ``top_k``, then ``top_p`` of what is left: the smallest set of most likely
    tokens whose probabilities reach it; then ``min_p``. Ties go to the lowest id.
    """
    if sampling.logit_bias:
        biased, values = zip(*sampling.logit_bias, strict=True)
        logits = logits.index_add(0, torch.tensor(biased), torch.tensor(values, dtype=logits.dtype))
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Subtracting the largest first keeps tiny temperatures finite.
    scaled = (logits.double() - logits.max()) / sampling.temperature
    ids: Tensor | None = None
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p:
        scaled, ids = scaled.sort(descending=True, stable=True)
        if sampling.top_k:
            scaled = scaled[: sampling.top_k]
    probabilities = scaled.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    if sampling.top_p < 1:
        num_kept = int((cumulative < sampling.top_p).sum()) + 1
        cumulative = cumulative[:num_kept]
    if sampling.min_p:
        num_kept = int((probabilities >= sampling.min_p * probabilities[0]).sum())
        cumulative = cumulative[:num_kept]
    total = float(cumulative[-1])
    # Rounding must not reach the total: past it is no token, and the last ones may be impossible.
    threshold = min(uniform(seed, position) * total, math.nextafter(total, 0.0))
    index = int(torch.searchsorted(cumulative, threshold, right=True))
    return index if ids is None else int(ids[index])


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
