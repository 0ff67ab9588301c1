"""Other agents have tasks done by the Model Context Protocol: with its own client, under the rules of REST."""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from agent.api.app import create_app
from agent.api.issuers import IdentitySettings
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.integrations.remote import Reach
from agent.store.base import Project, Store
from agent.store.open import open_store
from agent.testing import IdentityProvider, ScriptedEndpoint
from agent.types import Status

from .conftest import Serve
from .working import PATCHED, REPAIR, asking, broken_repository, program, working

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own"
TOOLS = ["submit_task", "task_status", "message_task", "task_patch", "cancel_task", "list_tasks"]
TASK = {"repository": "/repo", "problem_statement": "add() subtracts"}


def _app(store: Store, **fields: Any) -> FastAPI:
    async def resolve(path: Path, commit: str) -> str:
        return "HEAD"

    return create_app(store, resolve, api_key=OPERATOR, reach=Reach(paths=(Path("/repo"),)), **fields)


@asynccontextmanager
async def _client(url: str, key: str = OPERATOR, mode: Any = "auto", **headers: str) -> AsyncIterator[Client]:
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {key}", **headers}) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=120) as client:
            yield client


async def _done(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, _text(answer)
    found: dict[str, Any] = answer.structured_content
    return found


async def _refused(client: Client, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    return _text(answer)


def _text(answer: CallToolResult) -> str:
    (part,) = answer.content
    assert part.type == "text"
    return part.text


async def _key(store: Store, project: str, role: str = "member") -> str:
    _, key = await store.identities.create_key(project, role, ROLES[role], created_by="a test", expires_at=None)
    return key


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_task_is_submitted_waited_for_and_read(mode: str, tmp_path: Path) -> None:
    """By a client of today's protocol, and by one of before, with the processes of a real service."""
    repository, store_url = broken_repository(tmp_path / "repository"), f"sqlite:///{tmp_path}/mimo.db"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ScriptedEndpoint(REPAIR).running() as model:
        api = program("agent.api", "--store", store_url, "--port", str(port), env=os.environ | {"MIMO_API_KEY": "k"})
        async with api, working(store_url, tmp_path / "data", model):
            await _listening(port)
            async with _client(f"http://127.0.0.1:{port}", "k", mode) as client:
                assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
                task = await _done(
                    client, "submit_task", repository=str(repository), problem_statement="add() subtracts"
                )
                task_id = task["id"]
                while not Status(task["status"]).terminal:
                    task = await _done(client, "task_status", task_id=task_id, wait_s=20)
                patch = _text(await client.call_tool("task_patch", {"task_id": task_id}))
                listed = await _done(client, "list_tasks", status="succeeded")

    assert (task["status"], task["answer"]) == ("succeeded", "add() adds")
    assert PATCHED in patch
    assert [each["id"] for each in listed["tasks"]] == [task_id]


async def _listening(port: int) -> None:
    with anyio.fail_after(120):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.1)


async def test_question_of_the_agent_is_read_and_answered(serve: Serve, tmp_path: Path) -> None:
    repository, store_url = broken_repository(tmp_path / "repository"), f"sqlite:///{tmp_path}/mimo.db"
    with ScriptedEndpoint(asking).running() as model:
        worker = working(store_url, tmp_path / "data", model)
        async with open_store(store_url) as store, serve(_app(store)) as url, _client(url) as client, worker:
            task = await _done(
                client,
                "submit_task",
                repository=str(repository),
                problem_statement="add() is wrong",
                profile="assistant",
            )
            while "question" not in task:
                assert not Status(task["status"]).terminal, task
                task = await _done(client, "task_status", task_id=task["id"], wait_s=0.2)
            said = await _done(client, "message_task", task_id=task["id"], text="+")
            await _ended(store, task["id"])
            log = await store.of(DEFAULT_PROJECT).events(task["id"], types={"tool.completed"})

    assert task["question"] == {"text": "Which sign?", "options": ["+", "-"]}
    assert (log[0].body["message_id"], log[0].body["observation"]["text"]) == (said["id"], "+")


async def _ended(store: Store, task_id: str) -> None:
    with anyio.fail_after(120):
        while not (await store.of(DEFAULT_PROJECT).get(task_id)).status.terminal:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.1)


async def test_tasks_of_other_projects_are_not_there(store: Store, serve: Serve) -> None:
    for project in ("alpha", "beta"):
        await store.make_project(Project(project_id=project))
    async with serve(_app(store)) as url:
        async with _client(url, await _key(store, "alpha")) as alpha, _client(url, await _key(store, "beta")) as beta:
            mine = (await _done(alpha, "submit_task", **TASK))["id"]
            refusals = [
                await _refused(beta, "task_status", task_id=mine),
                await _refused(beta, "task_status", task_id=mine, wait_s=1),
                await _refused(beta, "task_patch", task_id=mine),
                await _refused(beta, "message_task", task_id=mine, text="hello"),
                await _refused(beta, "cancel_task", task_id=mine),
            ]
            listed = await _done(beta, "list_tasks")
            cancelled = await _done(alpha, "cancel_task", task_id=mine)
        async with _client(url, OPERATOR, **{"Mimo-Project": "alpha"}) as operator:
            seen = await _done(operator, "list_tasks")

    assert all(f"no task {mine}" in refusal and "unknown_task" in refusal for refusal in refusals)
    assert listed["tasks"] == []
    assert cancelled["status"] == "cancelled"
    assert [task["id"] for task in seen["tasks"]] == [mine]


async def test_scopes_rates_and_the_audit_log_are_those_of_rest(store: Store, serve: Serve) -> None:
    viewer = await _key(store, DEFAULT_PROJECT, "viewer")
    async with serve(_app(store, requests_per_minute=1)) as url:
        async with _client(url, viewer) as client:
            lacking = await _refused(client, "submit_task", **TASK)
            while not (answer := await client.call_tool("list_tasks", {})).is_error:
                pass
        async with _client(url) as client:
            task = await _done(client, "submit_task", **TASK)
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {OPERATOR}"}) as http:
            naked = await http.post("/mcp", headers={"Authorization": ""}, json={})
            foreign = await http.post("/mcp", headers={"Origin": "https://evil.example"}, json={})

    assert "This takes the scope tasks:write" in lacking
    assert "GET /v1/me shows yours" in lacking
    assert "too_many_requests" in _text(answer)
    assert "Retry-After: " in _text(answer)
    noted = (await store.identities.audit(DEFAULT_PROJECT)).entries
    deeds = [(deed.action, deed.target, deed.status) for deed in noted]
    assert ("POST /v1/tasks", f"/v1/tasks/{task['id']}", 202) in deeds
    assert not [action for action, _, _ in deeds if "mcp" in action]
    assert (naked.status_code, foreign.status_code) == (401, 403)


async def test_token_of_a_person_acts_in_the_project_that_its_issuer_gives(store: Store, serve: Serve) -> None:
    await store.make_project(Project(project_id="web"))
    grants = [{"project": "web", "role": "member", "claims": {"groups": "web"}}]
    with IdentityProvider(audience="mimo").running() as provider:
        issuer = {"name": "company", "url": provider.url, "audience": "mimo", "kind": "oidc", "grants": grants}
        identity = IdentitySettings.model_validate({"issuers": [issuer]})
        token = provider.token("ada", groups=["web"])
        async with serve(_app(store, identity=identity)) as url, _client(url, token) as client:
            submitted = await _done(client, "submit_task", **TASK)

    task = await store.of("web").get(submitted["id"])
    assert (task.project_id, task.created_by) == ("web", "company:ada")


async def test_a_call_that_is_sent_again_is_done_once(store: Store, serve: Serve) -> None:
    async with serve(_app(store)) as url, _client(url) as client:
        first = await _done(client, "submit_task", **TASK, idempotency_key="one")
        second = await _done(client, "submit_task", **TASK, idempotency_key="one")
        other = await _refused(client, "submit_task", repository="/repo", problem_statement="b", idempotency_key="one")

    assert first["id"] == second["id"]
    assert "idempotency_key_reused" in other


async def test_what_cannot_be_is_said_in_words_that_help(store: Store, serve: Serve) -> None:
    async with serve(_app(store)) as url, _client(url) as client:
        task = await _done(client, "submit_task", **TASK)
        early = await _refused(client, "task_patch", task_id=task["id"])
        misspelt = await _refused(client, "message_task", task_id=task["id"], txt="hello")
        blank = await _refused(client, "submit_task", repository="/repo", problem_statement=" ")
        elsewhere = await _refused(client, "submit_task", repository="nowhere", problem_statement="a")
        path = await _refused(client, "task_status", task_id="task_0/../../projects")
        with pytest.raises(MCPError, match=r"no tool 'erase'; there are submit_task"):
            await client.call_tool("erase", {})

    assert "its patch is computed when it ends. Wait for the event task.finished" in early
    assert "#/txt: Unknown field" in misspelt
    assert "Say what is wrong or wanted" in blank
    assert "invalid_repository" in elsewhere
    assert "#/task_id" in path


async def test_service_without_the_package_says_so(store: Store, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent.api.mcp.server", None)
    async with serve(_app(store)) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/mcp", headers={"Authorization": f"Bearer {OPERATOR}"}, json={})

    assert (answer.status_code, answer.json()["code"]) == (501, "not_installed")
    assert "mimo-coder[mcp]" in answer.json()["remedy"]
