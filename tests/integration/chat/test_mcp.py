"""Tools of other programs: real servers of the ``mcp`` package, over standard streams and over HTTP."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from agent.cli.credentials import Credentials
from agent.cli.mcp import KeptSignIn, login
from agent.cli.settings import Settings
from agent.cli.terminal import open_terminal
from agent.integrations.mcp import McpServers, OnThisMachine
from agent.integrations.mcp_server import McpServer
from tests.integration.chat import tool_server

pytestmark = pytest.mark.anyio

LOCAL = McpServer(command=(sys.executable, tool_server.__file__), env={"GIVEN": "1"}, pass_env=("PASSED",))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def servers(tmp_path: Path, **described: McpServer) -> AsyncIterator[McpServers]:
    credentials = Credentials(tmp_path)
    way = OnThisMachine(
        {"PASSED": "2", "SECRET": "3"}, tmp_path / "logs", lambda server: KeptSignIn(credentials, server)
    )
    async with McpServers(described, way) as running:
        yield running


@pytest.fixture
def address() -> Iterator[str]:
    with tool_server.over_http() as url:
        yield url


async def test_a_server_is_started_by_the_first_look_and_tells_its_tools_in_order(tmp_path: Path) -> None:
    async with servers(tmp_path, local=LOCAL) as running:
        assert running.states == {"local": "not started"}
        listed = await running.describe("", "")
        assert [line.split(":")[0].strip() for line in listed.text.splitlines()] == [
            "local",
            *("die", "environment", "refuse", "repeat"),
            *("to read", "notes", "notes"),
        ]
        assert "And again" not in listed.text
        whole = await running.describe("local", "repeat")
        assert "And again" in whole.text
        assert '"times"' in whole.text
        assert running.states == {"local": "running, 4 tools"}


async def test_what_a_server_has_to_read_is_listed_and_read(tmp_path: Path) -> None:
    async with servers(tmp_path, local=LOCAL) as running:
        listed = (await running.describe("", "")).text
        assert "    notes://today: What is to be done." in listed.splitlines()
        assert "    notes://{day}/picture: picture" in listed.splitlines()
        assert (await running.read("local", "notes://today")).text == "repair the sign"
        assert (await running.read("local", "notes://monday/picture")).text == "[image/png: not shown]"
        missing = await running.read("local", "notes://never")
        assert missing.error
        assert missing.text.startswith("[error] local:")
        assert (await running.read("other", "notes://today")).error


async def test_a_call_gives_back_what_the_tool_says_and_whether_it_failed(tmp_path: Path) -> None:
    async with servers(tmp_path, local=LOCAL) as running:
        said = await running.call("local", "repeat", {"text": "tick"})
        assert (said.text, said.error) == ("tick tick", False)
        refused = await running.call("local", "refuse", {})
        assert refused.error
        assert "not today" in refused.text
        wrong = await running.call("local", "repeat", {"times": 1})
        assert wrong.error
        assert "text" in wrong.text


async def test_a_server_sees_what_its_description_names_and_nothing_more_of_the_users_environment(
    tmp_path: Path,
) -> None:
    async with servers(tmp_path, local=LOCAL) as running:
        seen = set((await running.call("local", "environment", {})).text.split())
    assert {"GIVEN", "PASSED", "PATH"} <= seen
    assert "SECRET" not in seen


async def test_a_server_that_dies_is_an_observation_and_is_started_again(tmp_path: Path) -> None:
    async with servers(tmp_path, local=LOCAL) as running:
        died = await running.call("local", "die", {})
        assert died.error
        assert running.states["local"].startswith("failed")
        assert (await running.call("local", "repeat", {"text": "tock"})).text == "tock tock"


async def test_a_program_or_an_address_that_is_not_there_is_an_observation_too(tmp_path: Path) -> None:
    gone = McpServer(command=("/nowhere/at/all",))
    away = McpServer(url="http://127.0.0.1:9/mcp")
    async with servers(tmp_path, gone=gone, away=away, local=LOCAL) as running:
        listed = await running.describe("", "")
        assert not listed.error
        assert "repeat" in listed.text
        assert "[error] gone:" in listed.text
        assert "[error] away:" in listed.text
        assert (await running.call("other", "repeat", {})).text.startswith("[error] there is no server 'other'")


async def test_the_same_tools_are_there_over_http(tmp_path: Path, address: str) -> None:
    async with servers(tmp_path, remote=McpServer(url=address)) as running:
        assert (await running.call("remote", "repeat", {"text": "tick", "times": 3})).text == "tick tick tick"


async def test_tools_that_the_description_leaves_out_are_not_there(tmp_path: Path) -> None:
    described = LOCAL.model_copy(update={"tools": ("repeat", "refuse")})
    async with servers(tmp_path, local=described) as running:
        listed = await running.describe("", "")
        assert [line.split(":")[0].strip() for line in listed.text.splitlines()][:3] == ["local", "refuse", "repeat"]
        assert "environment" not in listed.text
        left_out = await running.call("local", "environment", {})
        assert (left_out.text, left_out.error) == ("[error] local has no tool 'environment'", True)
        assert (await running.call("local", "repeat", {"text": "tick"})).text == "tick tick"


def browse(url: str) -> bool:
    return httpx.get(url, follow_redirects=True, trust_env=False, timeout=60).is_success


async def test_whoever_signed_in_once_is_let_in_from_then_on(tmp_path: Path) -> None:
    with tool_server.over_http(issuer=tool_server.Issuer()) as url:
        described = McpServer(url=url, oauth=True)
        async with servers(tmp_path, remote=described) as running:
            assert "mimo mcp login remote" in (await running.call("remote", "repeat", {"text": "a"})).text
            await signed_in(tmp_path, described)
            assert (await running.call("remote", "repeat", {"text": "a"})).text == "a a"


async def test_a_token_that_ended_is_renewed_by_every_later_conversation(tmp_path: Path) -> None:
    issuer = tool_server.Issuer()
    with tool_server.over_http(issuer=issuer) as url:
        described = McpServer(url=url, oauth=True)
        await signed_in(tmp_path, described)
        for _ in range(2):
            await issuer.end_tokens()
            async with servers(tmp_path, remote=described) as running:
                assert (await running.call("remote", "repeat", {"text": "a"})).text == "a a"


async def test_who_is_not_let_in_any_more_is_told_to_sign_in_again(tmp_path: Path) -> None:
    issuer = tool_server.Issuer()
    with tool_server.over_http(issuer=issuer) as url:
        described = McpServer(url=url, oauth=True)
        await signed_in(tmp_path, described)
        await issuer.end_tokens()
        issuer.end_renewals()
        async with servers(tmp_path, remote=described) as running:
            answer = await running.call("remote", "repeat", {"text": "a"})
            assert "sign in again: mimo mcp login remote" in answer.text


async def signed_in(tmp_path: Path, described: McpServer) -> None:
    settings = Settings(mcp_servers={"remote": described})
    async with asyncio.timeout(120):
        await login("remote", settings, tmp_path, open_terminal(), browse)
