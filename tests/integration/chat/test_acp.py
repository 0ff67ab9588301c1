"""``mimo acp`` as an editor sees it: the program on standard streams, the real package on the other side."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import acp
import pytest
from acp.client.connection import ClientSideConnection
from acp.schema import HttpHeader, HttpMcpServer
from acp.stdio import spawn_agent_process

from agent.testing import Script, ScriptedEndpoint, Stalled, call, in_order
from agent.types import AssistantMessage
from tests.integration.chat import tool_server
from tests.integration.editor import Editor

pytestmark = pytest.mark.anyio

EDIT = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")


def say(text: str, reasoning: str = "") -> AssistantMessage:
    return AssistantMessage(content=text, reasoning_content=reasoning, finish_reason="stop")


Connect = Callable[..., AbstractAsyncContextManager[ClientSideConnection]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def connect(tmp_path: Path) -> Connect:
    @asynccontextmanager
    async def connected(editor: Editor, script: Script, *faults: Stalled) -> AsyncIterator[ClientSideConnection]:
        with ScriptedEndpoint(script, faults).running() as url:
            program = ("-m", "agent.cli.app", "acp", "--model-url", url, "--model", "scripted")
            environment = {**os.environ, "MIMO_HOME": str(tmp_path / "home")}
            async with spawn_agent_process(
                editor,  # type: ignore[arg-type]
                sys.executable,
                *program,
                env=environment,
            ) as (connection, _process):
                await connection.initialize(protocol_version=acp.PROTOCOL_VERSION)
                yield connection

    return connected


async def test_a_turn_streams_thoughts_calls_and_the_answer(connect: Connect, root: Path) -> None:
    editor = Editor()
    async with connect(editor, in_order(EDIT, say("It adds now.", "Let me see."))) as connection:
        session = await connection.new_session(cwd=str(root), mcp_servers=[])
        assert session.modes is not None
        assert [mode.id for mode in session.modes.available_modes] == ["plan", "ask", "accept edits", "auto"]
        ended = await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("repair it")])
    assert ended.stop_reason == "end_turn"
    assert (root / "calc.py").read_text().endswith("a + b\n")
    [(asked, options)] = editor.asked
    assert "+ a + b" in asked.content[0].content.text
    assert [option.kind for option in options] == ["allow_once", "allow_always", "reject_once"]
    assert editor.kinds == ["tool_call", "tool_call_update", "agent_thought_chunk", "agent_message_chunk"]
    assert editor.text("agent_message_chunk") == "It adds now."
    calls = [update for update in editor.updates if update.session_update.startswith("tool_call")]
    assert {update.tool_call_id for update in calls} == {asked.tool_call_id}
    assert (calls[0].kind, calls[-1].status) == ("edit", "completed")


async def test_a_refused_call_fails_and_the_agent_goes_on(connect: Connect, root: Path) -> None:
    editor = Editor()
    editor.choice = "NO"
    async with connect(editor, in_order(EDIT, say("as you like"))) as connection:
        session = await connection.new_session(cwd=str(root), mcp_servers=[])
        ended = await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("repair it")])
    assert ended.stop_reason == "end_turn"
    assert editor.updates[0].status == "failed"
    assert (root / "calc.py").read_text().endswith("a - b\n")


async def test_tools_at_an_address_that_the_editor_names_are_used(connect: Connect, root: Path) -> None:
    heard: list[dict[str, str]] = []
    repeat = call("mcp_call", server="remote", tool="repeat", arguments={"text": "tick", "times": 2})
    editor = Editor()
    with tool_server.over_http(heard=heard) as address:
        header = HttpHeader(name="X-Editor", value="yes")
        remote = HttpMcpServer(type="http", name="remote", url=address, headers=[header])
        async with connect(editor, in_order(repeat, say("It ticks."))) as connection:
            session = await connection.new_session(cwd=str(root), mcp_servers=[remote])
            await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("let it tick")])
    done = [update for update in editor.updates if update.session_update == "tool_call_update"]
    assert "tick tick" in done[-1].content[0].content.text
    assert {request["x-editor"] for request in heard} == {"yes"}


async def test_a_mode_that_the_editor_sets_holds(connect: Connect, root: Path) -> None:
    editor = Editor()
    async with connect(editor, in_order(EDIT, say("done"))) as connection:
        session = await connection.new_session(cwd=str(root), mcp_servers=[])
        await connection.set_session_mode(session_id=session.session_id, mode_id="accept edits")
        await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("repair it")])
        with pytest.raises(acp.RequestError):
            await connection.set_session_mode(session_id=session.session_id, mode_id="reckless")
    assert editor.asked == []
    assert (root / "calc.py").read_text().endswith("a + b\n")


async def test_a_cancelled_turn_says_so_and_the_session_goes_on(connect: Connect, root: Path) -> None:
    editor = Editor()
    async with connect(editor, in_order(say("after all")), Stalled(say("never ends " * 50))) as connection:
        session = await connection.new_session(cwd=str(root), mcp_servers=[])
        asking = connection.prompt(session_id=session.session_id, prompt=[acp.text_block("hello")])
        turn = asyncio.ensure_future(asking)
        await asyncio.wait_for(editor.heard.wait(), 120)
        await connection.cancel(session_id=session.session_id)
        assert (await turn).stop_reason == "cancelled"
        ended = await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("and now?")])
        assert ended.stop_reason == "end_turn"
    assert editor.text("agent_message_chunk").endswith("after all")


async def test_a_session_is_listed_and_loaded_by_a_later_process_with_all_that_was_said(
    connect: Connect, root: Path
) -> None:
    async with connect(Editor(), in_order(EDIT, say("done"))) as connection:
        session = await connection.new_session(cwd=str(root), mcp_servers=[])
        await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("repair it")])
    editor = Editor()
    async with connect(editor, in_order(say("you said: repair it"))) as connection:
        listed = await connection.list_sessions(cwd=str(root))
        assert [(known.session_id, known.title) for known in listed.sessions] == [(session.session_id, "repair it")]
        await connection.load_session(cwd=str(root), session_id=session.session_id, mcp_servers=[])
        assert editor.kinds == ["user_message_chunk", "tool_call", "tool_call_update", "agent_message_chunk"]
        await connection.prompt(session_id=session.session_id, prompt=[acp.text_block("what did I say?")])
        with pytest.raises(acp.RequestError):
            await connection.load_session(cwd=str(root), session_id="../secret", mcp_servers=[])
    assert editor.text("agent_message_chunk") == "doneyou said: repair it"


async def test_a_folder_or_a_session_that_is_not_there_is_an_error(connect: Connect, root: Path) -> None:
    def script(messages: object) -> AssistantMessage:
        raise AssertionError("not asked")

    async with connect(Editor(), script) as connection:
        with pytest.raises(acp.RequestError):
            await connection.new_session(cwd=str(root / "nowhere"), mcp_servers=[])
        with pytest.raises(acp.RequestError):
            await connection.prompt(session_id="unknown", prompt=[acp.text_block("hello")])
