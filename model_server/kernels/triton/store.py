"""Keys and values to their places in pages or rings."""

import triton
import triton.language as tl
from torch import Tensor

from model_server.kernels.rows import Rows, targets
from model_server.kernels.triton.numbers import narrow


def store_pages(k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, rows: Rows) -> None:
    listed = targets(rows.lengths, rows.firsts, sum(rows.lengths), k.device)
    _launch(k, v, pool_k, pool_v, listed, rows.pages, ring=False)


def store_rings(k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, rows: Rows) -> None:
    listed = targets(rows.lengths, rows.firsts, pool_v.shape[2], k.device)
    _launch(k, v, pool_k, pool_v, listed, rows.slots, ring=True)


def _launch(k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, listed: Tensor, places: Tensor, ring: bool) -> None:
    _, groups, k_width = k.shape
    v_width = v.shape[2]
    _store[(len(listed), groups)](
        k, v, pool_k, pool_v, listed, places, places.stride(0), pool_k.stride(0), pool_v.stride(0), groups, k_width,
        triton.next_power_of_2(k_width), v_width, triton.next_power_of_2(v_width), pool_v.shape[2], pool_k.shape[-1],
        ring,
    )  # fmt: skip


@triton.jit
def _store(
    k: tl.tensor,
    v: tl.tensor,
    pool_k: tl.tensor,
    pool_v: tl.tensor,
    listed: tl.tensor,
    places: tl.tensor,
    places_stride: tl.tensor,
    pool_k_stride: tl.tensor,
    pool_v_stride: tl.tensor,
    G: tl.constexpr,
    D: tl.constexpr,
    D_TILE: tl.constexpr,
    V: tl.constexpr,
    V_TILE: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    RING: tl.constexpr,
) -> None:
    """SIZE positions are in a page or ring; a sequence has one ring and many pages."""
    row = tl.load(listed + tl.program_id(0) * 3)
    sequence = tl.load(listed + tl.program_id(0) * 3 + 1)
    position = tl.load(listed + tl.program_id(0) * 3 + 2)
    group = tl.program_id(1)
    entry = sequence * places_stride
    if not RING:
        entry += position // SIZE
    place = tl.load(places + entry).to(tl.int64)
    offset = position % SIZE
    source = row.to(tl.int64) * G + group

    wide = tl.arange(0, D_TILE)
    key = tl.load(k + source * D + wide, mask=wide < D).to(tl.float32)
    at = place * pool_k_stride + (group * (SIZE // BLOCK) + offset // BLOCK) * D * BLOCK + offset % BLOCK
    tl.store(pool_k + at + wide * BLOCK, narrow(key, pool_k.dtype.element_ty), mask=wide < D)

    wide = tl.arange(0, V_TILE)
    value = tl.load(v + source * V + wide, mask=wide < V).to(tl.float32)
    at = place * pool_v_stride + (group * SIZE + offset) * V
    tl.store(pool_v + at + wide, narrow(value, pool_v.dtype.element_ty), mask=wide < V)
