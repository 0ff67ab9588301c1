"""Owns runs: claims them, keeps their leases, lets go of them."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from agent.errors import LeaseLost, StoreDamaged, StoreTooNew, StoreUnavailable
from agent.events import check_known
from agent.inbox import Inbox
from agent.orchestrator.leftovers import Leftovers
from agent.orchestrator.log import num_fruitless_claims
from agent.orchestrator.metrics import WorkerMetrics
from agent.orchestrator.runner import Runner
from agent.store.base import DELIVERIES_KEPT_FOR, Claim, RunResult, Store
from agent.types import Status, WaitingOn

MAX_FRUITLESS_CLAIMS = 5
"""A run that took so many workers with it is not given to a further one."""

_IDLE_S = 5.0
_MAX_ERROR_CHARS = 2000
_LISTEN_S = 0.4
"""How often the user is listened to: what they say is heard within a second, with room for a slow disk."""

_MAX_IDLE = timedelta(days=7)
"""A run that was queued, or waited for its user, for so long is ended as expired."""

_CANCELLED_TOO_NEW_S = 5.0
"""So long a run is kept from this worker that it cannot end, although its user wants the end."""

_STORE_AWAY_S = 1.0
"""Pause before a store that was away is asked again."""

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
        tidy_every_s: float = 600.0,
        deliveries_kept_for: timedelta = DELIVERIES_KEPT_FOR,
        metrics: WorkerMetrics | None = None,
        leftovers: Leftovers | None = None,
    ) -> None:
        """
        Args:
            leftovers: of runs and tasks, looked for beside the store; None where the files are nobody's to delete.
        """
        self._store = store
        self._runner = runner
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._lease_ttl_s = lease_ttl_s
        self._may_claim = may_claim
        self._tidy_every_s = tidy_every_s
        self._deliveries_kept_for = deliveries_kept_for
        self._metrics = metrics or WorkerMetrics()
        self._leftovers = leftovers
        self._kept: set[_Kept] = set()
        """A run may be here twice: whose lease ran out unnoticed may have claimed it anew."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set; runs under way are then given back, so that other workers go on with them."""
        await self._work(stopping)

    async def drain(self) -> None:
        """Work until nothing is claimable; what this worker claimed has then ended.

        Raises:
            StoreUnavailable: the store cannot be used.
        """
        await self._work(asyncio.Event(), drain=True)

    async def _work(self, stopping: asyncio.Event, *, drain: bool = False) -> None:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._keep()), group.create_task(self._tidy())]
            owning: set[asyncio.Task[None]] = set()
            while not stopping.is_set():
                claim = await self._claim(patient=not drain) if len(owning) < self._concurrency else None
                if claim is not None:
                    task = group.create_task(self._own(claim, stopping))
                    owning.add(task)
                    task.add_done_callback(owning.discard)
                elif drain and not owning:
                    break
                else:
                    await self._wait(owning, stopping)
            if owning:
                await asyncio.wait(owning)
            for task in beside:
                task.cancel()

    async def _claim(self, *, patient: bool) -> Claim | None:
        """The next run; None where there is none, or, to the ``patient``, while the store is away."""
        try:
            return await self._store.claim(self._worker_id, self._lease_ttl_s) if self._may_claim() else None
        except StoreUnavailable as error:
            if not patient:
                raise
            _log.warning("action=wait_for_store error=%r", str(error))
            await asyncio.sleep(_STORE_AWAY_S)
            return None

    async def _wait(self, owning: set[asyncio.Task[None]], stopping: asyncio.Event) -> None:
        """Until another claim may succeed."""
        free = len(owning) < self._concurrency
        await _first_of(
            stopping.wait(),
            *((self._store.wait_for_work(_IDLE_S),) if free else ()),
            *((asyncio.wait(owning, return_when=asyncio.FIRST_COMPLETED),) if owning else ()),
        )

    async def _own(self, claim: Claim, stopping: asyncio.Event) -> None:
        """Have a run until it ended, its lease was lost, or the worker stops."""
        _log.info("action=claim task=%s run=%s generation=%d", claim.task.id, claim.run_id, claim.generation)
        kept = _Kept(claim)
        self._kept.add(kept)
        self._metrics.claimed(claim)
        try:
            await _first_of(self._do(claim, kept.inbox), kept.until_lost(), stopping.wait())
            if stopping.is_set():
                await self._store.release(claim.run_id, claim.generation)
                _log.info("action=release task=%s run=%s", claim.task.id, claim.run_id)
        except LeaseLost as lost:
            # Expected where the run ended just before it was to be given back.
            _log.info("action=lose task=%s run=%s reason=%r", claim.task.id, claim.run_id, str(lost))
        except StoreTooNew as error:
            _log.warning("action=leave_to_newer task=%s run=%s reason=%r", claim.task.id, claim.run_id, str(error))
            await self._leave_to_newer(kept, str(error), stopping)
        except StoreUnavailable as error:
            # As if this worker had died: when the lease ends, another goes on from what is stored.
            _log.warning("action=abandon task=%s run=%s error=%r", claim.task.id, claim.run_id, str(error))
        except Exception as bug:  # noqa: BLE001 - the one catch-all: a bug in one run must not end the others
            _log.exception("action=fail task=%s run=%s", claim.task.id, claim.run_id)
            await self._give_up(claim, f"internal error: {type(bug).__name__}: {bug}")
        finally:
            self._metrics.let_go()
            self._kept.discard(kept)

    async def _do(self, claim: Claim, inbox: Inbox) -> None:
        check_known(claim.events)
        if num_fruitless_claims(claim.events) > MAX_FRUITLESS_CLAIMS:
            await self._give_up(claim, f"{MAX_FRUITLESS_CLAIMS} workers vanished while they did this run")
            return
        task = await self._runner.run(claim, inbox)
        self._metrics.left(task, claim.run_id)
        _log.info("action=leave task=%s run=%s status=%s", task.id, claim.run_id, task.status)

    async def _keep(self) -> None:
        """Renew the leases of all runs that this worker has, listen to their users, and hold who spent too much."""
        every_s = self._lease_ttl_s / 3
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(min(_LISTEN_S, every_s))
            try:
                await self._listen()
                if time.monotonic() - renewed >= every_s:
                    renewed = time.monotonic()
                    await self._renew()
                    await self._hold()
            except StoreUnavailable as error:
                _log.warning("action=wait_for_store error=%r", str(error))

    async def _tidy(self) -> None:
        """Every worker does it: what one has done is not there for the next."""
        while True:
            await asyncio.sleep(self._tidy_every_s)
            try:
                await self._store.tidy(_MAX_IDLE, deliveries_kept_for=self._deliveries_kept_for)
                if self._leftovers is not None:
                    await self._leftovers.remove()
            except StoreUnavailable as error:
                _log.warning("action=wait_for_store error=%r", str(error))

    async def _listen(self) -> None:
        said = await self._store.said([kept.claim.task.id for kept in self._kept])
        for kept in tuple(self._kept):
            task_id = kept.claim.task.id
            if said.get(task_id, 0) > kept.inbox.last_seq:
                try:
                    kept.inbox.put(await self._store.user_events(task_id, after=kept.inbox.last_seq))
                except (StoreDamaged, StoreTooNew) as error:
                    kept.lose(error)

    async def _renew(self) -> None:
        """All at once: the store does in one transaction what comes at one moment."""
        await asyncio.gather(*(self._renew_one(kept) for kept in tuple(self._kept)))

    async def _hold(self) -> None:
        """Tell runs whose user has used up what there is for now, so that they wait after the step they are at."""
        kept = tuple(self._kept)
        overspent = await self._store.overspent(
            {(run.claim.task.project_id, run.claim.task.created_by) for run in kept}
        )
        for run in kept:
            run.inbox.overspent = overspent.get((run.claim.task.project_id, run.claim.task.created_by))

    async def _renew_one(self, kept: "_Kept") -> None:
        try:
            await self._store.renew(kept.claim.run_id, kept.claim.generation, self._lease_ttl_s)
        except LeaseLost as lost:
            kept.lose(lost)

    async def _leave_to_newer(self, kept: "_Kept", reason: str, stopping: asyncio.Event) -> None:
        """Let the run wait, from a minute at most on to be tried by whoever is there: by then a newer worker is."""
        claim = kept.claim
        try:
            if claim.task.cancel_requested or kept.inbox.cancelled.is_set():  # Nothing is waited for then.
                await _first_of(asyncio.sleep(_CANCELLED_TOO_NEW_S), stopping.wait())
            await self._store.park(
                claim.run_id, claim.generation, Status.WAITING, WaitingOn.CAPACITY, {"detail": reason}
            )
        except (LeaseLost, StoreUnavailable) as lost:
            _log.info("action=lose task=%s run=%s reason=%r", claim.task.id, claim.run_id, str(lost))

    async def _give_up(self, claim: Claim, error: str) -> None:
        try:
            result = RunResult(status=Status.FAILED, error=error[:_MAX_ERROR_CHARS])
            await self._store.finish(claim.run_id, claim.generation, result)
        except (LeaseLost, StoreUnavailable) as lost:
            _log.info("action=lose task=%s run=%s reason=%r", claim.task.id, claim.run_id, str(lost))
        except Exception:  # noqa: BLE001 - what is said of a run may be what its bug is about
            _log.exception("action=abandon task=%s run=%s", claim.task.id, claim.run_id)


class _Kept:
    """A run that this worker has."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.inbox = Inbox()
        self._gone = asyncio.Event()
        self._reason: LeaseLost | StoreDamaged | StoreTooNew | None = None

    def lose(self, reason: LeaseLost | StoreDamaged | StoreTooNew) -> None:
        self._reason = reason
        self._gone.set()

    async def until_lost(self) -> None:
        """
        Raises:
            LeaseLost: another worker has the run now.
            StoreDamaged: what its user said cannot be read.
            StoreTooNew: its user said what this release does not know.
        """
        await self._gone.wait()
        assert self._reason is not None, self.claim
        raise self._reason


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
