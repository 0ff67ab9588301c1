"""Owns runs: claims them, keeps their leases, lets go of them."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from agent.errors import LeaseLost
from agent.inbox import Inbox
from agent.orchestrator.log import num_fruitless_claims
from agent.orchestrator.runner import Runner
from agent.store.base import Claim, RunResult, Store
from agent.types import Status

MAX_FRUITLESS_CLAIMS = 5
"""A run that took so many workers with it is not given to a further one."""

_IDLE_S = 5.0
_MAX_ERROR_CHARS = 2000
_LISTEN_S = 0.4
"""How often the user is listened to: what they say is heard within a second, with room for a slow disk."""

_log = logging.getLogger(__name__)


class Worker:
    """Does what is claimable, so many runs at once."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        *,
        worker_id: str,
        concurrency: int = 1,
        lease_ttl_s: float = 15.0,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._runner = runner
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._lease_ttl_s = lease_ttl_s
        self._may_claim = may_claim

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set; runs under way are then given back, so that other workers go on with them."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._concurrency):
                slots.create_task(self._work(stopping))

    async def drain(self) -> None:
        """Work until nothing is claimable; what this worker claimed has then ended."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._concurrency):
                slots.create_task(self._work(stopping, drain=True))

    async def _work(self, stopping: asyncio.Event, *, drain: bool = False) -> None:
        while not stopping.is_set():
            claim = await self._store.claim(self._worker_id, self._lease_ttl_s) if self._may_claim() else None
            if claim is not None:
                await self._own(claim, stopping)
            elif drain:
                return
            else:
                await _first_of(self._store.wait_for_work(_IDLE_S), stopping.wait())

    async def _own(self, claim: Claim, stopping: asyncio.Event) -> None:
        """Have a run until it ended, its lease was lost, or the worker stops."""
        _log.info("action=claim task=%s run=%s generation=%d", claim.task.id, claim.run_id, claim.generation)
        inbox = Inbox()
        try:
            await _first_of(self._do(claim, inbox), self._keep(claim, inbox), stopping.wait())
            if stopping.is_set():
                await self._store.release(claim.run_id, claim.generation)
                _log.info("action=release task=%s run=%s", claim.task.id, claim.run_id)
        except LeaseLost as lost:
            # Expected where the run ended just before it was to be given back.
            _log.info("action=lose task=%s run=%s reason=%r", claim.task.id, claim.run_id, str(lost))
        except Exception as bug:  # noqa: BLE001 - the one catch-all: a bug in one run must not end the others
            _log.exception("action=fail task=%s run=%s", claim.task.id, claim.run_id)
            await self._give_up(claim, f"internal error: {type(bug).__name__}: {bug}")

    async def _do(self, claim: Claim, inbox: Inbox) -> None:
        if num_fruitless_claims(claim.events) > MAX_FRUITLESS_CLAIMS:
            await self._give_up(claim, f"{MAX_FRUITLESS_CLAIMS} workers vanished while they did this run")
            return
        task = await self._runner.run(claim, inbox)
        _log.info("action=leave task=%s run=%s status=%s", task.id, claim.run_id, task.status)

    async def _keep(self, claim: Claim, inbox: Inbox) -> None:
        """Renew the lease and listen to the user; ends only by :class:`LeaseLost`."""
        every_s = self._lease_ttl_s / 3
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(min(_LISTEN_S, every_s))
            inbox.put(await self._store.user_events(claim.task.id, after=inbox.last_seq))
            if time.monotonic() - renewed >= every_s:
                await self._store.renew(claim.run_id, claim.generation, self._lease_ttl_s)
                renewed = time.monotonic()

    async def _give_up(self, claim: Claim, error: str) -> None:
        try:
            result = RunResult(status=Status.FAILED, error=error[:_MAX_ERROR_CHARS])
            await self._store.finish(claim.run_id, claim.generation, result)
        except LeaseLost as lost:
            _log.info("action=lose task=%s run=%s reason=%r", claim.task.id, claim.run_id, str(lost))


async def _first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of them ends, end the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in ended:
        task.result()
