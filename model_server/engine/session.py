"""Conversations that continue their own cache.

A session keeps, from one request to the next, the tokens, the experts they used, and as long as there is room their
pages and ring. What the pages held can be computed again, under the same experts; so the experts of a session's tokens
are always those they were sampled under, until the weights change.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from model_server.engine.routes import Routes
from model_server.engine.sequence import SequenceCache

SessionKey = tuple[str, str]
"""Salt and name."""


@dataclass(slots=True)
class Session:
    """A conversation between two requests."""

    ids: "array[int]"
    routes: Routes
    """Experts of all its tokens but the last."""
    segment: int
    """Prompts, so far, that did not begin with all tokens before."""
    cache: SequenceCache | None
    """None once its memory was needed."""
    parked_at: float
    """On the monotonic clock, s."""


class Sessions:
    """At most ``capacity``; the one used longest ago leaves first. A session in use is not here. May be counted on any
    thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._parked: OrderedDict[SessionKey, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._parked)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._parked.values())

    def find(self, key: SessionKey) -> Session | None:
        return self._parked.get(key)

    def take(self, key: SessionKey) -> Session | None:
        """Hand over a session, which is then in use."""
        return self._parked.pop(key, None)

    def park(self, key: SessionKey, session: Session) -> list[SequenceCache]:
        """Keep it for its next request; returns the caches to free in exchange."""
        before = self._parked.pop(key, None)
        self._parked[key] = session
        leaving = [] if before is None else [before]
        while len(self._parked) > self._capacity:
            leaving.append(self._parked.popitem(last=False)[1])
        return [session.cache for session in leaving if session.cache is not None]

    def take_idle(self, before: float) -> Session | None:
        """Hand over a session that was not used since then, if there is any."""
        for key, session in self._parked.items():  # the one used longest ago is the first
            return self._parked.pop(key) if session.parked_at < before else None
        return None

    def give_up_cache(self, spared: Session | None = None) -> SequenceCache | None:
        """The cache used longest ago, if there is any; its session keeps tokens and experts."""
        for session in self._parked.values():
            if session.cache is not None and session is not spared:
                cache, session.cache = session.cache, None
                return cache
        return None
