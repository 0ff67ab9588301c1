"""Grouped-query attention with unequal key and value widths, a sliding window and per-head sinks.

One code path serves a full forward, a prefill chunk and a decode step: keys come with their positions, and the mask
follows from positions alone (technical report of MiMo-V2-Flash, section 2.2).
"""

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model_server.config import ModelConfig
from model_server.layers.linear import Linear
from model_server.layers.rope import rotate

_TILE_ROWS = 64
"""Queries of a whole sequence that attend together: scores nobody sees, half of them or more, are not computed."""


class KeyValues(Protocol):
    """Keys and values of earlier tokens."""

    def key_positions(self, window: bool) -> Tensor:
        """Positions [B, S] of the keys :meth:`update` returns for layers of that kind; -1 marks an empty slot."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k [B, G, T, D] and v [B, G, T, V]; return everything to attend to, [B, G, S, D] and V."""


class Attention(nn.Module):
    """One attention block; ``window`` chooses widths, sink and theta of the two kinds."""

    def __init__(self, config: ModelConfig, window: bool) -> None:
        super().__init__()
        heads = config.heads(window)
        self.heads = heads
        self.window_keys = config.window_keys if window else None
        self.value_scale = config.attention_value_scale
        self.q_proj: Linear = nn.Linear(config.hidden_size, heads.num_heads * heads.qk_dim, bias=False)
        self.k_proj: Linear = nn.Linear(config.hidden_size, heads.num_kv_heads * heads.qk_dim, bias=False)
        self.v_proj: Linear = nn.Linear(config.hidden_size, heads.num_kv_heads * heads.v_dim, bias=False)
        self.o_proj: Linear = nn.Linear(heads.num_heads * heads.v_dim, config.hidden_size, bias=False)
        sink = torch.zeros(heads.num_heads) if heads.sink else None
        self.attention_sink_bias = nn.Parameter(sink) if sink is not None else None

    def forward(
        self, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor, layer: int, cache: KeyValues | None
    ) -> Tensor:
        """x [B, T, C]; mask [B or 1, 1, T, S] adds to the scores; with a cache, keys of earlier tokens join."""
        q = rotate(self._split(self.q_proj(x), self.heads.num_heads), table)
        k = rotate(self._split(self.k_proj(x), self.heads.num_kv_heads), table)
        v = self._split(self.v_proj(x), self.heads.num_kv_heads) * self.value_scale
        if cache is None:
            mixed = attend_in_tiles(q, k, v, mask, self.attention_sink_bias, self.window_keys)
        else:
            mixed = attend(q, *cache.update(layer, k, v), mask, self.attention_sink_bias)
        result: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return result

    @staticmethod
    def _split(x: Tensor, num_heads: int) -> Tensor:
        """[B, T, N * D] -> [B, N, T, D]."""
        return torch.unflatten(x, -1, (num_heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sink: Tensor | None) -> Tensor:
    """Softmax attention, [B, N, T, V]. A sink is one more logit per head that has no value: rows sum to less than 1."""
    batch, num_heads, num_new, qk_dim = q.shape
    groups = k.shape[1]
    if sink is not None:  # one key more, of zeros: its score is its addend, the sink, and it has no value to add
        column = sink.to(mask.dtype).view(1, -1, 1, 1).expand(mask.shape[0], -1, num_new, 1)
        mask = torch.cat((mask.expand(-1, num_heads, -1, -1), column), dim=-1)
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    # Heads of a group read the same keys: fold them into the row dimension instead of copying the keys.
    folded = (q * qk_dim**-0.5).reshape(batch, groups, (num_heads // groups) * num_new, qk_dim)
    scores = (folded @ k.transpose(-1, -2)).view(batch, num_heads, num_new, -1)
    scores = scores + mask
    weights = scores.softmax(-1)
    mixed: Tensor = weights.reshape(batch, groups, (num_heads // groups) * num_new, -1) @ v
    return mixed.view(batch, num_heads, num_new, -1)


def attend_in_tiles(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sink: Tensor | None, window_keys: int | None
) -> Tensor:
    """:func:`attend` where query and key of one index belong to one token and positions ascend: a tile of queries
    looks at no key behind its last query, and with a window at none too far before its first."""
    tiles: list[Tensor] = []
    for first in range(0, q.shape[2], _TILE_ROWS):
        end = min(first + _TILE_ROWS, q.shape[2])
        oldest = 0 if window_keys is None else max(0, first + 1 - window_keys)
        seen = mask[:, :, first:end, oldest:end]
        tiles.append(attend(q[:, :, first:end], k[:, :, oldest:end], v[:, :, oldest:end], seen, sink))
    return torch.cat(tiles, dim=2)


def attention_mask(queries: Tensor, keys: Tensor, window_keys: int | None, dtype: torch.dtype) -> Tensor:
    """What positions [B, T] may see of key positions [B, S], as an addend [B, 1, T, S].

    A hidden key gets the smallest finite number and not -inf: a padding row that sees nothing stays finite.
    """
    distance = queries[:, :, None] - keys[:, None, :]
    seen = (distance >= 0) & (keys[:, None, :] >= 0)
    if window_keys is not None:
        seen &= distance < window_keys
    hidden = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=queries.device).masked_fill_(~seen, hidden).unsqueeze(1)
