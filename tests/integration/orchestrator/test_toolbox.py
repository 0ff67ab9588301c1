"""A worker's runs share its machines, and find them ready where a pool is kept."""

import asyncio
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.model import Completion
from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.testing import ScriptedModel, turns
from agent.types import Message, Status, TaskRequest
from sandbox.pool.config import PoolSettings
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import open_toolbox, over
from sandbox.types import Backend, Sandbox, SandboxSpec
from tests.integration.orchestrator.conftest import REPAIR, users

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
MakeWorker = Callable[..., Worker]


class PatientModel(ScriptedModel):
    """Answers where the word ``slow`` is in the conversation only once ``go`` is set."""

    def __init__(self) -> None:
        super().__init__(turns(*REPAIR))
        self.go = asyncio.Event()

    async def complete(self, messages: Sequence[Message], *rest: Any, **more: Any) -> Completion:
        if any("slow" in str(message["content"]) for message in messages):
            await self.go.wait()
        return await super().complete(messages, *rest, **more)


class CountingBackend:
    """Tells when it has made two sandboxes."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.capabilities = backend.capabilities
        self.two_made = asyncio.Event()
        self._backend = backend
        self._num_made = 0

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        sandbox = await self._backend.acquire(spec)
        self._num_made += 1
        if self._num_made == 2:
            self.two_made.set()
        return sandbox

    async def close(self) -> None:
        await self._backend.close()


async def test_a_repository_with_many_tasks_leaves_another_its_share_of_the_machines(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest, repository: Path
) -> None:
    other = shutil.copytree(repository, repository.parent / "other")
    busy = [await users(store).submit(make_request(problem_statement="slow", checks=())) for _ in range(2)]
    quick = await users(store).submit(make_request(repository=str(other), checks=()))
    model = PatientModel()
    toolbox = over(backend, ToolboxSettings(max_sandboxes=2, max_per_tenant=1))

    async with asyncio.TaskGroup() as group:
        group.create_task(make_worker(model=model, toolbox=toolbox, concurrency=3).drain())
        async with asyncio.timeout(120):
            while not (await users(store).get(quick.id)).status.terminal:
                await store.wait_for_work(1)
        begun = ["run.provisioned" in [event.type for event in await users(store).events(task.id)] for task in busy]
        model.go.set()

    assert sorted(begun) == [False, True]
    assert [(await users(store).get(task.id)).status for task in (*busy, quick)] == [Status.SUCCEEDED] * 3


async def test_a_run_finds_the_sandbox_of_its_checks_ready_where_a_pool_is_kept(
    store: SqlStore,
    backend: Backend,
    make_worker: MakeWorker,
    make_request: MakeRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = await users(store).submit(make_request(problem_statement="slow"))
    model, counting = PatientModel(), CountingBackend(backend)

    with caplog.at_level(logging.INFO):
        async with open_toolbox(counting, ToolboxSettings(), PoolSettings()) as toolbox, asyncio.TaskGroup() as group:
            group.create_task(make_worker(model=model, toolbox=toolbox).drain())
            async with asyncio.timeout(120):
                await counting.two_made.wait()
            model.go.set()

    assert (await users(store).get(task.id)).status is Status.SUCCEEDED
    assert re.search("action=close pool warm=[12] ", caplog.text)
