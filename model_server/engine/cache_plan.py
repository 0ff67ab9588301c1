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
    """Numbers of pages, and of rings beside those of running sequences. Without snapshots nothing is shared."""

    num_pages: int
    num_snapshots: int
    num_sessions: int


def plan_cache(
    config: ModelConfig,
    dtype: torch.dtype,
    max_running: int,
    context_length: int,
    num_bytes: int | None = None,
    num_hidden: int = 0,
) -> CachePlan:
    """Divide ``num_bytes``: every running sequence has its ring, rings that are kept for later take at most a quarter
    of the rest, and pages get what is left. None takes what running sequences and as many others need, within bounds.
    ``num_hidden`` hidden states are kept beside each ring.

    Raises:
        ValueError: not one page is left.
    """
    page = PAGE * _bytes(config, dtype, window=False)
    ring = ring_size(config.window_keys) * _bytes(config, dtype, window=True)
    ring += num_hidden * config.hidden_size * dtype.itemsize
    context = -(-context_length // PAGE)
    num_pages, num_kept = 2 * max_running * context, (_SNAPSHOTS_PER_SEQUENCE + _SESSIONS_PER_SEQUENCE) * max_running
    if num_bytes is None and (max_running + num_kept) * ring + num_pages * page > _MOST_BYTES:
        num_bytes = max(_MOST_BYTES, max_running * ring + context * page * 4 // 3 + page)
    if num_bytes is not None:
        rest = num_bytes - max_running * ring
        num_kept = min(num_kept, rest // 4 // ring) if ring else num_kept
        num_pages = (rest - num_kept * ring) // page if page else num_pages
        if rest < 0 or num_pages < 1:
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
