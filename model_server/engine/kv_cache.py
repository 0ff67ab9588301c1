"""The memory for keys and values: who gets pages and rings, what is kept for later, and what leaves for it.

A sequence gets a ring and pages when it is admitted, more pages as it grows, and begins behind what its session or the
prefix tree has of its prompt. When pages run short, what is kept for later leaves first: leaves of the tree, then
caches of sessions between two requests. Which sequence must stop when that is not enough, the scheduler decides.
"""

import time
from array import array

from torch import Tensor

from model_server.engine.hidden_tail import HiddenTail
from model_server.engine.pages import PageAllocator, SlotAllocator
from model_server.engine.prefix_tree import Match, Node, PrefixTree, Snapshot
from model_server.engine.sequence import Sequence, SequenceCache, cache_of
from model_server.engine.session import Session, Sessions
from model_server.kernels.batch import PAGE, CachePools
from model_server.types import CacheStats

_LEAST_BRANCH = PAGE
"""Tokens that a snapshot where prompts part must spare the next one that comes by."""


class KVCache:
    """The scheduler's ``Memory``. Pages and slots are counted here; what lies in them only moves, never changes.

    There must be a ring slot for each running sequence, each snapshot and each session. A ring can go back
    ``num_undoable`` positions from the last one written (see ``kernels.batch.ring_size``). So many hidden states as
    ``num_hidden`` are kept beside each ring.
    """

    def __init__(
        self, pools: CachePools, num_undoable: int, max_snapshots: int, max_sessions: int, num_hidden: int
    ) -> None:
        self.pools = pools
        self._num_hidden = num_hidden
        self._pages = PageAllocator(len(pools.page_k))
        self._slots = SlotAllocator(len(pools.ring_k))
        self._tree = PrefixTree(self._pages, self._slots, max_snapshots, num_undoable)
        self._sessions = Sessions(max_sessions)
        self._page_bytes = pools.page_k[0].nbytes + pools.page_v[0].nbytes
        self._ring_bytes = pools.ring_k[0].nbytes + pools.ring_v[0].nbytes
        self._num_prompt_tokens = self._num_hit_tokens = self._num_preemptions = 0

    @property
    def max_tokens(self) -> int:
        """The longest sequence that fits when it is alone."""
        return self._pages.num_pages * PAGE

    def stats(self) -> CacheStats:
        """May be asked for on any thread."""
        return CacheStats(
            page_tokens=PAGE,
            pages=self._pages.num_pages,
            used_pages=self._pages.num_used,
            kept_pages=self._pages.num_used - self._pages.num_running,
            rings=self._slots.num_slots,
            used_rings=self._slots.num_used,
            snapshots=self._tree.num_snapshots,
            sessions=len(self._sessions),
            used_bytes=self._pages.num_used * self._page_bytes + self._slots.num_used * self._ring_bytes,
            prompt_tokens=self._num_prompt_tokens,
            hit_tokens=self._num_hit_tokens,
            preemptions=self._num_preemptions,
        )

    def admit(self, sequence: Sequence, headroom: int) -> bool:
        session = self._parked_session(sequence)
        if session is not None and session.cache is not None and _continues(sequence, session):
            return self._resume(sequence, session, session.cache, headroom)
        num_common, match = self._match(sequence)
        if self._begin(sequence, session, num_common, match, headroom):
            return True
        # What is matched stays in memory meanwhile, though the sequence may need the last page for itself.
        return match is not None and headroom == 0 and self._begin(sequence, session, num_common, None, headroom)

    def reserve(self, sequence: Sequence, num_new: int) -> bool:
        cache = cache_of(sequence)
        count = _num_pages(cache.num_tokens + num_new) - len(cache.pages)
        if count <= 0:
            return True
        if not self._make_free(count):
            self._let_go(cache)  # the prompt it began with leaves before anyone must stop
            if not self._make_free(count):
                return False
        cache.pages.extend(self._pages.take(count))
        return True

    def preempt(self, sequence: Sequence) -> None:
        self._num_preemptions += 1
        self._give_to_tree(sequence, cache_of(sequence))

    def remember(self, sequence: Sequence, before: int) -> None:
        """Where a snapshot is due after the tokens since ``before``, take one: another sequence may begin there."""
        cache = cache_of(sequence)
        is_due = cache.num_tokens == len(sequence.request.prompt_ids) or cache.has_stopped(before)
        if not is_due or not self._is_shared(sequence) or sequence.continues_session:
            return
        node = self._insert(sequence, cache)
        self._let_go(cache)
        cache.node = node
        if node.snapshot is None:
            slot = self._tree.take_slot()
            self._copy(cache.ring, slot, self.pools.ring_k, self.pools.ring_v)
            self._tree.attach(node, Snapshot(slot, cache.written, cache.hidden.until(cache.num_tokens)))

    def finish(self, sequence: Sequence) -> None:
        """Keep what an ended sequence has for those that continue it."""
        if sequence.session_id is None:
            self._give_to_tree(sequence, cache_of(sequence))
        else:
            self._park(sequence, cache_of(sequence))

    def cancel(self, sequence: Sequence) -> None:
        """Free what a sequence has that nobody waits for any more; its session keeps all of it."""
        if sequence.cache is None:
            return
        if sequence.session_id is None:
            self._free(sequence, sequence.cache)
        else:
            self._park(sequence, sequence.cache)

    def fail(self, sequence: Sequence) -> None:
        """Free what a sequence has whose step failed; its session keeps tokens and experts."""
        if sequence.cache is not None:
            self._free(sequence, sequence.cache)
        if sequence.session_id is not None and sequence.segment is not None:
            self._park(sequence, None)

    def drop_session(self, cache_salt: str, session_id: str) -> bool:
        """Forget a session, unless it is in use. False if there is none."""
        session = self._sessions.take((cache_salt, session_id))
        self._free_parked(None if session is None else session.cache)
        return session is not None

    def drop_idle_sessions(self, before: float) -> None:
        """Forget those that were not used since then, on the monotonic clock."""
        while (session := self._sessions.take_idle(before)) is not None:
            self._free_parked(session.cache)

    def flush(self) -> None:
        """Forget what is kept for later; of sessions, tokens and experts stay."""
        self._tree.clear()
        while self._give_up_session(None):
            pass

    def outdate(self) -> None:
        """The weights have changed: of sessions only tokens stay."""
        self.flush()
        for session in self._sessions:
            session.routes = session.routes.none()

    def _resume(self, sequence: Sequence, session: Session, cache: SequenceCache, headroom: int) -> bool:
        """Let a sequence go on with the cache of its session."""
        count = _num_at_first(sequence) - len(cache.pages)
        if not self._make_free(max(count, 0) + headroom, spared=session):
            return False
        self._pages.hold(cache.pages, running=True)
        self._pages.release(cache.pages, running=False)
        self._enter(sequence, session)
        self._start(sequence, cache)
        return True

    def _begin(
        self, sequence: Sequence, session: Session | None, num_common: int, match: Match | None, headroom: int
    ) -> bool:
        """Let a sequence begin behind what is matched."""
        num_full = 0
        if match is not None:
            num_full = match.num_tokens // PAGE
            self._tree.lock(match.node)
            self._pages.hold(match.pages, running=True)
        if not self._make_free(_num_at_first(sequence) - num_full + headroom):
            if match is not None:
                self._pages.release(match.pages, running=True)
                self._tree.unlock(match.node)
            return False
        self._enter(sequence, session)
        cache = self._opened(sequence, match)
        if num_common - cache.num_tokens >= _LEAST_BRANCH:
            cache.branch = num_common
        self._start(sequence, cache)
        return True

    def _opened(self, sequence: Sequence, match: Match | None) -> SequenceCache:
        slot = self._slots.take()
        assert slot is not None
        if match is None:
            return SequenceCache(array("i"), slot, num_tokens=0, written=0, hidden=HiddenTail(self._num_hidden))
        pages = array("i", match.pages)
        if match.num_tokens % PAGE:
            (own,) = self._pages.take(1)
            self._copy(pages[-1], own, self.pools.page_k, self.pools.page_v)
            self._pages.release(pages[-1:], running=True)
            pages[-1] = own
        self._copy(match.snapshot.slot, slot, self.pools.ring_k, self.pools.ring_v)
        sequence.routes.record(0, match.experts.numpy())
        hidden = match.snapshot.hidden.until(match.num_tokens)
        return SequenceCache(pages, slot, match.num_tokens, match.snapshot.written, hidden, match.node)

    def _start(self, sequence: Sequence, cache: SequenceCache) -> None:
        cache.pages.extend(self._pages.take(max(_num_at_first(sequence) - len(cache.pages), 0)))
        sequence.cache = cache
        if sequence.cached_tokens is None:
            sequence.cached_tokens = cache.num_tokens
        self._num_prompt_tokens += len(sequence.ids)
        self._num_hit_tokens += cache.num_tokens

    def _match(self, sequence: Sequence) -> tuple[int, Match | None]:
        if not self._is_shared(sequence):
            return 0, None
        first_scored = sequence.first_scored  # must be run, as the newest token must
        known = sequence.ids if first_scored is None else sequence.ids[: first_scored + 1]
        return self._tree.match(sequence.request.cache_salt, known)

    def _is_shared(self, sequence: Sequence) -> bool:
        """Whether it reads from the tree and writes to it: its keys and values are those of any other with its
        tokens."""
        return self._tree.has_room and sequence.request.forced_experts is None

    def _make_free(self, count: int, spared: Session | None = None) -> bool:
        """See to it that so many pages are free. If that cannot be, nothing is given up for it."""
        if count > self._pages.num_pages - self._pages.num_running:
            return False
        while self._pages.num_free < count:
            if not self._tree.evict_leaf() and not self._give_up_session(spared):
                return False
        return True

    def _give_up_session(self, spared: Session | None) -> bool:
        cache = self._sessions.give_up_cache(spared)
        self._free_parked(cache)
        return cache is not None

    def _insert(self, sequence: Sequence, cache: SequenceCache) -> Node:
        """The tree's node for what the sequence has computed, locked."""
        ids = sequence.ids[: cache.num_tokens]
        return self._tree.insert(sequence.request.cache_salt, ids, cache.pages, sequence.routes)

    def _give_to_tree(self, sequence: Sequence, cache: SequenceCache) -> None:
        """Keep what can be continued by others, and take everything from the sequence. Its ring becomes a snapshot."""
        if not self._is_shared(sequence) or not cache.num_tokens:
            self._free(sequence, cache)
            return
        node = self._insert(sequence, cache)
        if node.snapshot is None:
            self._tree.attach(node, Snapshot(cache.ring, cache.written, cache.hidden.until(cache.num_tokens)))
        else:
            self._slots.release(cache.ring)
        self._pages.release(cache.pages, running=True)
        self._let_go(cache)
        self._tree.unlock(node)
        sequence.cache = None

    def _free(self, sequence: Sequence, cache: SequenceCache) -> None:
        self._pages.release(cache.pages, running=True)
        self._slots.release(cache.ring)
        self._let_go(cache)
        sequence.cache = None

    def _free_parked(self, cache: SequenceCache | None) -> None:
        if cache is not None:
            self._pages.release(cache.pages, running=False)
            self._slots.release(cache.ring)

    def _let_go(self, cache: SequenceCache) -> None:
        if cache.node is not None:
            self._tree.unlock(cache.node)
            cache.node = None

    def _parked_session(self, sequence: Sequence) -> Session | None:
        """The session of a sequence that has not been admitted before."""
        if sequence.session_id is None or sequence.segment is not None:
            return None
        return self._sessions.find((sequence.request.cache_salt, sequence.session_id))

    def _enter(self, sequence: Sequence, session: Session | None) -> None:
        """Make a session's text the sequence's own when that is admitted first, or begin a new segment."""
        if sequence.session_id is None or sequence.segment is not None:
            return
        sequence.segment = 0
        if session is None:
            return
        self._sessions.take((sequence.request.cache_salt, sequence.session_id))
        sequence.continues_session = _continues(sequence, session)
        sequence.segment = session.segment
        if sequence.continues_session:
            session.routes.record(0, sequence.routes.view(0).numpy())
            sequence.routes = session.routes
        else:
            sequence.segment += 1
            self._free_parked(session.cache)

    def _park(self, sequence: Sequence, cache: SequenceCache | None) -> None:
        """Keep a sequence for the next request of its session."""
        assert sequence.session_id is not None
        assert sequence.segment is not None
        if cache is not None:
            self._let_go(cache)
            self._pages.hold(cache.pages, running=False)
            self._pages.release(cache.pages, running=True)
        session = Session(sequence.ids, sequence.routes, sequence.segment, cache, parked_at=time.monotonic())
        for leaving in self._sessions.park((sequence.request.cache_salt, sequence.session_id), session):
            self._free_parked(leaving)
        sequence.cache = None

    def _copy(self, source: int, target: int, *pools: Tensor) -> None:
        for pool in pools:
            pool[target].copy_(pool[source])


def _continues(sequence: Sequence, session: Session) -> bool:
    """Whether a prompt begins with all tokens of the session."""
    return sequence.ids[: len(session.ids)] == session.ids


def _num_at_first(sequence: Sequence) -> int:
    """Pages for the prompt, or what a sequence has when it is resumed, and the step after it."""
    return _num_pages(min(len(sequence.ids) + 1, sequence.most_cached))


def _num_pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE)
