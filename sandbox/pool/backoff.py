"""When to leave a kind of sandbox alone: how long depends on why it failed."""

from dataclasses import dataclass, field
from enum import StrEnum

from sandbox.errors import ImageMismatch, SandboxError, UnknownImage
from sandbox.pool.plan import Key


class Cause(StrEnum):
    """Why a sandbox was not made."""

    IMAGE = "image"
    """The image is not there, or not the right one: nothing changes until somebody acts."""
    MACHINE = "machine"
    """It did not start, or did not serve."""


_FIRST_S = {Cause.IMAGE: 60.0, Cause.MACHINE: 2.0}
_LONGEST_S = {Cause.IMAGE: 600.0, Cause.MACHINE: 120.0}


def cause_of(error: SandboxError) -> Cause:
    return Cause.IMAGE if isinstance(error, UnknownImage | ImageMismatch) else Cause.MACHINE


@dataclass(slots=True)
class Backoff:
    """Rests of all kinds. Knows no clock."""

    threshold: int
    """Failures in a row before the first rest; a missing image rests at once."""
    _failures: dict[Key, int] = field(default_factory=dict)
    _until: dict[Key, float] = field(default_factory=dict)

    def failed(self, key: Key, cause: Cause, now: float) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        over = count - (1 if cause is Cause.IMAGE else self.threshold)
        if over >= 0:
            self._until[key] = now + min(_LONGEST_S[cause], _FIRST_S[cause] * 2 ** min(over, 30))

    def succeeded(self, key: Key) -> None:
        self._failures.pop(key, None)
        self._until.pop(key, None)

    def resting(self, now: float) -> frozenset[Key]:
        return frozenset(key for key, until in self._until.items() if now < until)
