"""Keys and values of one sequence.

Global layers keep everything and grow. Window layers keep a ring of exactly the keys a next token can see, so their
memory does not depend on the length. Softmax does not care about order, so a ring is read as it lies.

Shape letters: T new tokens, S keys, N heads, G key-value heads, D query-key width, V value width.
"""

import torch
from torch import Tensor

from model_server.config import ModelConfig

_GROWTH = 256
"""Global storage grows by at least this many tokens, and by half of itself when it is long."""

_MAX_UNDONE = 16
"""Tokens of one step that may be taken back. Longer parts are prompts, which are never guessed."""


KeysValues = tuple[Tensor, Tensor]
"""k [G, S, D] and v [G, S, V] of one layer."""


class SequenceCache:
    """Storage of one sequence, owned by whoever holds it; never shared."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.num_tokens = 0
        """Tokens whose keys and values are complete in every layer."""
        self._window_keys = config.window_keys
        self._layers = [
            _storage(config, bool(kind), config.window_keys if kind else _GROWTH, dtype)
            for kind in config.hybrid_layer_pattern
        ]
        self._windows = [bool(kind) for kind in config.hybrid_layer_pattern]
        self._marked_rings: dict[int, KeysValues] = {}
        self._overwritten: dict[int, KeysValues] = {}
        """What the newest tokens replaced in the rings, slot by slot, until they are committed."""
        self._experts: list[Tensor] = []
        self.marked_tokens = 0
        """Tokens at the last :meth:`mark`; 0 before one."""

    @property
    def num_bytes(self) -> int:
        return sum(k.nbytes + v.nbytes for k, v in (*self._layers, *self._marked_rings.values()))

    @property
    def num_window_bytes(self) -> int:
        """Bytes of the window layers alone: constant."""
        layers = zip(self._layers, self._windows, strict=True)
        return sum(k.nbytes + v.nbytes for (k, v), window in layers if window)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Store new k [T, G, D] and v [T, G, V] after :attr:`num_tokens` and show what they attend to: keys in the
        order of their positions, the new ones last. One new token sees a ring as it lies, in any order.

        The count moves only with :meth:`commit`, when every layer has stored them.
        """
        if self._windows[layer]:
            return self._extend_ring(layer, k, v)
        return self._extend_all(layer, k, v)

    def commit(self, num_kept: int, experts: Tensor) -> None:
        """Count the first ``num_kept`` of the tokens stored since the last commit, and forget the others.

        Up to 16 stored tokens can be forgotten in part; of more, all must be kept. ``experts`` [T, M, K] are those that
        the stored tokens used; they are remembered with the tokens.
        """
        self._experts.append(experts[:num_kept])
        for layer, (old_k, old_v) in self._overwritten.items():
            ring_k, ring_v = self._layers[layer]
            slots = torch.arange(self.num_tokens + num_kept, self.num_tokens + old_k.shape[1]) % self._window_keys
            ring_k[:, slots], ring_v[:, slots] = old_k[:, num_kept:], old_v[:, num_kept:]
        self._overwritten = {}
        self.num_tokens += num_kept

    def experts(self, start: int) -> Tensor:
        """Experts uint8 [S, M, K] of all tokens from position ``start`` on."""
        self._experts = [torch.cat(self._experts)]
        return self._experts[0][start:]

    def mark(self) -> None:
        """Remember this point for :meth:`rewind`, in place of an earlier one: a copy of the rings."""
        self.marked_tokens = self.num_tokens
        self._marked_rings = {
            layer: (k.clone(), v.clone())
            for layer, ((k, v), window) in enumerate(zip(self._layers, self._windows, strict=True))
            if window
        }

    def rewind(self) -> None:
        """Forget everything after the mark."""
        for layer, ring in self._marked_rings.items():
            self._layers[layer] = ring
        self._marked_rings = {}
        self.num_tokens, self.marked_tokens = self.marked_tokens, 0
        self._experts = [torch.cat(self._experts)[: self.num_tokens]]

    def _extend_all(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        start, end = self.num_tokens, self.num_tokens + len(k)
        if end > self._layers[layer][0].shape[1]:
            num_slots = max(end + _GROWTH, end * 3 // 2)
            k_held, v_held = self._layers[layer]
            self._layers[layer] = (_grown(k_held, start, num_slots), _grown(v_held, start, num_slots))
        held_k, held_v = self._layers[layer]
        held_k[:, start:end] = k.transpose(0, 1)
        held_v[:, start:end] = v.transpose(0, 1)
        return held_k[:, :end], held_v[:, :end]

    def _extend_ring(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        start, num_new, size = self.num_tokens, len(k), self._window_keys
        ring_k, ring_v = self._layers[layer]
        if num_new == 1:
            slot = start % size
            ring_k[:, slot] = k[0]
            ring_v[:, slot] = v[0]
            return (ring_k, ring_v) if start >= size else (ring_k[:, : start + 1], ring_v[:, : start + 1])
        shown = (_followed(ring_k, start, k), _followed(ring_v, start, v))
        kept = min(num_new, size)
        slots = torch.arange(start + num_new - kept, start + num_new) % size
        if num_new <= min(size, _MAX_UNDONE):
            self._overwritten[layer] = (ring_k[:, slots], ring_v[:, slots])  # indexing by a tensor copies
        ring_k[:, slots] = k[-kept:].transpose(0, 1)
        ring_v[:, slots] = v[-kept:].transpose(0, 1)
        return shown


def _storage(config: ModelConfig, window: bool, num_slots: int, dtype: torch.dtype) -> KeysValues:
    heads = config.heads(window)
    return (
        torch.empty(heads.num_kv_heads, num_slots, heads.qk_dim, dtype=dtype),
        torch.empty(heads.num_kv_heads, num_slots, heads.v_dim, dtype=dtype),
    )


def _grown(held: Tensor, num_tokens: int, num_slots: int) -> Tensor:
    grown = held.new_empty(held.shape[0], num_slots, held.shape[2])
    grown[:, :num_tokens] = held[:, :num_tokens]
    return grown


def _followed(ring: Tensor, num_tokens: int, new: Tensor) -> Tensor:
    """A ring's keys in order [G, S, D] and then the new tokens [T, G, D]."""
    size = ring.shape[1]
    if num_tokens <= size:
        return torch.cat((ring[:, :num_tokens], new.transpose(0, 1)), dim=1)
    oldest = num_tokens % size
    return torch.cat((ring[:, oldest:], ring[:, :oldest], new.transpose(0, 1)), dim=1)
