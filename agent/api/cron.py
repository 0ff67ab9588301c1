"""Submits the tasks of schedules when they are due."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from agent.api.context import Services
from agent.api.metrics import ScheduleOutcome, ScheduleReason
from agent.api.repos import resolved
from agent.errors import AgentError, RepositoryError
from agent.store.schedules import Due

_logger = logging.getLogger(__name__)

_IDLE_S = 2.0
_AT_ONCE = 16
_LEASE_S = 120.0
"""A process that takes longer to look at a repository has died, and another one looks."""


class Cron:
    """Looks for what is due. Any number may run over one store."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def run(self) -> None:
        """Submit until cancelled."""
        while True:
            try:
                num_served = await self._serve_due()
            except Exception:  # The outermost loop: a database that is away comes back.
                _logger.exception("action=look_failed")
                num_served = 0
            if not num_served:
                await asyncio.sleep(_IDLE_S)

    async def drain(self) -> int:
        """Serve what is due now, each once; how many that were."""
        num_served = 0
        while served := await self._serve_due():
            num_served += served
        return num_served

    async def _serve_due(self) -> int:
        due = await self._services.schedules.take_due(_AT_ONCE, timedelta(seconds=_LEASE_S))
        await asyncio.gather(*map(self._serve, due))
        return len(due)

    async def _serve(self, due: Due) -> None:
        """A schedule that cannot be served does not keep the others; it is looked at again when the lease is over."""
        telemetry = self._services.telemetry
        try:
            if telemetry is None:
                await self._submit(due, lambda: None)
                return
            with telemetry.schedule(due.id) as within:
                await self._submit(due, partial(telemetry.begin_trace, "schedule", within))
        except AgentError:
            self._services.metrics.scheduled("failed", "service")
            _logger.exception("action=serve_failed schedule=%s", due.id)

    async def _submit(self, due: Due, trace: Callable[[], str | None]) -> None:
        """
        Args:
            trace: what the runs of the task are within.
        """
        schedules = self._services.schedules
        try:
            request = await resolved(self._services, due.project_id, due.task, any_path=due.any_path)
        except RepositoryError as error:
            if await schedules.refuse(due, str(error)):
                self._services.metrics.scheduled("failed", "repository")
                _logger.warning("action=refuse schedule=%s error=%r", due.id, str(error))
            return
        served = await schedules.submit(due, request, traceparent=trace())
        if served is None or served.outcome == "waits":
            return
        self._services.metrics.scheduled(*_COUNTED[served.outcome])
        _logger.info("action=%s schedule=%s task=%s", served.outcome, due.id, served.task_id)


_COUNTED: dict[str, tuple[ScheduleOutcome, ScheduleReason]] = {
    "started": ("started", "due"),
    "replaced": ("started", "replaced"),
    "skipped": ("skipped", "overlap"),
}
