"""A model that is away for longer than it is asked again."""

import socket
from collections.abc import AsyncIterator, Callable

import pytest

from agent.config import ModelSettings
from agent.model import Model, open_model
from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.testing import Cut, ScriptedEndpoint, turns
from agent.testing import Status as HttpStatus
from agent.testing.scripted_endpoint import Fault
from agent.types import Status, StopReason, TaskRequest, WaitingOn
from tests.integration.orchestrator.conftest import PATCH, REPAIR, Clock, users

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
MakeRequest = Callable[..., TaskRequest]


@pytest.fixture
def port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    return number


@pytest.fixture
async def model(port: int) -> AsyncIterator[Model]:
    """It is asked once."""
    async with open_model(ModelSettings(url=f"http://127.0.0.1:{port}/v1", retries=0)) as opened:
        yield opened


async def test_run_waits_for_a_model_that_is_away_and_goes_on_when_it_is_back(
    store: SqlStore, model: Model, port: int, make_worker: MakeWorker, make_request: MakeRequest, clock: Clock
) -> None:
    task = await users(store).submit(make_request())
    worker = make_worker(model=model, waits_for_model=True)

    await worker.drain()
    waiting = await users(store).get(task.id)
    place = await users(store).queue_position(task.id)
    assert (waiting.status, waiting.waiting_on) == (Status.WAITING, WaitingOn.CAPACITY)
    assert (
        f"the task waits on capacity: the model endpoint http://127.0.0.1:{port}/v1 cannot be reached" in place.reason
    )

    with ScriptedEndpoint(turns(*REPAIR)).running(port):
        clock.advance(6)
        await worker.drain()
    ended = await users(store).get(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)


@pytest.mark.parametrize("fault", [HttpStatus(502), HttpStatus(503), HttpStatus(504), Cut(REPAIR[0])])
async def test_step_in_which_the_model_went_away_is_asked_for_again(
    fault: Fault,
    store: SqlStore,
    model: Model,
    port: int,
    make_worker: MakeWorker,
    make_request: MakeRequest,
    clock: Clock,
) -> None:
    task = await users(store).submit(make_request())
    worker = make_worker(model=model, waits_for_model=True)

    with ScriptedEndpoint(turns(*REPAIR), faults=[fault]).running(port):
        await worker.drain()
        assert (await users(store).get(task.id)).waiting_on is WaitingOn.CAPACITY
        clock.advance(6)
        await worker.drain()

    ended = await users(store).get(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)


@pytest.mark.parametrize("fault", [HttpStatus(400), HttpStatus(401), HttpStatus(429), HttpStatus(500)])
async def test_model_that_refuses_is_not_waited_for(
    fault: Fault, store: SqlStore, model: Model, port: int, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())

    with ScriptedEndpoint(turns(*REPAIR), faults=[fault]).running(port):
        await make_worker(model=model, waits_for_model=True).drain()

    ended = await users(store).get(task.id)
    assert (ended.status, ended.stop_reason) == (Status.FAILED, StopReason.MODEL_ERROR)


async def test_user_can_end_a_run_whose_model_is_away(
    store: SqlStore, model: Model, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    worker = make_worker(model=model, waits_for_model=True)
    await worker.drain()

    await users(store).cancel(task.id)
    await worker.drain()

    assert (await users(store).get(task.id)).status is Status.CANCELLED
