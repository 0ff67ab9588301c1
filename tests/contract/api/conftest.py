"""A service on a port, in a thread of its own: what comes from here calls it as strangers would."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from agent.api.app import create_app
from agent.errors import RepositoryError
from agent.events import ApprovalRequested
from agent.store.base import RunResult, Store
from agent.store.open import open_store
from agent.store.secrets import SecretBox
from agent.types import Status, TaskRequest, ToolCall, Verdict, VerdictKind, WaitingOn

PATCH = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"


@dataclass(frozen=True, slots=True)
class Running:
    """A service, and ids of things it has."""

    url: str
    ids: dict[str, tuple[str, ...]]


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """A thread has none."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started: list[Running] = []
        ready, stop = threading.Event(), threading.Event()
        work = _serve(folder, listener, started, ready, stop)
        thread = threading.Thread(target=lambda: asyncio.run(work))
        thread.start()
        try:
            assert ready.wait(60), "the service did not start"
            yield started[0]
        finally:
            stop.set()
            thread.join()


async def _serve(
    folder: Path, listener: socket.socket, started: list[Running], ready: threading.Event, stop: threading.Event
) -> None:
    async def resolve(path: Path, commit: str) -> str:
        if "\0" in commit:
            raise RepositoryError("no such commit")
        return "c" * 40

    box = SecretBox("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    async with open_store(f"sqlite:///{folder}/mimo.db", artifacts=f"file://{folder}/kept") as store:
        app = create_app(store, resolve, secret_box=box, answer_wait_s=0.05)
        server = _Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=0))
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        ids = await _fill(store)
        started.append(Running(f"http://127.0.0.1:{listener.getsockname()[1]}", ids))
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await serving


async def _fill(store: Store) -> dict[str, tuple[str, ...]]:
    """One task that is over, one that waits for an approval, and one that is queued."""
    tasks = store.of("default")
    made = [await tasks.submit(TaskRequest(repository="/repo", problem_statement=text)) for text in "abc"]
    over, waiting, queued = (task.id for task in made)
    claim = await store.claim("worker", 3600)
    assert claim is not None
    assert store.artifacts is not None
    await store.artifacts.put(claim, "1/patch.diff", PATCH.encode())
    verdict = Verdict(kind=VerdictKind.VERIFIED)
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED, verdict=verdict, patch=PATCH))
    claim = await store.claim("worker", 3600)
    assert claim is not None
    call = ToolCall(id="c", name="bash", arguments="{}")
    request = ApprovalRequested(step=1, approval_id="r-1-0", call=call, parts=("rm x",))
    await store.append(claim.run_id, claim.generation, "approval.requested", request.model_dump(mode="json"))
    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.APPROVAL, {})
    return {
        "task_id": (over, waiting, queued),
        "run_id": tuple(task.runs[0].run_id for task in made),
        "approval_id": (f"{waiting}.r-1-0",),
        "project_id": ("default",),
        "artifact": ("1/patch.diff",),
    }
