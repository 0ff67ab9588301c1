"""Follows the logs that somebody watches: each is read once, however many watch it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import accumulate, islice, takewhile
from typing import Protocol

from agent.api.drafts import DraftFrame, DraftTail
from agent.api.schemas import LAST_EVENT, show_event
from agent.store.drafts import DraftPiece, Drafts
from agent.types import Event

_READ_S = 30.0
"""Longest single wait for events; longer silence is waited for again."""

MOST_KEPT_BYTES = 4 * 1024 * 1024
"""Of a log that is watched: a run that writes large events costs the service no more than others."""

PART = 64
"""Most events that are read or written at once."""
FIRST_PART = 8
"""As many at first: how large a log's events are shows then."""
_PART_BYTES = 64 * 1024
"""More only where a single event has more: what is written to a reader who takes nothing is all it costs."""


class EventLog(Protocol):
    """What is asked of a store here."""

    reasoning: bool
    """Whether its events hold the model's reasoning: whoever may not see it follows another tail."""

    async def wait_for_events(self, task_id: str, *, after: int, timeout_s: float, limit: int) -> tuple[Event, ...]: ...


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as it is sent, made once for all who get it."""

    seq: int
    type: str
    text: bytes
    last: bool
    """No event comes after this one."""


def frame(event: Event) -> Frame:
    """A server-sent event whose id is the event's place in the log."""
    data = show_event(event).model_dump_json()
    text = f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
    return Frame(event.seq, event.type, text.encode(), event.type == LAST_EVENT)


def fitting(frames: Sequence[Frame]) -> Sequence[Frame]:
    """As many of the first as are read or written at once."""
    ends = accumulate(len(each.text) for each in frames[:PART])
    return frames[: max(1, sum(1 for _ in takewhile(lambda end: end <= _PART_BYTES, ends)))]


class Tail:
    """The newest events of one log while it grows, for those who read as fast as it does."""

    def __init__(self, head: int, size: int, *, reasoning: bool) -> None:
        """
        Args:
            head: sequence number of the newest event there is; the tail holds what comes later.
            size: so many events are kept for readers who are not quite as fast, as far as they are no more than
                ``MOST_KEPT_BYTES``.
            reasoning: whether drafts show it.
        """
        self.size = size
        self.num_watchers = 0
        self._base = self._head = head
        self._frames: deque[Frame] = deque()
        self._num_bytes = 0
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self._drafts = DraftTail(reasoning=reasoning)
        self._drafted = asyncio.Event()

    def lag(self, after: int) -> int:
        """How many events a reader who has had ``after`` is behind."""
        return max(0, self._head - after)

    def share_behind(self, after: int) -> float:
        """How much of what is kept a reader who has had ``after`` is behind."""
        num_bytes = sum(len(each.text) for each in islice(reversed(self._frames), self.lag(after)))
        return max(self.lag(after) / self.size, num_bytes / MOST_KEPT_BYTES)

    def since(self, after: int) -> Sequence[Frame] | None:
        """What follows ``after``; None where the tail does not reach back so far."""
        if self._failure is not None:
            raise self._failure
        if after < self._base:
            return None
        # A log has no holes, so the newest are as many as the reader is behind: one who keeps up costs no search.
        return tuple(islice(reversed(self._frames), self.lag(after)))[::-1]

    def drafts_since(self, number: int) -> Sequence[DraftFrame]:
        """What is being written, after the piece of this number."""
        return self._drafts.since(number)

    def hear(self, piece: DraftPiece) -> None:
        if self._drafts.take(piece):
            self._drafted.set()
            self._drafted = asyncio.Event()

    async def wait(self, timeout_s: float, *, drafts: bool) -> None:
        """Return when there is something new, at the latest after ``timeout_s``.

        Args:
            drafts: whether a piece of a draft is something.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await (self._drafted if drafts else self._changed).wait()

    async def follow(self, log: EventLog, task_id: str) -> None:
        """Read until the log ends. What goes wrong is told to every reader."""
        try:
            most = FIRST_PART
            while not (self._frames and self._frames[-1].last):
                events = await log.wait_for_events(task_id, after=self._head, timeout_s=_READ_S, limit=most)
                part = fitting(tuple(map(frame, events)))
                self._extend(part, events)
                # What did not fit is read again.
                most = min(2 * (most if len(part) == len(events) else len(part)), PART)
        except Exception as error:  # noqa: BLE001 - raised again by each reader
            self._failure = error
            self._wake()

    def _extend(self, frames: Sequence[Frame], events: Sequence[Event]) -> None:
        for each, event in zip(frames, events, strict=False):
            self._frames.append(each)
            self._num_bytes += len(each.text)
            self._head = each.seq
            self._drafts.end(event)
        while len(self._frames) > self.size or (self._num_bytes > MOST_KEPT_BYTES and len(self._frames) > 1):
            oldest = self._frames.popleft()
            self._base = oldest.seq
            self._num_bytes -= len(oldest.text)
        self._wake()

    def _wake(self) -> None:
        for woken in (self._changed, self._drafted):
            woken.set()
        self._changed, self._drafted = asyncio.Event(), asyncio.Event()


class Watching:
    """The tails of all logs that are watched now."""

    def __init__(self, size: int = 256) -> None:
        """
        Args:
            size: events that are kept of each log.
        """
        self._size = size
        self._tails: dict[tuple[str, bool], Tail] = {}
        self._readers: dict[tuple[str, bool], asyncio.Future[None]] = {}

    @asynccontextmanager
    async def tail(self, log: EventLog, task_id: str, head: int, drafts: Drafts | None = None) -> AsyncIterator[Tail]:
        """The tail of a task's log, which is followed as long as anybody has it.

        Args:
            head: sequence number of the newest event, as far as the caller knows.
            drafts: where they come from, for a caller who wants them too.
        """
        key = (task_id, log.reasoning)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(head, self._size, reasoning=log.reasoning)
            self._readers[key] = asyncio.ensure_future(tail.follow(log, task_id))
        tail.num_watchers += 1
        try:
            async with drafts.listening(task_id, tail.hear) if drafts else nullcontext():
                yield tail
        finally:
            tail.num_watchers -= 1
            if not tail.num_watchers:
                del self._tails[key]
                self._readers.pop(key).cancel()
