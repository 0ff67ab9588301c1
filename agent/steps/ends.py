"""How a run ends, or comes to wait: raised from wherever that shows, and caught by the loop."""

from dataclasses import dataclass
from typing import Any, Literal

from agent.types import Status, StopReason, WaitingOn


@dataclass(frozen=True, slots=True)
class Wait:
    """The run goes on once the user has said something. Until then it needs no worker and no sandbox."""

    status: Literal[Status.WAITING, Status.PAUSED]
    waiting_on: WaitingOn | None
    """None for a paused run."""
    body: dict[str, Any]
    """What it is about."""


class Stopped(Exception):
    """The run is over."""

    def __init__(self, reason: StopReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Parked(Exception):
    """The run waits, as :attr:`wait` says."""

    def __init__(self, waiting_on: WaitingOn | None, **body: Any) -> None:
        super().__init__(waiting_on)
        self.wait = Wait(Status.WAITING if waiting_on else Status.PAUSED, waiting_on, body)
