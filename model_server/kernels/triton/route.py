"""Sigmoid, choice by score and bias, and shares, a row at a time without leaving registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def route(logits: Tensor, bias: Tensor, top_k: int, normalise: bool, scaling: float) -> tuple[Tensor, Tensor]:
    num_rows, num_experts = logits.shape
    ids = torch.empty(num_rows, top_k, dtype=torch.int32, device=logits.device)
    shares = torch.empty(num_rows, top_k, device=logits.device)
    _route[(num_rows,)](
        logits, bias, ids, shares, scaling, num_experts, triton.next_power_of_2(num_experts), top_k,
        triton.next_power_of_2(top_k), normalise,
    )  # fmt: skip
    return ids, shares


@triton.jit
def _route(
    logits: tl.tensor,
    bias: tl.tensor,
    ids: tl.tensor,
    shares: tl.tensor,
    scaling: tl.tensor,
    E: tl.constexpr,
    E_TILE: tl.constexpr,
    K: tl.constexpr,
    K_TILE: tl.constexpr,
    NORMALISE: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    experts, places = tl.arange(0, E_TILE), tl.arange(0, K_TILE)
    inside = experts < E
    scores = tl.sigmoid(tl.load(logits + row * E + experts, mask=inside, other=0.0))
    left = tl.where(inside, scores + tl.load(bias + experts, mask=inside, other=0.0), -float("inf"))
    chosen = tl.zeros((K_TILE,), tl.int32)
    taken = tl.zeros((K_TILE,), tl.float32)
    for place in range(K):
        best = tl.argmax(left, axis=0, tie_break_left=True)
        chosen = tl.where(places == place, best, chosen)
        taken = tl.where(places == place, tl.sum(tl.where(experts == best, scores, 0.0), axis=0), taken)
        left = tl.where(experts == best, -float("inf"), left)
    if NORMALISE:
        taken = taken / (tl.sum(taken, axis=0) + 1e-20)
    tl.store(ids + row * K + places, chosen, mask=places < K)
    tl.store(shares + row * K + places, taken * scaling, mask=places < K)
