"""A worker dies at each event of a run; the next one must end it as if nothing had happened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
from tests.integration.orchestrator.conftest import ASKED_AGAIN, PATCH, REPAIR, Clock, persistent

pytestmark = pytest.mark.anyio

NUM_EVENTS = 18
"""What the worker writes in an undisturbed run: provisioned, 3 steps of 5, stopped, verdict."""


class _Death(Exception):
    pass


class MortalStore:
    """A store whose caller dies instead of writing its n-th event; what led to the event was done, and is lost."""

    def __init__(self, store: SqlStore, num_events: int) -> None:
        self._store = store
        self._left = num_events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, *event: Any) -> Any:
        self._count()
        return await self._store.append(*event)

    async def finish(self, *end: Any) -> Any:
        self._count()
        return await self._store.finish(*end)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise _Death


@pytest.mark.parametrize("number", range(1, NUM_EVENTS + 2))
async def test_death_at_an_event_changes_neither_patch_nor_what_was_executed(
    number: int,
    store: SqlStore,
    backend: Backend,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    clock: Clock,
    tmp_path: Path,
) -> None:
    task = await store.submit(make_request())
    claim = await store.claim("mortal", 15)
    assert claim is not None

    mortal: Store = MortalStore(store, number)
    toolbox = over(backend, ToolboxSettings())
    runner = Runner(mortal, toolbox, ScriptedModel(persistent(*REPAIR)), tmp_path / "data")
    with pytest.raises(_Death):
        await runner.run(claim, Inbox())
    clock.advance(16)
    await make_worker(script=persistent(*REPAIR), worker_id="heir").drain()

    ended = await store.get(task.id)
    log = await store.events(task.id)
    assert (ended.status, ended.patch) == ("succeeded", PATCH)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    intents = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    completions = [event.body for event in log if event.type == "tool.completed"]
    assert intents == [body["intent_id"] for body in completions]
    assert len(set(intents)) == len(intents)
    cut_off = [body for body in completions if ASKED_AGAIN in body["observation"]["text"]]
    assert len(intents) - len(cut_off) == 3
