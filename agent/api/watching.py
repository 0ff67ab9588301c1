"""Follows the logs that somebody watches: each is read once, however many watch it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from agent.api.drafts import DraftFrame, DraftTail
from agent.api.schemas import LAST_EVENT, show_event
from agent.store.drafts import DraftPiece, Drafts
from agent.types import Event

_READ_S = 30.0
"""Longest single wait for events; longer silence is waited for again."""


class EventLog(Protocol):
    """What is asked of a store here."""

    reasoning: bool
    """Whether its events hold the model's reasoning: whoever may not see it follows another tail."""

    async def wait_for_events(self, task_id: str, *, after: int, timeout_s: float) -> tuple[Event, ...]: ...


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


class Tail:
    """The newest events of one log while it grows, for those who read as fast as it does."""

    def __init__(self, head: int, size: int, *, reasoning: bool) -> None:
        """
        Args:
            head: sequence number of the newest event there is; the tail holds what comes later.
            size: so many events are kept for readers who are not quite as fast.
            reasoning: whether drafts show it.
        """
        self.size = size
        self.num_watchers = 0
        self._base = self._head = head
        self._frames: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self._drafts = DraftTail(reasoning=reasoning)
        self._drafted = asyncio.Event()

    def lag(self, after: int) -> int:
        """How many events a reader who has had ``after`` is behind."""
        return max(0, self._head - after)

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
            while not (self._frames and self._frames[-1].last):
                self._extend(await log.wait_for_events(task_id, after=self._head, timeout_s=_READ_S))
        except Exception as error:  # noqa: BLE001 - raised again by each reader
            self._failure = error
            self._wake()

    def _extend(self, events: Iterable[Event]) -> None:
        for event in events:
            self._frames.append(frame(event))
            self._head = event.seq
            self._drafts.end(event)
        while len(self._frames) > self.size:
            self._base = self._frames.popleft().seq
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
