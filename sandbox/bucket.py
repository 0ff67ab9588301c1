"""A token bucket: so many a second on average, so many at once at most."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Knows no clock: every question says what time it is, in seconds, never earlier than the one before."""

    per_s: float
    burst: float
    _tokens: float = -1.0
    _asked_at: float = 0.0

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def tokens(self, now: float) -> float:
        """What may be taken at once; below 0 after :meth:`charge` took more than there was."""
        self._tokens = min(self.burst, self._tokens + (now - self._asked_at) * self.per_s)
        self._asked_at = now
        return self._tokens

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        if self.tokens(now) < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True

    def charge(self, now: float, count: int = 1) -> None:
        """Take tokens whether or not they are there: what happened anyway slows down what comes later."""
        self.tokens(now)
        self._tokens -= count

    def wait_s(self, now: float) -> float:
        """How long until one token is there."""
        return max(0.0, 1 - self.tokens(now)) / self.per_s
