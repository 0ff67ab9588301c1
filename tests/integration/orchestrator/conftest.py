"""A broken repository, a model that repairs it by script, real sandboxes, and a store on disk."""

import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.config import ModelSettings
from agent.identity import DEFAULT_PROJECT
from agent.model import Model
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.store.base import ProjectStore, Store
from agent.store.open import open_store
from agent.store.sql import SqlStore
from agent.telemetry import Telemetry
from agent.testing import Script, ScriptedModel, call, turns
from agent.types import AssistantMessage, Check, Message, TaskRequest
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import over
from sandbox.toolbox.toolbox import Toolbox
from sandbox.types import Backend

ASKED_AGAIN = "the worker was restarted"
"""Part of what the model reads where a call was cut off."""

REPAIR = (
    call("bash", command="echo step >> notes.txt; cat calc.py"),
    call("str_replace", path="calc.py", old_str="a - b", new_str="a + b"),
    call("finish", summary="add adds"),
)
CHECK = Check(command="python -c 'import calc; assert calc.add(1, 2) == 3'")
PATCH = """\
diff --git a/calc.py b/calc.py
index 12ee7431b8e0e3e366c904c33ef3dee767b1bc20..4693ad3cf8b0903b98497fb89b8b524fbf1b93f4 100644
--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
diff --git a/notes.txt b/notes.txt
new file mode 100644
index 0000000000000000000000000000000000000000..7b1fece8d19623cc43732064a2988e503ca9299d
--- /dev/null
+++ b/notes.txt
@@ -0,0 +1 @@
+step
"""
"""What ``REPAIR`` makes of it; the ids are those of ``git hash-object``."""


class Clock:
    """The real time, until a test moves it ahead."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


def users(store: Store) -> ProjectStore:
    """What users do in the store."""
    return store.of(DEFAULT_PROJECT)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "calculator"
    root.mkdir()
    (root / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@localhost commit -q -m calculator"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    return root


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    opened = open_backend("local", SandboxSettings())
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
async def store(store_url: str, clock: Clock) -> AsyncIterator[SqlStore]:
    async with open_store(store_url, clock=clock) as opened:
        yield opened


@pytest.fixture
def make_request(repository: Path) -> Callable[..., TaskRequest]:
    def make(**fields: Any) -> TaskRequest:
        given = {"repository": str(repository), "problem_statement": "add subtracts", "checks": (CHECK,)}
        return TaskRequest.model_validate(given | fields)

    return make


@pytest.fixture
def make_worker(store: SqlStore, backend: Backend, tmp_path: Path) -> Callable[..., Worker]:
    """A worker whose model follows a script; ``backend`` or ``toolbox``, and ``model``, may be given instead."""

    def make(
        *answers: AssistantMessage,
        script: Script | None = None,
        model: Model | None = None,
        backend: Backend = backend,
        toolbox: Toolbox | None = None,
        worker_id: str = "worker-1",
        concurrency: int = 1,
        lease_ttl_s: float = 15.0,
        allow_hosts: tuple[str, ...] = (),
        waits_for_model: bool = False,
        telemetry: Telemetry | None = None,
        endpoint: ModelSettings = ModelSettings(),  # noqa: B008 - frozen
    ) -> Worker:
        model = model or ScriptedModel(script or turns(*answers))
        toolbox = toolbox or over(backend, ToolboxSettings())
        runner = Runner(
            store,
            toolbox,
            model,
            tmp_path / "data",
            allow_hosts=allow_hosts,
            waits_for_model=waits_for_model,
            telemetry=telemetry,
            endpoint=endpoint,
        )
        return Worker(store, runner, worker_id=worker_id, concurrency=concurrency, lease_ttl_s=lease_ttl_s)

    return make


def persistent(*answers: AssistantMessage) -> Script:
    """As ``turns``, but a call that was cut off is made again."""

    def answer(messages: Sequence[Message]) -> AssistantMessage:
        said: int = sum(message["role"] == "assistant" for message in messages)
        cut_off: int = sum(ASKED_AGAIN in message["content"] for message in messages if message["role"] == "tool")
        return answers[said - cut_off]

    return answer
