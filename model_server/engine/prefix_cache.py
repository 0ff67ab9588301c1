"""Caches of finished sequences, kept for the prompt that continues them.

An agent sends its whole history with every step; continuing the cache of the step before saves computing it again.
Rings hold only the last keys, so a cache can be continued exactly at two points: at its end, where the prompt begins
with all its tokens, and at its mark, the end of its own prompt, where the prompt departs from what was sampled (a text
may be tokenised in more ways than one). It is handed over, not shared, so no two sequences ever write to one cache.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from model_server.engine.kv_cache import SequenceCache


@dataclass(frozen=True, slots=True)
class _Kept:
    ids: tuple[int, ...]
    cache: SequenceCache


class PrefixCache:
    """At most ``capacity`` caches; the one kept longest ago leaves first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._next_key = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        return sum(kept.cache.num_bytes for kept in self._kept.values())

    def keep(self, ids: Sequence[int], cache: SequenceCache) -> None:
        """Keep a cache that holds the first ``cache.num_tokens`` of ``ids``."""
        if cache.num_tokens == 0 or self._capacity == 0:
            return
        self._kept[self._next_key] = _Kept(tuple(ids[: cache.num_tokens]), cache)
        self._next_key += 1
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def take(self, prompt: Sequence[int]) -> SequenceCache | None:
        """Hand over the cache that spares ``prompt`` most; at least its last token is left, which gives the logits."""
        ids = tuple(prompt)
        spared = {key: _num_spared(kept, ids) for key, kept in self._kept.items()}
        best = max(spared, key=spared.__getitem__, default=None)
        if best is None or spared[best] == 0:
            return None
        cache = self._kept.pop(best).cache
        if cache.num_tokens != spared[best]:
            cache.rewind()
        return cache


def _num_spared(kept: _Kept, prompt: tuple[int, ...]) -> int:
    for num_tokens in (len(kept.ids), kept.cache.marked_tokens):
        if num_tokens < len(prompt) and prompt[:num_tokens] == kept.ids[:num_tokens]:
            return num_tokens
    return 0
