"""Editors work with the service by the Agent Client Protocol: its own package on the other side of a WebSocket."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import acp
import httpx
import httpx2
import pytest
from acp.client.connection import ClientSideConnection
from acp.schema import HttpMcpServer, McpServerStdio, SseMcpServer
from fastapi import FastAPI
from httpx2.websockets import AsyncWebSocketSession, HTTPXWSException, WebSocketDisconnect

from agent.api.app import create_app
from agent.api.gate import BODY_LIMIT_BYTES
from agent.config import ModelSettings
from agent.identity import DEFAULT_PROJECT, ROLES, Scope
from agent.repository import check_repository
from agent.store.base import Project, Store
from agent.store.open import open_store
from agent.testing import Script, ScriptedEndpoint, Stalled, call, turns
from agent.types import AssistantMessage
from tests.integration.editor import Editor

from .conftest import Serve
from .working import FINISH, LOOK, MEND, PATCHED, asking, broken_repository, working

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own"
REPAIR = turns(LOOK, MEND, FINISH, FINISH, FINISH)
PATIENCE_S = 120


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Socket:
    """The package's transport over the WebSockets that the tests have already."""

    def __init__(self, session: AsyncWebSocketSession) -> None:
        self._session = session

    async def send(self, message: dict[str, Any]) -> None:
        await self._session.send_text(json.dumps(message))

    async def receive(self) -> dict[str, Any] | None:
        try:
            received: dict[str, Any] = json.loads(await self._session.receive_text())
        except HTTPXWSException:
            return None
        return received

    async def close(self) -> None:
        await self._session.close()


@asynccontextmanager
async def _socket(url: str, key: str | None = OPERATOR, **query: str) -> AsyncIterator[AsyncWebSocketSession]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        http.websocket(f"{url.replace('http', 'ws', 1)}/acp", params=query) as session,
    ):
        yield session


@asynccontextmanager
async def _connected(
    url: str, editor: Editor, key: str | None = OPERATOR, **query: str
) -> AsyncIterator[ClientSideConnection]:
    async with _socket(url, key, **query) as session:
        connection = acp.connect_to_agent(editor, Socket(session))  # type: ignore[arg-type]
        try:
            await connection.initialize(protocol_version=acp.PROTOCOL_VERSION)
            yield connection
        finally:
            await connection.close()


def _app(store: Store) -> FastAPI:
    return create_app(store, check_repository, api_key=OPERATOR)


@asynccontextmanager
async def _service(serve: Serve, folder: Path, script: Script, *faults: Stalled) -> AsyncIterator[tuple[str, str]]:
    """With a worker; yields its address, and a repository on its machine."""
    repository, store_url = broken_repository(folder / "repository"), f"sqlite:///{folder}/mimo.db"
    async with AsyncExitStack() as stack:
        model = stack.enter_context(ScriptedEndpoint(script, faults).running())
        store = await stack.enter_async_context(open_store(store_url))
        url = await stack.enter_async_context(serve(_app(store)))
        await stack.enter_async_context(working(store_url, folder / "data", model))
        yield url, str(repository)


async def _get(url: str, path: str) -> dict[str, Any]:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {OPERATOR}"}, trust_env=False) as http:
        answer = await http.get(f"{url}{path}")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def _prompt(connection: ClientSideConnection, session_id: str, text: str) -> "asyncio.Task[acp.PromptResponse]":
    return asyncio.ensure_future(connection.prompt(session_id=session_id, prompt=[acp.text_block(text)]))


async def test_prompt_becomes_a_task_that_the_editor_watches_and_allows(serve: Serve, tmp_path: Path) -> None:
    editor = Editor()
    editor.choice = "once"
    async with _service(serve, tmp_path, REPAIR) as (url, repository), _connected(url, editor) as connection:
        session = await connection.new_session(cwd=repository, mcp_servers=[])
        ended = await asyncio.wait_for(_prompt(connection, session.session_id, "add() subtracts"), PATIENCE_S)
        (task,) = (await _get(url, f"/v1/tasks?label=acp_session={session.session_id}"))["tasks"]
        diff = await _get(url, f"/v1/tasks/{task['id']}/diff")
        listed = await connection.list_sessions(cwd=repository)
    assert ended.stop_reason == "end_turn"
    assert (task["status"], task["problem_statement"]) == ("succeeded", "add() subtracts")
    assert PATCHED in diff["patch"]
    assert [(known.session_id, known.title) for known in listed.sessions] == [(session.session_id, "add() subtracts")]
    ((asked, options),) = editor.asked
    assert "+     return a + b" in asked.content[0].content.text or "+ a + b" in asked.content[0].content.text
    assert [option.kind for option in options] == ["allow_once", "allow_always", "reject_once"]
    calls = [update for update in editor.updates if update.session_update == "tool_call"]
    assert [call.kind for call in calls][:2] == ["execute", "edit"]
    assert calls[1].tool_call_id == asked.tool_call_id
    assert editor.text("agent_thought_chunk").startswith("It subtracts.")
    assert editor.text("agent_message_chunk").startswith("Let me look.add() adds")
    assert f"/tasks/{task['id']}" in editor.text("agent_message_chunk")
    assert "user_message_chunk" not in editor.kinds


async def test_session_whose_connection_was_lost_is_loaded_and_goes_on(serve: Serve, tmp_path: Path) -> None:
    first, second = Editor(), Editor()
    first.thinks, second.choice = True, "once"
    async with _service(serve, tmp_path, REPAIR) as (url, repository):
        async with _connected(url, first) as connection:
            session = await connection.new_session(cwd=repository, mcp_servers=[])
            turn = _prompt(connection, session.session_id, "add() subtracts")
            await asyncio.wait_for(first.was_asked.wait(), PATIENCE_S)
        with pytest.raises(ConnectionError):
            await turn
        async with _connected(url, second) as connection:
            await connection.load_session(cwd=repository, session_id=session.session_id, mcp_servers=[])
            assert second.text("user_message_chunk") == "add() subtracts"
            assert "tool_call" in second.kinds
            await asyncio.wait_for(second.was_asked.wait(), PATIENCE_S)
            ended = await asyncio.wait_for(_prompt(connection, session.session_id, "and be quick"), PATIENCE_S)
        tasks = (await _get(url, "/v1/tasks"))["tasks"]
    assert ended.stop_reason == "end_turn"
    assert {task["status"] for task in tasks} == {"succeeded"}
    assert second.text("agent_message_chunk").startswith("Let me look.add() adds")


async def test_cancelled_turn_ends_its_task_and_the_next_prompt_goes_on(serve: Serve, tmp_path: Path) -> None:
    editor = Editor()
    after_all = call("finish", summary="after all")
    stalled = Stalled(AssistantMessage(content="never ends " * 20, reasoning_content=""))
    async with (
        _service(serve, tmp_path, lambda _: after_all, stalled) as (url, repository),
        _connected(url, editor, approvals="none") as connection,
    ):
        session = await connection.new_session(cwd=repository, mcp_servers=[])
        turn = _prompt(connection, session.session_id, "hello")
        await asyncio.wait_for(editor.heard.wait(), PATIENCE_S)
        await connection.cancel(session_id=session.session_id)
        assert (await asyncio.wait_for(turn, PATIENCE_S)).stop_reason == "cancelled"
        await asyncio.wait_for(_prompt(connection, session.session_id, "and now?"), PATIENCE_S)
        tasks = (await _get(url, f"/v1/tasks?label=acp_session={session.session_id}"))["tasks"]
        loaded = Editor()
        async with _connected(url, loaded) as again:
            await again.load_session(cwd=repository, session_id=session.session_id, mcp_servers=[])
    assert len(tasks) == 2
    assert tasks[1]["status"] == "cancelled"
    assert "after all" in editor.text("agent_message_chunk")
    assert "user_message_chunk" not in editor.kinds
    assert loaded.text("user_message_chunk") == "helloand now?"


async def test_question_with_options_is_answered_in_the_editor(serve: Serve, tmp_path: Path) -> None:
    editor = Editor()
    editor.choice = "0"
    async with (
        _service(serve, tmp_path, asking) as (url, repository),
        _connected(url, editor, approvals="none") as connection,
    ):
        session = await connection.new_session(cwd=repository, mcp_servers=[])
        ended = await asyncio.wait_for(_prompt(connection, session.session_id, "add() is wrong"), PATIENCE_S)
        (task,) = (await _get(url, "/v1/tasks"))["tasks"]
        said = await _get(url, f"/v1/tasks/{task['id']}/messages")
    assert ended.stop_reason == "end_turn"
    ((asked, options),) = editor.asked
    assert (asked.title, [option.name for option in options]) == ("Which sign?", ["+", "-"])
    assert [message["text"] for message in said["messages"]] == ["+"]


PICTURE = b"\x89PNG\r\n\x1a\n of the editor"


async def test_images_of_a_prompt_are_kept_with_what_is_said_first_and_next(serve: Serve, tmp_path: Path) -> None:
    repository = str(broken_repository(tmp_path / "repository"))
    shown = acp.image_block(base64.b64encode(PICTURE).decode(), "image/png")
    async with open_store(f"sqlite:///{tmp_path}/mimo.db", artifacts=f"file://{tmp_path}/kept") as store:
        app = create_app(store, check_repository, api_key=OPERATOR, model=ModelSettings(name="sees", images=True))
        async with serve(app) as url, _connected(url, Editor()) as connection:
            session = await connection.new_session(cwd=repository, mcp_servers=[])
            prompts: list[list[Any]] = [[acp.text_block("it looks odd"), shown], [shown]]
            for num_tasks, prompt in enumerate(prompts, start=1):
                turn = asyncio.ensure_future(connection.prompt(session_id=session.session_id, prompt=prompt))
                async with asyncio.timeout(PATIENCE_S):
                    while len((await _get(url, "/v1/tasks"))["tasks"]) < num_tasks:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await connection.cancel(session_id=session.session_id)
                assert (await asyncio.wait_for(turn, PATIENCE_S)).stop_reason == "cancelled"
            for task in (await _get(url, "/v1/tasks"))["tasks"]:
                (said,) = (await _get(url, f"/v1/tasks/{task['id']}/messages"))["messages"]
                assert len(said["images"]) == 1


async def test_images_are_refused_with_words_where_the_model_takes_none(serve: Serve, tmp_path: Path) -> None:
    repository = str(broken_repository(tmp_path / "repository"))
    shown = acp.image_block(base64.b64encode(PICTURE).decode(), "image/png")
    async with open_store(f"sqlite:///{tmp_path}/mimo.db") as store, serve(_app(store)) as url, _socket(url) as session:
        connection = acp.connect_to_agent(Editor(), Socket(session))  # type: ignore[arg-type]
        offered = await connection.initialize(protocol_version=acp.PROTOCOL_VERSION)
        begun = await connection.new_session(cwd=repository, mcp_servers=[])
        with pytest.raises(acp.RequestError, match="images_not_taken"):
            await connection.prompt(session_id=begun.session_id, prompt=[shown])
        await connection.close()
    assert offered.model_dump(by_alias=True)["agentCapabilities"]["promptCapabilities"]["image"] is False


async def test_servers_of_tools_that_the_project_does_not_have_are_refused_with_the_reason(
    serve: Serve, store: Store, tmp_path: Path
) -> None:
    repository = str(broken_repository(tmp_path / "repository"))
    own = {"name": "tracker", "url": "https://tools.example.org/mcp"}
    known = HttpMcpServer(type="http", name="mine", url=own["url"], headers=[])
    others: dict[str, HttpMcpServer | McpServerStdio | SseMcpServer] = {
        "starts no programs": McpServerStdio(name="files", command="/bin/files", args=[], env=[]),
        "does not speak SSE": SseMcpServer(type="sse", name="old", url="https://old.example.org/sse", headers=[]),
        "an administrator of the project": HttpMcpServer(
            type="http", name="inner", url="http://10.0.0.1/mcp", headers=[]
        ),
    }
    async with serve(_app(store)) as url:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {OPERATOR}"}, trust_env=False) as http:
            (await http.post(f"{url}/v1/mcp_servers", json=own)).raise_for_status()
        async with _connected(url, Editor()) as connection:
            session = await connection.new_session(cwd=repository, mcp_servers=[known])
            for reason, server in others.items():
                with pytest.raises(acp.RequestError, match=f"{server.name}.*{reason}.*mcp_servers=ignore"):
                    await connection.new_session(cwd=repository, mcp_servers=[known, server])
                with pytest.raises(acp.RequestError, match=reason):
                    await connection.load_session(cwd="/", session_id=session.session_id, mcp_servers=[server])
        async with _connected(url, Editor(), mcp_servers="ignore") as connection:
            await connection.new_session(cwd=repository, mcp_servers=[*others.values()])


async def test_sessions_of_other_projects_are_not_there(serve: Serve, store: Store, tmp_path: Path) -> None:
    for project in ("blue", "red"):
        await store.make_project(Project(project_id=project))
    blue, red = [(await _key(store, project, ROLES["member"])) for project in ("blue", "red")]
    async with serve(_app(store)) as url:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {OPERATOR}", "Mimo-Project": "blue"}) as http:
            body = {"repository": str(broken_repository(tmp_path / "repository")), "problem_statement": "secret"}
            task = (await http.post(f"{url}/v1/tasks", json=body)).json()
        editor = Editor()
        async with _connected(url, editor, red) as connection:
            with pytest.raises(acp.RequestError, match="task"):
                await connection.load_session(cwd="/", session_id=task["id"], mcp_servers=[])
            assert (await connection.list_sessions()).sessions == []
            with pytest.raises(acp.RequestError):
                await connection.prompt(session_id=task["id"], prompt=[acp.text_block("tell me")])
        assert editor.updates == []
        async with _connected(url, Editor(), blue) as connection:
            assert [known.session_id for known in (await connection.list_sessions()).sessions] == [task["id"]]


async def test_who_may_not_is_told_so_before_the_connection(serve: Serve, store: Store) -> None:
    reader = await _key(store, DEFAULT_PROJECT, frozenset({"tasks:read"}))
    async with serve(_app(store)) as url:
        refusals: dict[str, tuple[str | None, dict[str, str]]] = {
            "unauthenticated": (None, {}),
            "insufficient_scope": (reader, {}),
            "invalid_request": (OPERATOR, {"model": "other"}),
        }
        for code, (key, query) in refusals.items():
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            assert (await _handshake(url, headers, **query))["code"] == code
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {OPERATOR}"}, trust_env=False) as http:
            assert (await http.get(f"{url}/acp")).json()["code"] == "upgrade_required"


async def test_page_of_another_site_cannot_connect(serve: Serve, store: Store) -> None:
    headers = {"Cookie": f"mimo_session={OPERATOR}", "Origin": "https://evil.example"}
    async with serve(_app(store)) as url:
        assert (await _handshake(url, headers))["code"] == "foreign_origin"


async def _handshake(url: str, headers: dict[str, str], **query: str) -> dict[str, Any]:
    """What is answered to one that is refused."""
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", **headers}
    asked["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="  # The one of RFC 6455.
    async with httpx.AsyncClient(headers=asked, trust_env=False, timeout=60) as http:
        answer = await http.get(f"{url}/acp", params=query)
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    return problem


async def test_message_that_is_too_large_ends_the_connection(serve: Serve, store: Store) -> None:
    async with serve(_app(store)) as url, _socket(url) as session:
        await session.send_text('"' + "x" * BODY_LIMIT_BYTES + '"')
        with pytest.raises(WebSocketDisconnect) as ended:
            await session.receive_text()
        assert ended.value.code == 1009


async def test_connection_ends_when_its_key_is_revoked(serve: Serve, store: Store) -> None:
    record, key = await store.identities.create_key(
        DEFAULT_PROJECT, "a test", ROLES["member"], created_by="a test", expires_at=None
    )
    app = create_app(store, check_repository, api_key=OPERATOR, heartbeat_s=0.05)
    async with serve(app) as url, _socket(url, key) as session:
        await session.send_text("{")
        assert "Parse error" in await session.receive_text()
        await store.identities.revoke_key(DEFAULT_PROJECT, record.id)
        with pytest.raises(WebSocketDisconnect) as ended:
            await asyncio.wait_for(_talk(session), PATIENCE_S)
        assert ended.value.code == 1008


async def _talk(session: AsyncWebSocketSession) -> None:
    while True:
        await session.send_text("{")
        await session.receive_text()


async def test_what_is_no_message_is_answered_as_the_protocol_has_it(serve: Serve, store: Store) -> None:
    async with serve(_app(store)) as url, _socket(url) as session:
        for text, code in (("{", -32700), ("[1]", -32600)):
            await session.send_text(text)
            assert json.loads(await session.receive_text())["error"]["code"] == code


async def test_folder_that_is_called_like_no_repository_is_an_error_with_a_remedy(serve: Serve, store: Store) -> None:
    member = await _key(store, DEFAULT_PROJECT, ROLES["member"])
    async with serve(_app(store)) as url, _connected(url, Editor(), member) as connection:
        with pytest.raises(acp.RequestError, match=r"\?repository=NAME"):
            await connection.new_session(cwd="/home/me/calc", mcp_servers=[])


async def _key(store: Store, project: str, scopes: frozenset[Scope]) -> str:
    _, key = await store.identities.create_key(project, "a test", scopes, created_by="a test", expires_at=None)
    return key
