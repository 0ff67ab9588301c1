"""The log of a claimed run, in the store."""

from collections.abc import Callable, Sequence
from typing import Any

from agent.events import RunStopped, VerdictReached
from agent.log import Entry
from agent.store.base import Claim, Store
from agent.trajectory import standing
from agent.types import Event, Verdict


class StoreLog:
    """An :class:`agent.log.Log` written under a lease; it also answers what the orchestrator asks of a log."""

    def __init__(self, store: Store, claim: Claim, on_event: Callable[[Event], None] | None = None) -> None:
        """
        Args:
            on_event: hears of every event that was stored.
        """
        self._store = store
        self._run_id = claim.run_id
        self._generation = claim.generation
        self._events = list(standing(claim.events))
        self._on_event = on_event

    @property
    def events(self) -> Sequence[Event]:
        return self._events

    async def append(self, type: str, body: dict[str, Any]) -> Event:  # noqa: A002 - the field's name
        return (await self.extend([(type, body)]))[0]

    async def extend(self, entries: Sequence[Entry]) -> Sequence[Event]:
        events = await self._store.extend(self._run_id, self._generation, entries)
        self._events.extend(events)
        if self._on_event:
            for event in events:
                self._on_event(event)
        return events

    @property
    def stopped(self) -> RunStopped | None:
        """Why the agent stopped; None while it has not."""
        event = self._last("run.stopped")
        return RunStopped.model_validate(event.body) if event else None

    @property
    def verdict(self) -> Verdict | None:
        """What the checks proved; None while it is not known."""
        event = self._last("verdict.reached")
        return VerdictReached.model_validate(event.body).verdict if event else None

    @property
    def num_sandboxes_lost(self) -> int:
        return sum(event.type == "sandbox.lost" for event in self._events)

    def _last(self, kind: str) -> Event | None:
        return next((event for event in reversed(self._events) if event.type == kind), None)


def num_fruitless_claims(events: Sequence[Event]) -> int:
    """How often, up to now, a worker took the run and vanished before a step was complete."""
    count = 0
    for event in reversed(events):
        match event.type:
            case "step.completed" | "run.released" | "run.parked":
                break
            case "run.claimed":
                count += 1
    return count
