"""How many requests a subject may make: a bucket of tokens each, refilled all the time.

Answers say where a caller stands in the fields of the IETF's draft "RateLimit header fields for HTTP"
(draft-ietf-httpapi-ratelimit-headers): ``RateLimit-Policy`` and ``RateLimit``.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api.problems import Problem

WINDOW_S = 60
_MOST_SUBJECTS = 10_000
"""Buckets that are kept; whoever was away longest gets a full one again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a subject stands after a request."""

    quota: int
    """Requests in a window."""
    remaining: int
    """Requests that would be let through now."""
    full_s: int
    """Until all of the quota is there again, s."""
    retry_after_s: int | None
    """None where the request was let through; else when the next one will be, s."""

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Policy": f'"requests";q={self.quota};w={WINDOW_S}',
            "RateLimit": f'"requests";r={self.remaining};t={self.full_s}',
        }


class Rates:
    """The buckets of all subjects, in this process alone: of several processes each counts by itself."""

    def __init__(self, quota: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            quota: requests a minute; so many may also come at once.
        """
        self.quota = quota
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, subject: str) -> Standing:
        """Count one request."""
        now = self._clock()
        level, since = self._buckets.pop(subject, (float(self.quota), now))
        level = min(self.quota, level + (now - since) * self._per_second)
        allowed = level >= 1
        level -= allowed
        self._buckets[subject] = (level, now)
        if len(self._buckets) > _MOST_SUBJECTS:
            self._buckets.popitem(last=False)
        return Standing(
            quota=self.quota,
            remaining=math.floor(level),
            full_s=math.ceil((self.quota - level) / self._per_second),
            retry_after_s=None if allowed else math.ceil((1 - level) / self._per_second),
        )

    @property
    def _per_second(self) -> float:
        return self.quota / WINDOW_S


def too_many(standing: Standing) -> Problem:
    """The answer to a request that was not let through."""
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too_many_requests",
        f"More than {standing.quota} requests came in {WINDOW_S} s.",
        remedy="Wait as long as the Retry-After header says, s; watch a task by its event stream instead of asking.",
        headers={"Retry-After": str(standing.retry_after_s)},
    )


class RateHeaders:
    """Puts the standing that a route left in the request's state on its answer, whatever the answer is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            standing = scope.get("state", {}).get("standing")
            if message["type"] == "http.response.start" and isinstance(standing, Standing):
                MutableHeaders(scope=message).update(standing.headers)
            await send(message)

        await self._app(scope, receive, stamped)
