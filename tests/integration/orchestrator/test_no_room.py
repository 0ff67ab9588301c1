"""Sandboxes for which there is no room now: whoever needs one waits, and holds nobody up meanwhile."""

from collections.abc import Callable, Iterable

import pytest

from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.types import Status, TaskRequest, WaitingOn
from sandbox.errors import NoRoom
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import over
from sandbox.types import Backend, Sandbox, SandboxSpec
from tests.integration.orchestrator.conftest import PATCH, REPAIR, Clock, users

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
MakeRequest = Callable[..., TaskRequest]
FULL = "the namespace is full"
ASKED_ONCE = ToolboxSettings(attempts=1)


class Crowded:
    """A backend that has room for some sandboxes, counted from the first, and for others has not."""

    def __init__(self, backend: Backend, refused: Iterable[int]) -> None:
        self.name, self.capabilities, self.close = backend.name, backend.capabilities, backend.close
        self._backend = backend
        self._refused = frozenset(refused)
        self._num_asked = 0

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        self._num_asked += 1
        if self._num_asked in self._refused:
            raise NoRoom(FULL)
        return await self._backend.acquire(spec)


@pytest.mark.parametrize("refused", [1, 2], ids=["of the agent", "of the checks"])
async def test_a_run_waits_for_room_and_goes_on_when_there_is_some(
    refused: int,
    store: SqlStore,
    backend: Backend,
    make_worker: MakeWorker,
    make_request: MakeRequest,
    clock: Clock,
) -> None:
    task = await users(store).submit(make_request())
    toolbox = over(Crowded(backend, [refused]), ASKED_ONCE)
    worker = make_worker(*REPAIR, toolbox=toolbox, waits_for_model=True)

    await worker.drain()
    waiting = await users(store).get(task.id)
    assert (waiting.status, waiting.waiting_on) == (Status.WAITING, WaitingOn.CAPACITY)
    assert FULL in (await users(store).queue_position(task.id)).reason

    clock.advance(6)
    await worker.drain()
    ended = await users(store).get(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)


async def test_a_run_that_waits_for_room_lets_others_work(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    first, second = [await users(store).submit(make_request()) for _ in range(2)]
    worker = make_worker(*REPAIR, toolbox=over(Crowded(backend, [1]), ASKED_ONCE), waits_for_model=True)

    await worker.drain()
    assert (await users(store).get(first.id)).status is Status.WAITING
    assert (await users(store).get(second.id)).status is Status.SUCCEEDED

    clock.advance(6)
    await worker.drain()
    assert (await users(store).get(first.id)).status is Status.SUCCEEDED


async def test_a_run_that_waits_for_room_can_be_cancelled(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    worker = make_worker(*REPAIR, toolbox=over(Crowded(backend, [1]), ASKED_ONCE), waits_for_model=True)
    await worker.drain()

    await users(store).cancel(task.id)
    await worker.drain()

    assert (await users(store).get(task.id)).status is Status.CANCELLED
