"""Asking a second time for what takes unusually long. Only for what changes nothing."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

_KEPT = 200
_UNUSUAL = 0.95
_FEW = 20
"""With fewer known than this, only the floor counts."""


@dataclass(slots=True)
class HedgeDelay:
    """When a read counts as unusually long: what 95% of the last ones took, so that at most one in 20 is asked twice.

    Where all become slow at once, the delay has followed after the next few reads.
    """

    floor_s: float
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def observe(self, took_s: float) -> None:
        self._took.append(took_s)

    @property
    def seconds(self) -> float:
        if len(self._took) < _FEW:
            return self.floor_s
        return max(self.floor_s, sorted(self._took)[int(_UNUSUAL * len(self._took))])


async def hedged(ask: Callable[[], Awaitable[T]], after_s: float) -> tuple[T, bool]:
    """The first answer, and whether ``ask`` was called twice. Whichever is late is cancelled; an error is an answer."""
    asked = [asyncio.ensure_future(ask())]
    try:
        done, _ = await asyncio.wait(asked, timeout=after_s)
        if not done:
            asked.append(asyncio.ensure_future(ask()))
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        return next(each for each in asked if each in done).result(), len(asked) > 1
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
