"""When to leave a kind of sandbox alone: how long depends on why it failed."""

from dataclasses import dataclass, field
from enum import StrEnum

from sandbox.errors import ImageMismatch, NoRoom, SandboxError, UnknownImage
from sandbox.pool.plan import Key


class Cause(StrEnum):
    """Why a sandbox was not made."""

    IMAGE = "image"
    """The image is not there, or not the right one: nothing changes until somebody acts."""
    ROOM = "room"
    """There is no room now; somebody else has to end something first."""
    MACHINE = "machine"
    """It did not start, or did not serve."""


_FIRST_S = {Cause.IMAGE: 60.0, Cause.ROOM: 1.0, Cause.MACHINE: 2.0}
_LONGEST_S = {Cause.IMAGE: 600.0, Cause.ROOM: 30.0, Cause.MACHINE: 120.0}


def cause_of(error: SandboxError) -> Cause:
    match error:
        case UnknownImage() | ImageMismatch():
            return Cause.IMAGE
        case NoRoom():
            return Cause.ROOM
        case _:
            return Cause.MACHINE


@dataclass(slots=True)
class Backoff:
    """Rests of all kinds. Knows no clock."""

    threshold: int
    """Failures of machines in a row before the first rest; the other causes rest at once."""
    _failures: dict[Key, int] = field(default_factory=dict)
    _until: dict[Key, float] = field(default_factory=dict)

    def failed(self, key: Key, cause: Cause, now: float) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        over = count - (self.threshold if cause is Cause.MACHINE else 1)
        if over >= 0:
            self._until[key] = now + min(_LONGEST_S[cause], _FIRST_S[cause] * 2 ** min(over, 30))

    def succeeded(self, key: Key) -> None:
        self._failures.pop(key, None)
        self._until.pop(key, None)

    def resting(self, now: float) -> frozenset[Key]:
        return frozenset(key for key, until in self._until.items() if now < until)
