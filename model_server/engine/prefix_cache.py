"""Caches of finished sequences, kept for the prompt that continues them.

An agent sends its whole history with every step; continuing the cache of the step before saves computing it again.
A kept cache serves a prompt that begins with *all* its tokens: rings hold only the last keys, so nothing shorter could
be continued exactly. It is handed over, not shared, so no two sequences ever write to one cache.
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
        """Hand over the longest cache that ``prompt`` extends by at least one token, which gives the logits."""
        fitting = [
            key
            for key, kept in self._kept.items()
            if len(kept.ids) < len(prompt) and tuple(prompt[: len(kept.ids)]) == kept.ids
        ]
        if not fitting:
            return None
        best = max(fitting, key=lambda key: len(self._kept[key].ids))
        return self._kept.pop(best).cache
