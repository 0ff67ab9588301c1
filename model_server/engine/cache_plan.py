"""How the memory for keys and values is divided: pages of the global layers, rings of the window layers."""

from dataclasses import dataclass

import torch

from model_server.config import ModelConfig
from model_server.kernels.batch import PAGE, ring_size

_MOST_BYTES = 2 * 1024**3
"""Unless the operator says otherwise, and unless one whole context needs more."""
_SNAPSHOTS_PER_SEQUENCE = 8
_SESSIONS_PER_SEQUENCE = 4


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Numbers of pages, and of rings by their use."""

    num_pages: int
    num_snapshots: int
    num_sessions: int


def plan_cache(
    config: ModelConfig, dtype: torch.dtype, max_running: int, context_length: int, num_bytes: int | None, keep: bool
) -> CachePlan:
    """Divide ``num_bytes``: every running sequence has its ring, what is kept for later at most a quarter of the rest
    for its rings if it is to ``keep`` anything, and pages get what is left. None takes what running sequences and as
    many others need, within bounds.

    Raises:
        ValueError: not one page is left.
    """
    page, ring = (_bytes(config, dtype, window) for window in (False, True))
    page, ring = page * PAGE, ring * ring_size(config.window_keys)
    context = -(-context_length // PAGE)
    wanted_pages = 2 * max_running * context
    wanted_kept = (_SNAPSHOTS_PER_SEQUENCE + _SESSIONS_PER_SEQUENCE) * max_running * keep
    if num_bytes is None:
        least = max_running * ring + (context * page * 4 + 2) // 3
        num_bytes = max(min((max_running + wanted_kept) * ring + wanted_pages * page, _MOST_BYTES), least)
    rest = num_bytes - max_running * ring
    num_kept = min(wanted_kept, rest // 4 // ring) if ring else wanted_kept
    num_pages = (rest - num_kept * ring) // page if page else wanted_pages
    if num_pages < 1 or rest < 0:
        raise ValueError(
            f"{num_bytes} bytes hold no keys and values for {max_running} sequences at once:"
            f" each needs {ring} bytes for its window layers, and {page} for every {PAGE} tokens"
        )
    num_snapshots = num_kept * _SNAPSHOTS_PER_SEQUENCE // (_SNAPSHOTS_PER_SEQUENCE + _SESSIONS_PER_SEQUENCE)
    return CachePlan(num_pages, num_snapshots, num_kept - num_snapshots)


def _bytes(config: ModelConfig, dtype: torch.dtype, window: bool) -> int:
    """Of one position in all layers of one kind."""
    heads = config.heads(window)
    num_layers = sum(kind == window for kind in config.hybrid_layer_pattern)
    return num_layers * heads.num_kv_heads * (heads.qk_dim + heads.v_dim) * dtype.itemsize
