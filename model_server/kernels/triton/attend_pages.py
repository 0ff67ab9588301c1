"""Attention over pages: flash attention, and for few rows over long contexts the same split over parts of the keys.

Pages are read as the pools have them. Keys lie in blocks of 16 positions, so a tile of keys is loaded in runs of 16
numbers: 32 bytes of bf16, which is what a GPU fetches at least.
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
    load_tile,
    load_values,
    num_warps,
    tile_pairs,
    tile_rows,
    tile_size,
    widths,
)

_TILE = 128
_SPLIT_BELOW = 8
"""Up to so many rows a sequence counts as decoding: too few tiles to fill a GPU."""
_SPLIT_KEYS = 1024
"""Keys of one part. Parts begin at multiples of it, so a row's sum does not depend on its neighbours."""


def attend_pages(
    q: Tensor, page_k: Tensor, page_v: Tensor, rows: Rows, sink: Tensor | None, split_keys: int = _SPLIT_KEYS
) -> Tensor:
    num_rows, num_heads, width = q.shape
    groups, v_width = page_v.shape[1], page_v.shape[3]
    per_group = num_heads // groups
    block = tile_rows(rows.lengths, per_group, _TILE)
    size = tile_size(block, per_group)
    listed = tiles(rows.lengths, rows.firsts, block, q.device)
    num_keys = max(map(sum, zip(rows.lengths, rows.firsts, strict=True)))
    split = max(rows.lengths) <= _SPLIT_BELOW and num_keys > split_keys
    num_parts = triton.cdiv(num_keys, split_keys) if split else 1
    out = torch.empty(num_rows, num_heads, v_width, dtype=q.dtype, device=q.device)
    # Parts of the keys: the mixed values, largest score and sum of weights of each; without a split, none.
    mixed = q.new_empty((num_rows, num_heads, num_parts, v_width) if split else 0, dtype=torch.float32)
    largest = q.new_empty((num_rows, num_heads, num_parts) if split else 0, dtype=torch.float32)
    total = torch.empty_like(largest)
    _attend_pages[(len(listed), groups, num_parts)](
        q, page_k, page_v, rows.pages, listed, sink, out, mixed, largest, total, rows.pages.stride(0),
        page_k.stride(0), page_v.stride(0), width**-0.5, num_parts, split_keys, num_heads, groups, width,
        *widths(width), v_width, triton.next_power_of_2(v_width), page_v.shape[2], page_k.shape[-1],
        size, sink is not None, split, num_warps=num_warps(size),
    )  # fmt: skip
    if split:
        _join[(num_rows, num_heads)](
            mixed, largest, total, out, num_parts, num_heads, v_width, triton.next_power_of_2(v_width)
        )
    return out


@triton.jit
def _attend_pages(
    q: tl.tensor,
    page_k: tl.tensor,
    page_v: tl.tensor,
    pages: tl.tensor,
    listed: tl.tensor,
    sink: tl.tensor,
    out: tl.tensor,
    mixed_parts: tl.tensor,
    largest_parts: tl.tensor,
    total_parts: tl.tensor,
    pages_stride: tl.tensor,
    k_stride: tl.tensor,
    v_stride: tl.tensor,
    scale: tl.tensor,
    num_parts: tl.tensor,
    SPLIT_KEYS: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    V: tl.constexpr,
    V_TILE: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SINK: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    sequence, first_row, num_rows, first_position, _ = load_tile(listed)
    group, part = tl.program_id(1), tl.program_id(2)
    inside, rows, positions, heads = tile_pairs(first_row, num_rows, first_position, group, N // G, TILE)

    queries = load_queries(q, rows, heads, inside, 0, D_FIRST, N, D)
    if D_REST > 0:
        more_queries = load_queries(q, rows, heads, inside, D_FIRST, D_REST, N, D)
    largest = tl.full((TILE,), -float("inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    mixed = tl.zeros((TILE, V_TILE), tl.float32)
    if SINK:
        # One more score without a value; of several parts, the first has it.
        scored = tl.load(sink + heads, mask=inside, other=0.0).to(tl.float32)
        largest = tl.where(part == 0, scored, largest)
        total = tl.where(part == 0, 1.0, total)

    begin, end = 0, first_position + num_rows
    if SPLIT:
        begin = part * SPLIT_KEYS
        end = tl.minimum(end, begin + SPLIT_KEYS)
    offsets, blocks = tl.arange(0, PAGE), tl.arange(0, PAGE // BLOCK)
    for start in range(begin, end, PAGE):
        page = tl.load(pages + sequence * pages_stride + start // PAGE).to(tl.int64)
        known = start + offsets < end
        keys = page_k + page * k_stride + group * PAGE * D
        scores = dot(queries, load_blocks(keys, blocks, BLOCK, 0, D_FIRST, D))
        if D_REST > 0:
            scores += dot(more_queries, load_blocks(keys, blocks, BLOCK, D_FIRST, D_REST, D))
        seen = known[None, :] & (start + offsets[None, :] <= positions[:, None])
        scores = tl.where(seen, scores * scale, -float("inf"))
        at = page * v_stride + (group * PAGE + offsets) * V
        largest, total, mixed = fold(largest, total, mixed, scores, load_values(page_v, at, known, V_TILE, V))

    columns = tl.arange(0, V_TILE)
    place = rows.to(tl.int64) * N + heads
    if SPLIT:
        place = place * num_parts + part
        tl.store(largest_parts + place, largest, mask=inside)
        tl.store(total_parts + place, total, mask=inside)
        into = mixed_parts
    else:
        mixed = mixed / tl.where(inside, total, 1.0)[:, None]
        into = out
    at = place[:, None] * V + columns[None, :]
    tl.store(into + at, narrow(mixed, into.dtype.element_ty), mask=inside[:, None] & (columns < V)[None, :])


@triton.jit
def _join(
    mixed_parts: tl.tensor,
    largest_parts: tl.tensor,
    total_parts: tl.tensor,
    out: tl.tensor,
    num_parts: tl.tensor,
    N: tl.constexpr,
    V: tl.constexpr,
    V_TILE: tl.constexpr,
) -> None:
    """The parts of one query, in their order. A part that saw nothing adds nothing."""
    place = tl.program_id(0).to(tl.int64) * N + tl.program_id(1)
    columns = tl.arange(0, V_TILE)
    largest = tl.load(largest_parts + place * num_parts)
    total = tl.load(total_parts + place * num_parts)
    mixed = tl.load(mixed_parts + place * num_parts * V + columns, mask=columns < V, other=0.0)
    for part in range(1, num_parts):
        at = place * num_parts + part
        other = tl.load(largest_parts + at)
        higher = tl.maximum(largest, other)
        shrink, weight = tl.exp(largest - higher), tl.exp(other - higher)
        total = total * shrink + tl.load(total_parts + at) * weight
        mixed = mixed * shrink + tl.load(mixed_parts + at * V + columns, mask=columns < V, other=0.0) * weight
        largest = higher
    tl.store(out + place * V + columns, narrow(mixed / total, out.dtype.element_ty), mask=columns < V)
