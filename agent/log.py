"""Where the loop writes what happens: a small protocol, and the log that lives in memory."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from agent.types import Event

Entry = tuple[str, dict[str, Any]]
"""Type and body of an event that is not stored yet."""


class Log(Protocol):
    """The events of one run. An event that ``extend`` returned is stored; nothing is ever changed or removed."""

    @property
    def events(self) -> Sequence[Event]:
        """Every event of this run so far, oldest first, also those of earlier workers."""

    async def extend(self, entries: Sequence[Entry]) -> Sequence[Event]:
        """Store some events, all or none.

        Raises:
            LeaseLost: another worker owns the run.
        """


class MemoryLog:
    """A log that ends with the process: tests, and callers that keep nothing."""

    def __init__(
        self,
        task_id: str = "task_local",
        run_id: str = "run_local",
        events: Sequence[Event] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._task_id = task_id
        self._run_id = run_id
        self._events = list(events)
        self._now = now

    @property
    def events(self) -> Sequence[Event]:
        return self._events

    async def extend(self, entries: Sequence[Entry]) -> Sequence[Event]:
        return [await self.append(*entry) for entry in entries]

    async def append(self, type: str, body: dict[str, Any]) -> Event:  # noqa: A002 - the field's name
        event = Event(
            task_id=self._task_id,
            seq=len(self._events) + 1,
            run_id=self._run_id,
            generation=1,
            type=type,
            body=body,
            at=self._now(),
        )
        self._events.append(event)
        return event
