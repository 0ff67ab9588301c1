"""A worker dies at each write around a wait for the user; the next one must end the run as if nothing had happened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.identity import DEFAULT_PROJECT
from agent.inbox import Inbox
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.store.base import Store
from agent.store.sql import SqlStore
from agent.testing import ScriptedModel
from agent.types import TaskRequest
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import over
from sandbox.types import Backend
from tests.integration.orchestrator.conftest import PATCH, REPAIR, Clock, persistent

pytestmark = pytest.mark.anyio


class _Death(Exception):
    pass


class MortalStore:
    """A store whose caller dies instead of its n-th write; what led to it was done, and is lost."""

    def __init__(self, store: SqlStore, num_writes: int) -> None:
        self._store = store
        self._left = num_writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def extend(self, *entries: Any) -> Any:
        self._count()
        return await self._store.extend(*entries)

    async def finish(self, *end: Any, chosen: str | None = None) -> Any:
        self._count()
        return await self._store.finish(*end, chosen=chosen)

    async def park(self, *wait: Any, seen: int | None = None) -> Any:
        self._count()
        return await self._store.park(*wait, seen=seen)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise _Death


NUM_WRITES = 6
"""Up to the first completed call: provisioned; begun, with the message taken; answered, with the approval requested;
parked; provisioned; resumed, with the intent."""


@pytest.mark.parametrize("number", range(2, NUM_WRITES + 1))
async def test_death_around_a_wait_loses_no_word_and_asks_nothing_twice(
    number: int,
    store: SqlStore,
    backend: Backend,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    clock: Clock,
    tmp_path: Path,
) -> None:
    users = store.of(DEFAULT_PROJECT)
    task = await users.submit(make_request(approvals="ask"))
    await users.tell(task.id, "message.added", {"message_id": "m1", "text": "Keep the name.", "delivery": "steer"})
    mortal: Store = MortalStore(store, number)
    runner = Runner(mortal, over(backend, ToolboxSettings()), ScriptedModel(persistent(*REPAIR)), tmp_path / "data")
    with pytest.raises(_Death):
        await _work(store, runner, task.id)
    for _ in range(5):
        clock.advance(16)
        await make_worker(script=persistent(*REPAIR), worker_id="heir").drain()
        await _allow(store, task.id)

    ended = await users.get(task.id)
    log = await users.events(task.id)
    assert (ended.status, ended.patch) == ("succeeded", PATCH)
    assert [event.body["message_id"] for event in log if event.type == "message.taken"] == ["m1"]
    requests = [event.body["approval_id"] for event in log if event.type == "approval.requested"]
    assert len(requests) == len(set(requests))
    completions = [event.body for event in log if event.type == "tool.completed"]
    assert [event.body["intent_id"] for event in log if event.type == "tool.intent"] == [
        body["intent_id"] for body in completions
    ]


async def _work(store: SqlStore, runner: Runner, task_id: str) -> None:
    while claim := await store.claim("mortal", 15):
        await runner.run(claim, Inbox())
        await _allow(store, task_id)


async def _allow(store: SqlStore, task_id: str) -> None:
    """The user says yes to whatever the task waits for."""
    users = store.of(DEFAULT_PROJECT)
    log = await users.events(task_id)
    decided = {event.body["approval_id"] for event in log if event.type == "approval.decided"}
    for event in log:
        if event.type == "approval.requested" and event.body["approval_id"] not in decided:
            decision = {"approval_id": event.body["approval_id"], "decision": "allow", "scope": "once"}
            await users.tell(task_id, "approval.decided", decision)
