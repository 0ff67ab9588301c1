"""The pages as people meet them: served over HTTP, opened in a headless Chromium."""

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from agent.api.app import create_app
from agent.identity import DEFAULT_PROJECT
from agent.store.base import Claim, ProjectStore, RunResult, Store
from agent.store.open import open_store
from agent.types import (
    AssistantMessage,
    Evidence,
    Observation,
    Status,
    StopReason,
    TaskRequest,
    ToolCall,
    Usage,
    Verdict,
    VerdictKind,
    WaitingOn,
)

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WAIT_MS = 120_000
"""How long a page is waited for; a loaded machine may need much of it."""

KEY = "operator's long key"

PATCH = """\
diff --git a/calc.py b/calc.py
index 1111111..2222222 100644
--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""

Serve = Callable[[FastAPI], AbstractAsyncContextManager[str]]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """The application over real HTTP; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=0))
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listener.close()


async def resolve_commit(path: Path, commit: str) -> str:
    return "c" * 40


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/mimo.db") as opened:
        yield opened


@pytest.fixture
def tasks(store: Store) -> ProjectStore:
    return store.of(DEFAULT_PROJECT)


@pytest.fixture
async def service(store: Store) -> AsyncIterator[str]:
    """Address of a service that asks nobody for a key."""
    async with serving(create_app(store, resolve_commit, heartbeat_s=1)) as url:
        yield url


@pytest.fixture
async def guarded(store: Store) -> AsyncIterator[str]:
    """Address of a service that asks for a key."""
    async with serving(create_app(store, resolve_commit, api_key=KEY)) as url:
        yield url


@pytest.fixture(scope="module")  # Not longer: other tests look at what runs on the machine.
async def chromium() -> AsyncIterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is missing; deploy/setup.sh --for-tests installs it")
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_ARGUMENTS)
        yield browser
        await browser.close()


@dataclass
class Tab:
    """A page of a fresh browser, and everything that was wrong on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def note(self, request: Request) -> None:
        if "net::ERR_ABORTED" not in (request.failure or ""):  # The page was left.
            self.complaints.append(f"failed: {request.url} {request.failure}")


@pytest.fixture
async def tab(chromium: Browser) -> AsyncIterator[Tab]:
    context = await chromium.new_context()
    context.set_default_timeout(WAIT_MS)
    page = await context.new_page()
    opened = Tab(page)
    page.on("console", lambda message: opened.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.complaints.append(f"error: {error}"))
    page.on("requestfailed", opened.note)
    yield opened
    await context.close()


@pytest.fixture
def page(tab: Tab) -> Page:
    return tab.page


class Agent:
    """Writes down the work of one run as a worker does."""

    def __init__(self, store: Store, claim: Claim) -> None:
        self._store = store
        self.claim = claim
        self.step = 0

    @classmethod
    async def claims(cls, store: Store) -> "Agent":
        claim = await store.claim("worker-1", 600)
        assert claim is not None
        return cls(store, claim)

    async def log(self, kind: str, body: dict[str, Any]) -> int:
        event = await self._store.append(self.claim.run_id, self.claim.generation, kind, body)
        return event.seq

    async def does(self, command: str, output: str, *, thought: str = "Let me see.", says: str = "") -> None:
        """One step: a thought, a command, and what it printed."""
        self.step += 1
        call = ToolCall(id=f"call{self.step}", name="bash", arguments=json.dumps({"command": command}))
        message = AssistantMessage(content=says, reasoning_content=thought, tool_calls=(call,))
        await self.log("step.started", {"step": self.step})
        await self.log(
            "step.message",
            {
                "step": self.step,
                "message": message.model_dump(mode="json"),
                "usage": Usage(prompt_tokens=1000, cached_tokens=400, completion_tokens=50).model_dump(),
                "duration_s": 1.5,
                "temperature": 0.3,
                "thinking": True,
            },
        )
        intent_id = f"intent{self.step}"
        await self.log("tool.intent", {"step": self.step, "intent_id": intent_id, "call": call.model_dump()})
        observation = Observation(call_id=call.id, text=f"{output}\n[exit code: 0]", duration_s=0.2)
        body = {"step": self.step, "intent_id": intent_id, "observation": observation.model_dump()}
        await self.log("tool.completed", body)

    async def asks(self, command: str) -> None:
        """A call that waits for somebody's word."""
        call = ToolCall(id="asked", name="bash", arguments=json.dumps({"command": command}))
        body = {
            "step": 1,
            "approval_id": "approval_1",
            "call": call.model_dump(),
            "parts": [command.partition(" &&")[0]],
        }
        await self.log("approval.requested", body)
        await self._store.park(self.claim.run_id, self.claim.generation, Status.WAITING, WaitingOn.APPROVAL, {})

    async def finishes(self, kind: VerdictKind = VerdictKind.VERIFIED, patch: str = PATCH) -> None:
        passed = kind is VerdictKind.VERIFIED
        evidence = Evidence(
            command="pytest -q",
            exit_code=int(not passed),
            passed=passed,
            output="1 passed",
            tree="a" * 40,
            duration_s=1,
        )
        verdict = Verdict(kind=kind, evidence=(evidence,))
        await self.log("run.stopped", {"stop_reason": "finished"})
        await self.log("verdict.reached", {"verdict": verdict.model_dump(mode="json")})
        result = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED, verdict=verdict, patch=patch)
        await self._store.finish(self.claim.run_id, self.claim.generation, result)


def task(problem: str = "add() subtracts", **changes: Any) -> TaskRequest:
    given = {"repository": "/srv/calculator", "base_commit": "c" * 40, "problem_statement": problem, **changes}
    return TaskRequest.model_validate(given)
