"""What both kinds of attention share: a tile of query rows, and scores folded into a running softmax.

A tile has the rows of one sequence and all query heads of one key-value head, so keys are read once for all of them.
Query and key widths that are no power of two, 192 above all, are cut in two parts that are.
"""

import triton
import triton.language as tl

from model_server.kernels.triton.numbers import dot

FEW_ROWS = 16
"""The fewest rows the matrix units take."""


def widths(width: int) -> tuple[int, int]:
    """Two tile widths that cover a query's: 192 -> (128, 64); the second may be 0."""
    first = max(16, 1 << (width.bit_length() - 1))
    rest = width - first
    return first, max(16, triton.next_power_of_2(rest)) if rest > 0 else 0


def tile_rows(lengths: tuple[int, ...], per_group: int, most: int) -> int:
    """Rows of a sequence in a tile: as many as are there, but at most ``most`` rows times heads."""
    rows: int = triton.next_power_of_2(max(lengths))
    return max(1, min(rows, most // per_group))


def num_warps(size: int) -> int:
    """Enough threads that a tile of rows times heads and its running sums fit in their registers."""
    return 8 if size > 64 else 4


def tile_size(rows: int, per_group: int) -> int:
    """Rows times heads, as a tile can have them."""
    size: int = max(FEW_ROWS, triton.next_power_of_2(rows * per_group))
    return size


@triton.jit
def load_tile(listed: tl.tensor) -> tl.tensor:
    """This program's entry of ``kernels.rows.tiles``: sequence, first row, number of rows, position of the first row,
    rows of the sequence before it."""
    tile = listed + tl.program_id(0) * 5
    return tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)


@triton.jit
def tile_pairs(
    first_row: tl.tensor,
    num_rows: tl.tensor,
    first_position: tl.tensor,
    group: tl.tensor,
    PER_GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """The (row, head) pairs of a tile: whether they exist, their rows, positions and heads, [TILE] each."""
    pair = tl.arange(0, TILE)
    row = pair // PER_GROUP
    return row < num_rows, first_row + row, first_position + row, group * PER_GROUP + pair % PER_GROUP


@triton.jit
def load_queries(
    q: tl.tensor,
    rows: tl.tensor,
    heads: tl.tensor,
    inside: tl.tensor,
    FIRST: tl.constexpr,
    TILE: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
) -> tl.tensor:
    """Columns FIRST on of the queries of (row, head) pairs: [pairs, TILE]."""
    columns = FIRST + tl.arange(0, TILE)
    at = (rows.to(tl.int64) * N + heads)[:, None] * D + columns[None, :]
    return tl.load(q + at, mask=inside[:, None] & (columns < D)[None, :], other=0.0)


@triton.jit
def load_blocks(
    k: tl.tensor, blocks: tl.tensor, BLOCK: tl.constexpr, FIRST: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """Columns FIRST on of the keys of whole blocks (their numbers, from ``k`` on): [TILE, blocks * BLOCK].

    The three dimensions say that BLOCK positions lie side by side, so a thread loads several at once. All of a pool is
    memory, so nothing but columns is masked: what no row may see is whatever is there, and hidden by its score.
    """
    columns = FIRST + tl.arange(0, TILE)
    positions = tl.arange(0, BLOCK)
    at = (blocks[None, :, None] * D + columns[:, None, None]) * BLOCK + positions[None, None, :]
    tile = tl.load(k + at, mask=(columns < D)[:, None, None], other=0.0)
    return tl.reshape(tile, (TILE, blocks.shape[0] * BLOCK))


@triton.jit
def load_rows(
    k: tl.tensor, at: tl.tensor, known: tl.tensor, FIRST: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """Columns FIRST on of the keys whose first column is ``at``, transposed: [TILE, keys]."""
    columns = FIRST + tl.arange(0, TILE)
    return tl.load(k + at[None, :] + columns[:, None], mask=known[None, :] & (columns < D)[:, None], other=0.0)


@triton.jit
def load_values(v: tl.tensor, at: tl.tensor, known: tl.tensor, TILE: tl.constexpr, V: tl.constexpr) -> tl.tensor:
    """[keys, TILE]; what is not known is 0, since the memory there may hold anything."""
    columns = tl.arange(0, TILE)
    return tl.load(v + at[:, None] + columns[None, :], mask=known[:, None] & (columns < V)[None, :], other=0.0)


@triton.jit
def fold(
    largest: tl.tensor, total: tl.tensor, mixed: tl.tensor, scores: tl.tensor, values: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take scores [M, keys], -inf where hidden, and values [keys, V] into the running softmax of M queries."""
    higher = tl.maximum(largest, tl.max(scores, axis=1))
    base = tl.where(higher == -float("inf"), 0.0, higher)  # nothing seen yet
    weights = tl.exp(scores - base[:, None])
    shrink = tl.exp(largest - base)
    return higher, total * shrink + tl.sum(weights, axis=1), mixed * shrink[:, None] + dot(weights, values)
