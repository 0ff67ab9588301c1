"""Who watches a task sees what the model writes as it writes it, wherever the worker is."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx_sse
import pytest
from fastapi import FastAPI

from agent.api.app import create_app
from agent.api.schemas import DRAFT, DraftView
from agent.cli.client import Client
from agent.events import StepMessage
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.model import Delta
from agent.orchestrator.draft import Draft
from agent.store.base import Claim, Store
from agent.store.open import open_store
from agent.testing import ScriptedEndpoint, Stalled
from agent.types import AssistantMessage, TaskRequest, Usage
from tests.postgres import postgres_server

from .conftest import Serve

pytestmark = pytest.mark.anyio

THOUGHT = "it subtracts where it should add " * 40
TASK = TaskRequest(repository="/repo", problem_statement="add() subtracts")


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    with postgres_server() as server:
        yield server.new_database()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for command in (f"init -q {root}", "-c user.name=a -c user.email=a@localhost commit -q --allow-empty -m empty"):
        subprocess.run(["git", *command.split()], cwd=tmp_path if command.startswith("init") else root, check=True)
    return root


def _app(store: Store, **fields: Any) -> FastAPI:
    async def resolve(path: Path, commit: str) -> str:
        return "HEAD"

    return create_app(store, resolve, **fields)


@asynccontextmanager
async def _worker(store: str, data: Path, model: str) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "agent.orchestrator", "--store", store, "--data", str(data), "--model-url", model]
    process = await anyio.open_process(command, stdout=None, stderr=None)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _claimed(store: Store) -> tuple[Claim, Draft]:
    """A run at its first step, and what it says of its answer."""
    await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await store.claim("worker", 600)
    assert claim is not None
    await store.append(claim.run_id, claim.generation, "step.started", {"step": 1})
    return claim, Draft(store.drafts, claim.task.id, claim.run_id)


async def _answer(store: Store, claim: Claim, aborted: str | None = None) -> None:
    answer = StepMessage(
        step=1,
        message=AssistantMessage(content="", reasoning_content=THOUGHT),
        usage=Usage(),
        duration_s=0.0,
        temperature=0.0,
        thinking=True,
        aborted=aborted,
    )
    await store.append(claim.run_id, claim.generation, "step.message", answer.model_dump(mode="json"))


@asynccontextmanager
async def _stream(url: str, claim: Claim, **query: str) -> AsyncIterator[AsyncIterator[httpx_sse.ServerSentEvent]]:
    address = f"{url}/v1/tasks/{claim.task.id}/events"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60) as http,
        httpx_sse.aconnect_sse(http, "GET", address, params={"deltas": "true"} | query) as source,
    ):
        yield source.aiter_sse()


async def _next(stream: AsyncIterator[httpx_sse.ServerSentEvent], kind: str) -> dict[str, Any]:
    async for message in stream:
        if message.event == kind:
            found: dict[str, Any] = json.loads(message.data)
            return found
    raise AssertionError(f"the stream ended without {kind}")


async def test_watcher_reads_a_thought_before_it_is_over_though_the_worker_is_another_process(
    store_url: str, serve: Serve, repository: Path, tmp_path: Path
) -> None:
    thinking = Stalled(AssistantMessage(content="", reasoning_content=THOUGHT))
    with ScriptedEndpoint(lambda messages: AssistantMessage(content="never"), [thinking]).running() as model:
        async with open_store(store_url) as store, _worker(store_url, tmp_path / "data", model):
            request = TaskRequest(repository=str(repository), problem_statement="add() subtracts")
            task = await store.of(DEFAULT_PROJECT).submit(request)
            read: list[DraftView] = []
            async with serve(_app(store)) as url, Client(url) as client, anyio.create_task_group() as group:

                def hear(piece: DraftView) -> None:
                    read.append(piece)
                    if "".join(piece.text for piece in read) == THOUGHT:
                        group.cancel_scope.cancel()

                async for event in client.watch(task.id, on_draft=hear):
                    assert event.type != "step.message"

    assert {piece.kind for piece in read} == {"restart", "reasoning"}
    assert [piece.offset for piece in read[1:]] == [
        sum(len(earlier.text) for earlier in read[:number]) for number in range(1, len(read))
    ]


async def test_who_comes_in_the_middle_of_an_answer_reads_its_beginning_too(store: Store, serve: Serve) -> None:
    claim, draft = await _claimed(store)
    draft.hear(1, Delta("reasoning", "it sub"))
    async with serve(_app(store)) as url, _stream(url, claim) as first:
        draft.hear(1, Delta("reasoning", "tracts"))
        while "tracts" not in (await _next(first, DRAFT))["text"]:
            pass
        async with _stream(url, claim) as second:
            read = [await _next(second, DRAFT)]
            while "tracts" not in read[-1]["text"]:
                read.append(await _next(second, DRAFT))

    assert read[0]["kind"] == "restart"
    assert "".join(piece["text"] for piece in read) == "it subtracts"


async def test_answer_that_begins_again_or_is_in_the_log_ends_its_draft(store: Store, serve: Serve) -> None:
    claim, draft = await _claimed(store)
    async with serve(_app(store)) as url, _stream(url, claim) as stream:
        await _next(stream, "step.started")
        draft.hear(1, Delta("reasoning", "a worse thought"))
        assert (await _next(stream, DRAFT))["kind"] == "restart"
        assert (await _next(stream, DRAFT))["text"] == "a worse thought"
        draft.hear(1, Delta("restart"))
        draft.hear(1, Delta("reasoning", "a better thought"))
        assert (await _next(stream, DRAFT))["kind"] == "restart"
        assert (await _next(stream, DRAFT))["text"] == "a better thought"
        await _answer(store, claim)
        await _next(stream, "step.message")
        draft.hear(1, Delta("reasoning", "too late"))
        draft.hear(2, Delta("content", "next"))
        assert (await _next(stream, DRAFT))["step"] == 2

        async with _stream(url, claim) as later:
            assert (await _next(later, DRAFT))["step"] == 2


async def test_only_who_asks_reads_drafts_and_thoughts_only_who_may(store: Store, serve: Serve) -> None:
    claim, draft = await _claimed(store)
    _, key = await store.identities.create_key(
        DEFAULT_PROJECT, "viewer", ROLES["viewer"], created_by="a test", expires_at=None
    )
    app = _app(store, api_key="the operator's own")
    seen: dict[str, list[str]] = {"viewer": [], "operator": [], "asks for events": []}
    callers = {"viewer": (key, "true"), "operator": ("the operator's own", "true")}
    callers["asks for events"] = ("the operator's own", "false")

    async def watch(name: str, url: str) -> None:
        key, deltas = callers[name]
        address = f"{url}/v1/tasks/{claim.task.id}/events"
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60, headers={"Authorization": f"Bearer {key}"}) as http,
            httpx_sse.aconnect_sse(http, "GET", address, params={"deltas": deltas}) as source,
        ):
            async for message in source.aiter_sse():
                if message.event == DRAFT:
                    seen[name].append(json.loads(message.data)["kind"])
                if message.event == "step.message":
                    return

    async with serve(app) as url, anyio.create_task_group() as group:
        for name in seen:
            group.start_soon(watch, name, url)
        draft.hear(1, Delta("reasoning", "hm"))
        draft.hear(1, Delta("content", "so"))
        while not (seen["viewer"][-1:] == seen["operator"][-1:] == ["content"]):
            await anyio.sleep(0.05)
            draft.hear(1, Delta("content", "."))
        await _answer(store, claim)

    # Who came first heard the beginning too.
    assert {name: set(kinds) - {"restart"} for name, kinds in seen.items()} == {
        "viewer": {"content"},
        "operator": {"reasoning", "content"},
        "asks for events": set(),
    }
