"""A task whose agent has a real repository and real sandboxes, and whose model is scripted."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.config import Prices
from agent.guard import GuardSettings
from agent.inbox import Inbox
from agent.log import Log, MemoryLog
from agent.loop import run_loop
from agent.model import Delta, Model
from agent.patch import TaskRepository
from agent.permissions.policy import Allowed
from agent.profiles.base import Profile
from agent.profiles.native import native
from agent.repository import prepare_repository
from agent.steps.ends import Wait
from agent.steps.settings import LoopSettings
from agent.steps.user import Approve
from agent.testing import ScriptedModel
from agent.testing.scripted_model import Script
from agent.trajectory import last_tree
from agent.types import Event, Limits, ModelOptions, Snapshot, StopReason, TaskRequest
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.types import Backend, Sandbox, SandboxSpec
from tests.integration.agent_core.checkouts import Content, checkout

FILES: dict[str, Content] = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "tests/test_calc.py": "from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
}


class Desk:
    """Everything a run needs; ``work`` runs the loop in a fresh sandbox that holds the log's newest snapshot."""

    def __init__(self, backend: Backend, repository: TaskRepository, base_tree: str) -> None:
        self.backend = backend
        self.repository = repository
        self.base_tree = base_tree
        self.spec = SandboxSpec()
        self.max_kept_bytes = 64 * 1024 * 1024
        self.log = MemoryLog()
        self.inbox = Inbox()
        self.deltas: list[tuple[int, Delta]] = []

    async def work(
        self,
        model: Model | Script,
        *,
        limits: Limits | None = None,
        options: ModelOptions | None = None,
        guard: GuardSettings | None = None,
        log: Log | None = None,
        agent: Profile | None = None,
        approve: Approve = lambda call: Allowed(),
        context_tokens: int | None = None,
        prices: Prices | None = None,
        begun: Collection[str] = (),
        **fields: Any,
    ) -> StopReason | Wait:
        """``fields`` are the task's."""
        log = log or self.log
        task = TaskRequest(
            repository="/unused",
            problem_statement="add() subtracts",
            limits=limits or Limits(),
            model=options or ModelOptions(),
            **fields,
        )
        async with self.sandbox(last_tree(log.events) or self.base_tree) as sandbox:

            async def snapshot() -> Snapshot:
                archive = await sandbox.download(max_bytes=self.max_kept_bytes)
                return Snapshot(await self.repository.snapshot(archive, self.base_tree))

            return await run_loop(
                task,
                agent or native(),
                model if hasattr(model, "complete") else ScriptedModel(model),
                sandbox,
                log,
                base_tree=self.base_tree,
                snapshot=snapshot,
                patch=lambda tree: self.repository.patch(self.base_tree, tree),
                inbox=self.inbox,
                begun=begun,
                approve=approve,
                on_delta=lambda step, delta: self.deltas.append((step, delta)),
                settings=LoopSettings(guard or GuardSettings(), prices, context_tokens),
            )

    def say(self, kind: str, **body: Any) -> None:
        """The user's next word."""
        seq = max(self.inbox.last_seq, len(self.log.events)) + 1
        word = Event(task_id="task", seq=seq, run_id=None, generation=0, type=kind, body=body, at=datetime.now(UTC))
        self.inbox.put([word])

    @asynccontextmanager
    async def sandbox(self, tree: str) -> AsyncIterator[Sandbox]:
        sandbox = await self.backend.acquire(self.spec)
        try:
            await sandbox.upload(await self.repository.archive(tree, self.base_tree))
            yield sandbox
        finally:
            await sandbox.close()

    async def patch(self, log: Log | None = None) -> str:
        tree = last_tree((log or self.log).events)
        return await self.repository.patch(self.base_tree, tree or self.base_tree)

    def observations(self) -> list[str]:
        return texts(self.log.events)

    def stopped_because(self) -> str:
        assert self.log.events[-1].type == "run.stopped"
        return str(self.log.events[-1].body["detail"])


def texts(events: Sequence[Event]) -> list[str]:
    """What the model read."""
    return [event.body["observation"]["text"] for event in events if event.type == "tool.completed"]


@pytest.fixture(scope="module")
async def backend() -> AsyncIterator[Backend]:
    backend = open_backend("local", SandboxSettings())
    yield backend
    await backend.close()


@pytest.fixture
async def desk(backend: Backend, tmp_path: Path) -> Desk:
    root = checkout(tmp_path / "repo", FILES)
    base = await prepare_repository(root, "HEAD", tmp_path / "git")
    return Desk(backend, TaskRepository(tmp_path / "git"), base.tree)
