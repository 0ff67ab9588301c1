"""A project that uses up its tokens of a day while a run is at work."""

from collections.abc import Callable, Sequence

import pytest

from agent.identity import DEFAULT_PROJECT
from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.testing import call
from agent.types import AssistantMessage, Limits, Message, Status, TaskRequest, WaitingOn
from tests.integration.orchestrator.conftest import PATCH, REPAIR, Clock, users

pytestmark = pytest.mark.anyio

LOOK = call("bash", command="sleep 0.2; date +%N")


async def test_run_waits_once_its_project_used_up_its_tokens_and_goes_on_when_it_gets_more(
    store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest], clock: Clock
) -> None:
    repair = list(REPAIR)
    repairing = False

    def answer(messages: Sequence[Message]) -> AssistantMessage:
        return repair.pop(0) if repairing else LOOK

    await store.change_project(DEFAULT_PROJECT, {"daily_tokens": 100})
    task = await users(store).submit(make_request(limits=Limits(max_steps=1000)))
    worker = make_worker(script=answer, lease_ttl_s=3.0)

    await worker.drain()
    waiting = await users(store).get(task.id)
    assert (waiting.status, waiting.waiting_on) == (Status.WAITING, WaitingOn.QUOTA)
    clock.advance(6)
    await worker.drain()
    assert (await users(store).get(task.id)).waiting_on is WaitingOn.QUOTA
    assert "of its 100 tokens of today (UTC)" in (await users(store).queue_position(task.id)).reason

    await store.change_project(DEFAULT_PROJECT, {"daily_tokens": 1_000_000})
    repairing = True
    await worker.drain()
    ended = await users(store).get(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
