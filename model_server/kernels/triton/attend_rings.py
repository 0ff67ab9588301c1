"""Attention over a window: what came before from rings, the rows' own keys from where they were just computed.

A ring is too small for a long part of a prompt, so the rows attend first and are stored afterwards; then a part of any
length is one launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.rows import Rows, tiles
from model_server.kernels.triton.numbers import dot, narrow
from model_server.kernels.triton.softmax import (
    fold,
    load_blocks,
    load_queries,
    load_rows,
    load_tile,
    load_values,
    num_warps,
    tile_pairs,
    tile_rows,
    tile_size,
    widths,
)

_TILE = 128
_KEYS = 64


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
    num_rows, num_heads, width = q.shape
    groups, v_width = v.shape[1:]
    per_group = num_heads // groups
    block = tile_rows(rows.lengths, per_group, _TILE)
    size = tile_size(block, per_group)
    listed = tiles(rows.lengths, rows.firsts, block, q.device)
    out = torch.empty(num_rows, num_heads, v_width, dtype=q.dtype, device=q.device)
    _attend_rings[(len(listed), groups)](
        q, k, v, ring_k, ring_v, rows.slots, listed, sink, out, ring_k.stride(0), ring_v.stride(0), width**-0.5,
        num_heads, groups, width, *widths(width), v_width, triton.next_power_of_2(v_width), ring_v.shape[2],
        ring_k.shape[-1], window_keys, size, _KEYS, sink is not None, num_warps=num_warps(size),
    )  # fmt: skip
    return out


@triton.jit
def _attend_rings(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    ring_k: tl.tensor,
    ring_v: tl.tensor,
    slots: tl.tensor,
    listed: tl.tensor,
    sink: tl.tensor,
    out: tl.tensor,
    k_stride: tl.tensor,
    v_stride: tl.tensor,
    scale: tl.tensor,
    N: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    V: tl.constexpr,
    V_TILE: tl.constexpr,
    RING: tl.constexpr,
    BLOCK: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    SINK: tl.constexpr,
) -> None:
    sequence, first_row, num_rows, first_position, num_before = load_tile(listed)
    group = tl.program_id(1)
    inside, rows, positions, heads = tile_pairs(first_row, num_rows, first_position, group, N // G, TILE)

    queries = load_queries(q, rows, heads, inside, 0, D_FIRST, N, D)
    if D_REST > 0:
        more_queries = load_queries(q, rows, heads, inside, D_FIRST, D_REST, N, D)
    largest = tl.full((TILE,), -float("inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    mixed = tl.zeros((TILE, V_TILE), tl.float32)
    if SINK:
        largest = tl.load(sink + heads, mask=inside, other=0.0).to(tl.float32)
        total += 1.0

    slot = tl.load(slots + sequence).to(tl.int64)
    new = first_position - num_before  # position of the sequence's first row; what is before it is in the ring
    oldest = tl.maximum(0, first_position + 1 - WINDOW)
    lanes = tl.arange(0, KEYS)
    for start in range(oldest // KEYS * KEYS, new, KEYS):
        keys = start + lanes
        known = (keys >= oldest) & (keys < new)
        blocks = (start // BLOCK + tl.arange(0, KEYS // BLOCK)) % (RING // BLOCK)
        old = ring_k + slot * k_stride + group * RING * D
        scores = dot(queries, load_blocks(old, blocks, BLOCK, 0, D_FIRST, D))
        if D_REST > 0:
            scores += dot(more_queries, load_blocks(old, blocks, BLOCK, D_FIRST, D_REST, D))
        seen = known[None, :] & (keys[None, :] > positions[:, None] - WINDOW)
        scores = tl.where(seen, scores * scale, -float("inf"))
        at = slot * v_stride + (group * RING + keys % RING) * V
        largest, total, mixed = fold(largest, total, mixed, scores, load_values(ring_v, at, known, V_TILE, V))

    end = first_position + num_rows
    for start in range(tl.maximum(oldest, new) // KEYS * KEYS, end, KEYS):
        keys = start + lanes
        known = (keys >= oldest) & (keys >= new) & (keys < end)
        sources = (first_row - first_position + keys).to(tl.int64) * G + group
        scores = dot(queries, load_rows(k, sources * D, known, 0, D_FIRST, D))
        if D_REST > 0:
            scores += dot(more_queries, load_rows(k, sources * D, known, D_FIRST, D_REST, D))
        seen = known[None, :] & (keys[None, :] <= positions[:, None]) & (keys[None, :] > positions[:, None] - WINDOW)
        scores = tl.where(seen, scores * scale, -float("inf"))
        largest, total, mixed = fold(largest, total, mixed, scores, load_values(v, sources * V, known, V_TILE, V))

    columns = tl.arange(0, V_TILE)
    at = (rows.to(tl.int64) * N + heads)[:, None] * V + columns[None, :]
    mixed = narrow(mixed / tl.where(inside, total, 1.0)[:, None], out.dtype.element_ty)
    tl.store(out + at, mixed, mask=inside[:, None] & (columns < V)[None, :])
