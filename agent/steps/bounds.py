"""What ends a run, or makes it wait, whatever its agent does: the user's word, the clock, the budget."""

import asyncio
import math
import time
from collections.abc import Coroutine
from itertools import takewhile
from typing import TypeVar

from agent.budget import in_sandbox, left, reached, worked
from agent.config import Prices
from agent.inbox import Inbox
from agent.steps.ends import Parked, Stopped
from agent.steps.record import Record
from agent.types import Limits, StopReason, TaskRequest, WaitingOn

_T = TypeVar("_T")


class Bounds:
    """Those of one run."""

    def __init__(self, task: TaskRequest, inbox: Inbox, record: Record, prices: Prices | None) -> None:
        self._task = task
        self._inbox = inbox
        self._record = record
        self._prices = prices
        self._worked_s = worked(record.events).total_seconds()
        """Before this: by earlier workers, and to set the run up."""
        self._in_sandbox_s = in_sandbox(record.events).total_seconds()
        """Before this, with other workers."""
        # The machine's clock may be set while the run goes on; that must neither end it nor give it more time.
        self._begun = time.monotonic()

    def check(self) -> None:
        """Between two steps.

        Raises:
            Stopped, Parked: there is no further step now.
        """
        if self._inbox.cancelled.is_set():
            raise _cancelled()
        if self._inbox.paused:
            raise Parked(None)
        if self._inbox.overspent:
            raise Parked(WaitingOn.QUOTA, detail=self._inbox.overspent)
        done = self._record.steps
        num_failed = sum(1 for _ in takewhile(lambda step: step.failed, reversed(done)))
        if limit := reached(self._limits, len(done), num_failed, self._record.spent, self._prices):
            raise self._at_limit(*limit)
        if self._seconds_left() <= 0:
            raise self._too_late()

    def left(self, max_steps: int) -> Limits:
        """What a part of the run may still use, in so many steps at most."""
        return left(self._limits, self._record.spent, self._prices, max_steps=max_steps, seconds=self._seconds_left())

    async def unless_stopped(self, work: Coroutine[None, None, _T]) -> _T:
        """The work's result, unless the user cancels or the time is over first; the work is then cancelled too."""
        result = await self.unless(asyncio.Event(), work)
        assert result is not None
        return result

    async def unless(self, ended: asyncio.Event, work: Coroutine[None, None, _T]) -> _T | None:
        """As :meth:`unless_stopped`, and None where ``ended`` is set first."""
        if self._inbox.cancelled.is_set():
            work.close()
            raise _cancelled()
        working = asyncio.ensure_future(work)
        ends = {asyncio.ensure_future(event.wait()) for event in (self._inbox.cancelled, ended)}
        try:
            await asyncio.wait({working, *ends}, timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if self._inbox.cancelled.is_set():
                raise _cancelled()
            if ended.is_set():
                return None
            raise self._too_late()
        finally:
            working.cancel()
            for end in ends:
                end.cancel()
            await asyncio.wait({working, *ends})
            if not working.cancelled():
                working.exception()  # marks it as seen where it came too late to matter

    @property
    def _limits(self) -> Limits:
        return self._inbox.raised(self._task.limits)

    def _seconds_left(self) -> float:
        return max(0.0, min(self._of_clock(), self._of_sandbox()))

    def _of_clock(self) -> float:
        """Left of the run as a whole, s: earlier workers' time counts, that of waiting does not."""
        return self._limits.wall_clock_s - self._worked_s - (time.monotonic() - self._begun)

    def _of_sandbox(self) -> float:
        """Left of the sandbox's life, s."""
        lifetime_s = self._limits.sandbox_lifetime_s
        return math.inf if lifetime_s is None else lifetime_s - self._in_sandbox_s - (time.monotonic() - self._begun)

    def _too_late(self) -> Exception:
        limits = self._limits
        if self._of_sandbox() < self._of_clock():
            detail = f"the sandbox is as old as it may become, {limits.sandbox_lifetime_s:g} s"
            return self._at_limit(StopReason.SANDBOX_LIFETIME, detail)
        return self._at_limit(StopReason.WALL_CLOCK, f"the limit of {limits.wall_clock_s:g} s is reached")

    def _at_limit(self, reason: StopReason, detail: str) -> Exception:
        """The end of the run, or a wait where somebody may raise the limit."""
        if self._task.on_limit == "stop":
            return Stopped(reason, detail)
        return Parked(WaitingOn.BUDGET, stop_reason=reason, detail=detail)


def _cancelled() -> Stopped:
    return Stopped(StopReason.CANCELLED, "cancelled by the user")
