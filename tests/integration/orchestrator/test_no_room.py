"""Sandboxes for which there is no room now: whoever needs one waits, and holds nobody up meanwhile."""

from collections.abc import Callable, Iterable

import pytest

from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.testing import call
from agent.types import SetUp, Status, TaskRequest, WaitingOn
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


@pytest.mark.parametrize("refused", [1, 2, 3], ids=["of the set-up", "of the agent", "of the checks"])
async def test_a_run_that_waits_for_room_has_its_set_up_and_its_steps_once(
    refused: int,
    store: SqlStore,
    backend: Backend,
    make_worker: MakeWorker,
    make_request: MakeRequest,
    clock: Clock,
) -> None:
    task = await users(store).submit(make_request(setup=SetUp(script="echo made >> made.txt")))
    look = call("bash", command="cat made.txt; echo step >> notes.txt; cat calc.py")
    worker = make_worker(look, *REPAIR[1:], toolbox=over(Crowded(backend, [refused]), ASKED_ONCE), waits_for_model=True)

    await worker.drain()
    waiting = await users(store).get(task.id)
    assert (waiting.status, waiting.waiting_on) == (Status.WAITING, WaitingOn.CAPACITY)

    clock.advance(6)
    await worker.drain()
    ended, log = await users(store).get(task.id), await users(store).events(task.id)
    assert (ended.status, ended.steps) == (Status.SUCCEEDED, 3)
    assert ended.patch.endswith(PATCH[PATCH.index("diff --git a/notes.txt") :])
    kinds = [event.type for event in log]
    assert [kinds.count(kind) for kind in ("setup.completed", "run.parked", "tool.intent")] == [1, 1, 3]
    looked = next(event for event in log if event.type == "tool.completed")
    assert looked.body["observation"]["text"].startswith("made\ndef add")


async def test_a_set_up_for_which_there_was_no_room_does_not_hold_up_another_of_its_kind(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    setup = SetUp(script="echo made >> made.txt")
    first, second = [await users(store).submit(make_request(setup=setup)) for _ in range(2)]
    worker = make_worker(*REPAIR, toolbox=over(Crowded(backend, [1]), ASKED_ONCE), waits_for_model=True)

    await worker.drain()
    assert (await users(store).get(first.id)).status is Status.WAITING
    assert (await users(store).get(second.id)).status is Status.SUCCEEDED

    clock.advance(6)
    await worker.drain()
    assert (await users(store).get(first.id)).status is Status.SUCCEEDED
    logs = [await users(store).events(task.id) for task in (first, second)]
    assert [[event.type for event in log].count("setup.completed") for log in logs] == [0, 1]


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
