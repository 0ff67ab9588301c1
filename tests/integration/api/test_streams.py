"""How many connections that last one caller and one project may have open, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from agent.api.app import create_app
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.store.base import Store
from agent.types import TaskRequest

from .conftest import Serve

pytestmark = pytest.mark.anyio

TASK = TaskRequest(repository="/repo", problem_statement="add() subtracts")
STREAM = {"Accept": "text/event-stream"}
PATIENCE_S = 120


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40


def _app(store: Store, *, caller: int = 2, project: int = 100) -> FastAPI:
    return create_app(
        store, _resolve, api_key="the operator's own", streams_per_caller=caller, streams_per_project=project
    )


@asynccontextmanager
async def _caller(store: Store, url: str, name: str) -> AsyncIterator[httpx.AsyncClient]:
    _, key = await store.identities.create_key(
        DEFAULT_PROJECT, name, ROLES["member"], created_by="a test", expires_at=None
    )
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=PATIENCE_S) as http:
        yield http


@asynccontextmanager
async def _reading(http: httpx.AsyncClient, path: str) -> AsyncIterator[None]:
    async with http.stream("GET", path, headers=STREAM) as stream:
        assert stream.status_code == 200
        received = stream.aiter_bytes()  # Where nobody holds it, the answer is closed.
        await anext(received)
        yield


async def _until_open(http: httpx.AsyncClient, kind: str, num: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while f'mimo_open_streams{{kind="{kind}"}} {num}.0' not in (await http.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _code(answer: httpx.Response) -> tuple[int, str]:
    assert int(answer.headers["Retry-After"]) > 0
    problem: dict[str, Any] = answer.json()
    return answer.status_code, problem["code"]


async def test_caller_with_all_its_streams_is_refused_until_one_ends_and_others_are_not(
    store: Store, serve: Serve
) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    events, page = f"/v1/tasks/{task.id}/events", f"/tasks/{task.id}/live"
    async with serve(_app(store)) as url, _caller(store, url, "many") as many, _caller(store, url, "one") as one:
        async with AsyncExitStack() as second:
            async with _reading(many, events):
                await second.enter_async_context(_reading(many, page))
                refused = _code(await many.get(events, headers=STREAM))
                told = await many.get(page, headers=STREAM)
                answered = await many.get(events)
                async with _reading(one, events):
                    await _until_open(one, "events", 2)
            await _until_open(one, "events", 0)
            await _until_open(one, "page", 1)
            async with _reading(many, events):
                pass
        limits = (await many.get("/v1/limits")).json()
    assert refused == (429, "too_many_streams")
    assert (told.status_code, "Retry-After" in told.headers) == (429, True)
    assert answered.status_code == 200, "a page of the log is no stream"
    assert (limits["streams_per_caller"], limits["streams_per_project"]) == (2, 100)


async def test_project_with_all_its_streams_is_refused_and_other_projects_are_not(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    events = f"/v1/tasks/{task.id}/events"
    async with (
        serve(_app(store, project=1)) as url,
        _caller(store, url, "one") as one,
        _caller(store, url, "other") as other,
        httpx.AsyncClient(
            base_url=url, trust_env=False, headers={"Authorization": "Bearer the operator's own"}
        ) as boss,
        _reading(one, events),
    ):
        refused = _code(await other.get(events, headers=STREAM))
        await boss.post("/v1/projects", json={"id": "blue"})
        boss.headers["Mimo-Project"] = "blue"
        foreign = await boss.get(events, headers=STREAM)
    assert refused == (429, "too_many_streams")
    assert foreign.json()["code"] == "unknown_task"


async def test_chat_program_without_a_place_is_refused_before_its_task_is_made(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    said = {"model": "mimo", "messages": [{"role": "user", "content": "hello"}]}
    async with (
        serve(_app(store, caller=1)) as url,
        _caller(store, url, "one") as one,
        _reading(one, f"/v1/tasks/{task.id}/events"),
    ):
        refused = [
            _code(await one.post("/v1/chat/completions", json=said | {"stream": stream})) for stream in (True, False)
        ]
        tasks = (await one.get("/v1/tasks")).json()["tasks"]
    assert refused == [(429, "too_many_streams")] * 2
    assert [known["id"] for known in tasks] == [task.id]


async def test_editor_without_a_place_is_refused_before_the_connection(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    asked["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="  # The one of RFC 6455.
    async with (
        serve(_app(store, caller=1)) as url,
        _caller(store, url, "one") as one,
        _reading(one, f"/v1/tasks/{task.id}/events"),
    ):
        assert _code(await one.get("/acp", headers=asked)) == (429, "too_many_streams")


async def test_wait_for_a_task_by_mcp_takes_a_place(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    arguments = {"task_id": task.id, "wait_s": 50}
    called = {"name": "task_status", "arguments": arguments}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
    accepted = {"Accept": "application/json, text/event-stream"}
    async with (
        serve(_app(store, caller=1)) as url,
        _caller(store, url, "one") as one,
        _reading(one, f"/v1/tasks/{task.id}/events"),
    ):
        answer = await one.post("/mcp", json=asked, headers=accepted)
    assert "too_many_streams" in answer.text
