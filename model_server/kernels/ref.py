"""Every op of ``model_server.kernels.ops`` in plain PyTorch, computed in f32: what the others are compared with."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model_server.kernels.batch import PAGE
from model_server.kernels.experts import Groups
from model_server.kernels.fp8 import BlockScaled, quantize_blocks
from model_server.kernels.rows import Rows, targets


def quantize(x: Tensor, group: int) -> BlockScaled:
    return BlockScaled(*quantize_blocks(x, (1, group)), (1, group))


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, group: int) -> tuple[Tensor, Tensor, BlockScaled]:
    total = (x.float() + residual.float()).to(residual.dtype)
    wide = total.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()
    return total, normed.to(x.dtype), quantize(normed, group)


def gated(joined: Tensor, group: int) -> BlockScaled:
    gate, up = joined.float().chunk(2, dim=-1)
    return quantize(F.silu(gate) * up, group)


def linear(x: BlockScaled, weight: BlockScaled, dtype: torch.dtype) -> Tensor:
    return (x.dense() @ weight.dense().T).to(dtype)


def route(logits: Tensor, bias: Tensor, top_k: int, normalise: bool, scaling: float) -> tuple[Tensor, Tensor]:
    scores = logits.float().sigmoid()
    ids = (scores + bias).argsort(dim=-1, descending=True, stable=True)[:, :top_k]
    shares = scores.gather(1, ids)
    if normalise:
        shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
    return ids.int(), shares * scaling


def grouped_linear(x: BlockScaled, weight: BlockScaled, groups: Groups, gather: bool, dtype: torch.dtype) -> Tensor:
    sources = x.dense()
    if gather:
        sources = sources[groups.rows.long()]
    ends = groups.ends.tolist()
    parts = [sources[first:end] for first, end in zip([0, *ends], ends, strict=False)]
    return torch.cat([part @ matrix.T for part, matrix in zip(parts, weight.dense(), strict=True)]).to(dtype)


def combine(pairs: Tensor, groups: Groups, shares: Tensor) -> Tensor:
    return (pairs.float()[groups.places.long()] * shares.unsqueeze(-1)).sum(1)


def attend_pages(q: Tensor, page_k: Tensor, page_v: Tensor, rows: Rows, sink: Tensor | None) -> Tensor:
    outputs = []
    for sequence, (part, first) in enumerate(zip(q.split(rows.lengths), rows.firsts, strict=True)):
        num_keys = first + len(part)
        pages = rows.pages[sequence, : -(-num_keys // PAGE)].long()
        k, v = _positions(page_k[pages]), page_v[pages].transpose(0, 1)
        keys = torch.arange(num_keys)
        seen = keys <= keys[first:, None]
        outputs.append(_attend(part, k.flatten(1, 2)[:, keys], v.flatten(1, 2)[:, keys], seen, sink))
    return torch.cat(outputs).to(q.dtype)


def attend_rings(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ring_k: Tensor,
    ring_v: Tensor,
    rows: Rows,
    window_keys: int,
    sink: Tensor | None,
) -> Tensor:
    outputs = []
    parts = zip(*(x.split(rows.lengths) for x in (q, k, v)), strict=True)
    for (part, new_k, new_v), first, slot in zip(parts, rows.firsts, rows.slots.tolist(), strict=True):
        old = torch.arange(max(0, first + 1 - window_keys), first)
        offsets = old % ring_v.shape[2]
        old_k, old_v = _positions(ring_k[slot, None])[:, 0, offsets], ring_v[slot][:, offsets]
        queries = first + torch.arange(len(part))
        distance = queries[:, None] - torch.cat((old, queries))
        seen = (distance >= 0) & (distance < window_keys)
        keys = torch.cat((old_k, new_k.transpose(0, 1)), dim=1)
        values = torch.cat((old_v, new_v.transpose(0, 1)), dim=1)
        outputs.append(_attend(part, keys, values, seen, sink))
    return torch.cat(outputs).to(q.dtype)


def store_pages(k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, rows: Rows) -> None:
    row, sequence, position = _targets(rows, sum(rows.lengths))
    page, offset = rows.pages[sequence, position // PAGE].long(), position % PAGE
    _store(k[row], v[row], pool_k, pool_v, page, offset)


def store_rings(k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, rows: Rows) -> None:
    size = pool_v.shape[2]
    row, sequence, position = _targets(rows, size)
    _store(k[row], v[row], pool_k, pool_v, rows.slots[sequence].long(), position % size)


def _targets(rows: Rows, newest: int) -> tuple[Tensor, ...]:
    return targets(rows.lengths, rows.firsts, newest, rows.slots.device).long().unbind(1)


def _store(k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, place: Tensor, offset: Tensor) -> None:
    block = pool_k.shape[-1]
    # Indices with a slice between them come to the front: [n, G, D] and [n, G, V], as k and v are.
    pool_k[place, :, offset // block, :, offset % block] = k.to(pool_k.dtype)
    pool_v[place, :, offset] = v.to(pool_v.dtype)


def _positions(blocks: Tensor) -> Tensor:
    """Keys in blocks [P, G, n, D, BLOCK] -> by position [G, P, n * BLOCK, D]."""
    return blocks.permute(1, 0, 2, 4, 3).flatten(2, 3)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, sink: Tensor | None) -> Tensor:
    """q [T, N, D], k [G, S, D], v [G, S, V], seen [T, S] -> f32 [T, N, V]"""
    num_rows, num_heads, width = q.shape
    grouped = q.float().transpose(0, 1).reshape(len(k), -1, width)  # heads of a group, each with its rows
    scores = (grouped @ k.float().transpose(1, 2)) * width**-0.5
    scores = scores.view(num_heads, num_rows, -1).masked_fill(~seen, -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink.float().view(-1, 1, 1).expand(-1, num_rows, 1)), dim=-1)
    weights = scores.softmax(-1)[..., : k.shape[1]]
    mixed: Tensor = weights.reshape(len(v), -1, v.shape[1]) @ v.float()
    return mixed.view(num_heads, num_rows, -1).transpose(0, 1)
