"""What a project gives its agents: real workers, a scripted endpoint, and sandboxes."""

import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from starlette.responses import Response

from agent.api.app import create_app
from agent.config import ModelSettings
from agent.identity import DEFAULT_PROJECT
from agent.integrations.addresses import Network
from agent.orchestrator.app import open_worker
from agent.orchestrator.settings import WorkerSettings
from agent.orchestrator.worker import Worker
from agent.store.mcp_servers import McpServerSettings, ProjectMcpServers
from agent.store.secrets import SecretBox
from agent.store.skills import ProjectSkills, SkillSettings
from agent.store.sql import SqlStore
from agent.testing import Script, ScriptedEndpoint, call, turns
from agent.testing.serving import serving
from agent.types import AssistantMessage, Status, TaskRequest
from tests.integration.chat import tool_server
from tests.integration.orchestrator.conftest import PATCH, REPAIR, users

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"),)
BOX = SecretBox(Fernet.generate_key().decode())
SECRET = "hush-hush-1234"
RELEASE = SkillSettings(description="before a\nrelease", text="Ask Ada.\nThen tag.")


@asynccontextmanager
async def worker(
    store: SqlStore, tmp_path: Path, endpoint: ScriptedEndpoint, networks: tuple[Network, ...] = LOOPBACK
) -> AsyncIterator[Worker]:
    with endpoint.running() as url:
        settings = WorkerSettings(store="", data=tmp_path / "data", model=ModelSettings(url=url))
        async with open_worker(settings, store=store, secret_box=BOX, mcp_networks=networks) as opened:
            yield opened


async def read(store: SqlStore, task_id: str) -> list[str]:
    """What the model read, call by call."""
    events = await users(store).events(task_id)
    return [event.body["observation"]["text"] for event in events if event.type == "tool.completed"]


def names(request: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in request["tools"]]


async def test_an_assistant_is_offered_the_projects_skills_and_reads_one_when_it_asks(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    await ProjectSkills(store.database).create(DEFAULT_PROJECT, "release", RELEASE, updated_by="ada")
    endpoint = ScriptedEndpoint(
        turns(call("skill", skill="release"), call("bash", command="cat /tmp/skills/release/SKILL.md"), *REPAIR)
    )
    task = await users(store).submit(make_request(profile="assistant", review=False))
    async with worker(store, tmp_path, endpoint) as working:
        await working.drain()

    ended = await users(store).get(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    assert "read it with the tool skill:\n- release: before a release" in endpoint.requests[0]["messages"][0]["content"]
    assert names(endpoint.requests[0])[-1] == "skill"
    skill, file = (await read(store, task.id))[:2]
    assert skill.startswith("Ask Ada.\nThen tag.")
    assert "Ask Ada.\nThen tag." in file


async def test_agents_of_a_fixed_profile_and_of_projects_without_skills_are_as_ever(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    endpoint = ScriptedEndpoint(turns(*REPAIR))
    await users(store).submit(make_request(profile="assistant", review=False))
    async with worker(store, tmp_path, endpoint) as working:
        await working.drain()
        await ProjectSkills(store.database).create(DEFAULT_PROJECT, "release", RELEASE, updated_by="ada")
        await users(store).submit(make_request())
        await working.drain()

    assert all("skill" not in names(request) for request in endpoint.requests)
    assert {len(names(request)) for request in endpoint.requests} == {11, 3}


async def test_an_agent_that_is_measured_gets_nothing_of_its_project(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    await ProjectSkills(store.database).create(DEFAULT_PROJECT, "release", RELEASE, updated_by="ada")
    await serve(store, "http://127.0.0.1:9/mcp")
    endpoint = ScriptedEndpoint(turns(*REPAIR))
    task = await users(store).submit(make_request(profile="assistant", review=False, benchmark=True))
    async with worker(store, tmp_path, endpoint) as working:
        await working.drain()

    assert (await users(store).get(task.id)).patch == PATCH
    assert "release" not in endpoint.requests[0]["messages"][0]["content"]
    assert {"skill", "mcp_call", "mcp_tools"}.isdisjoint(names(endpoint.requests[0]))
    assert len(names(endpoint.requests[0])) == 11


async def test_a_run_keeps_the_prompt_it_began_with_whatever_becomes_of_the_skills(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    skills = ProjectSkills(store.database)
    await skills.create(DEFAULT_PROJECT, "release", RELEASE, updated_by="ada")
    script: Script = turns(call("ask_user", question="Shall I?"), call("skill", skill="release"), *REPAIR)
    endpoint = ScriptedEndpoint(script)
    task = await users(store).submit(make_request(profile="assistant", review=False))
    async with worker(store, tmp_path, endpoint) as working:
        await working.drain()
        await skills.delete(DEFAULT_PROJECT, "release")
        await skills.create(DEFAULT_PROJECT, "another", RELEASE, updated_by="ada")
        await users(store).tell(task.id, "message.added", {"message_id": "m", "text": "Yes.", "delivery": "steer"})
        await working.drain()

    first, last = endpoint.requests[0], endpoint.requests[-1]
    assert (first["messages"][0], first["tools"]) == (last["messages"][0], last["tools"])
    assert "was deleted" in (await read(store, task.id))[1]
    assert [event.type for event in await users(store).events(task.id)].count("run.equipped") == 1


async def test_a_trajectory_shows_the_prompt_and_the_tools_that_the_model_was_given(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    await ProjectSkills(store.database).create(DEFAULT_PROJECT, "release", RELEASE, updated_by="ada")
    endpoint = ScriptedEndpoint(turns(*REPAIR))
    task = await users(store).submit(make_request(profile="assistant", review=False))
    async with worker(store, tmp_path, endpoint) as working:
        await working.drain()
    transport = httpx.ASGITransport(create_app(store, _resolve))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        (run,) = (await http.get(f"/v1/tasks/{task.id}/trajectory?format=openai")).json()["runs"]

    assert run["messages"][0] == endpoint.requests[0]["messages"][0]
    assert run["tools"] == endpoint.requests[0]["tools"]


# Servers of tools.


def calls(tool: str, server: str = "tracker", **arguments: Any) -> AssistantMessage:
    return call("mcp_call", server=server, tool=tool, arguments=arguments)


async def serve(store: SqlStore, url: str, name: str = "tracker", **more: Any) -> None:
    settings = McpServerSettings(url=url, **more)
    await ProjectMcpServers(store.database).create(DEFAULT_PROJECT, name, settings, updated_by="ada")


async def keep_secret(store: SqlStore) -> dict[str, str]:
    """Headers that show it."""
    sealed = BOX.seal(DEFAULT_PROJECT, "TRACKER_TOKEN", SECRET)
    await store.identities.put_secret(DEFAULT_PROJECT, "TRACKER_TOKEN", sealed, updated_by="ada")
    return {"Authorization": "Bearer ${TRACKER_TOKEN}", "X-Team": "web"}


async def test_an_assistant_calls_tools_of_the_projects_servers_with_secrets_it_never_sees(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    heard: list[dict[str, str]] = []
    script = turns(
        call("mcp_list"), calls("repeat", text="tick"), call("bash", command="env; ls -a /tmp"), calls("die2"), *REPAIR
    )
    endpoint = ScriptedEndpoint(script)
    with tool_server.over_http(heard=heard) as url:
        await serve(store, url, headers=await keep_secret(store))
        task = await users(store).submit(make_request(profile="assistant", review=False))
        async with worker(store, tmp_path, endpoint) as working:
            await working.drain()

    ended = await users(store).get(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    assert names(endpoint.requests[0])[-3:] == ["mcp_list", "mcp_call", "mcp_read"]
    listed, said, seen, unknown = (await read(store, task.id))[:4]
    assert "repeat: Say it again." in listed
    assert said == "tick tick"
    assert "die2" in unknown
    assert {(request["authorization"], request["x-team"]) for request in heard} == {(f"Bearer {SECRET}", "web")}
    assert SECRET not in seen
    assert SECRET not in str(endpoint.requests)
    assert SECRET not in str(await users(store).events(task.id))


async def test_a_secret_that_a_server_repeats_is_not_shown_to_the_model(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    endpoint = ScriptedEndpoint(turns(calls("repeat", text=SECRET, times=1), *REPAIR))
    with tool_server.over_http() as url:
        await serve(store, url, headers=await keep_secret(store))
        task = await users(store).submit(make_request(profile="assistant", review=False))
        async with worker(store, tmp_path, endpoint) as working:
            await working.drain()

    assert (await read(store, task.id))[0] == "[the secret TRACKER_TOKEN]"


async def test_a_server_in_the_services_own_network_is_not_called(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    heard: list[dict[str, str]] = []
    endpoint = ScriptedEndpoint(turns(calls("repeat", text="tick"), call("mcp_list"), *REPAIR))
    with tool_server.over_http(heard=heard) as url:
        await serve(store, url)
        task = await users(store).submit(make_request(profile="assistant", review=False))
        async with worker(store, tmp_path, endpoint, networks=()) as working:
            await working.drain()

    assert (await users(store).get(task.id)).status is Status.SUCCEEDED
    called, listed = (await read(store, task.id))[:2]
    assert called.startswith("[error] tracker: ")
    assert "127.0.0.1 has no address on the public internet" in called
    assert listed == called
    assert heard == []


async def test_an_answer_of_a_server_that_would_unfold_to_any_size_is_not_read(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    folded = Response(gzip.compress(b" " * 2**20), headers={"Content-Encoding": "gzip"}, media_type="application/json")
    endpoint = ScriptedEndpoint(turns(calls("repeat", text="tick"), *REPAIR))
    with serving(folded) as port:
        await serve(store, f"http://127.0.0.1:{port}/mcp")
        task = await users(store).submit(make_request(profile="assistant", review=False))
        async with worker(store, tmp_path, endpoint) as working:
            await working.drain()

    assert (await users(store).get(task.id)).status is Status.SUCCEEDED
    assert "the answer is compressed" in (await read(store, task.id))[0]


async def test_what_is_wrong_with_a_server_is_read_by_the_model_and_the_run_goes_on(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    script = turns(
        calls("repeat", "away", text="a"), calls("repeat", "locked", text="a"), calls("environment"), *REPAIR
    )
    endpoint = ScriptedEndpoint(script)
    with tool_server.over_http() as url:
        await serve(store, url, tools=("repeat",))
        await serve(store, "http://127.0.0.1:9/mcp", "away")
        await serve(store, url, "locked", headers={"Authorization": "Bearer ${NOT_THERE}"})
        task = await users(store).submit(make_request(profile="assistant", review=False))
        async with worker(store, tmp_path, endpoint) as working:
            await working.drain()

    assert (await users(store).get(task.id)).status is Status.SUCCEEDED
    away, locked, left_out = (await read(store, task.id))[:3]
    assert away.startswith("[error] away: ")
    assert "the project has no secret NOT_THERE" in locked
    assert left_out == "[error] tracker has no tool 'environment'"


async def test_a_server_that_was_deleted_meanwhile_is_said_to_be_gone(
    store: SqlStore, tmp_path: Path, make_request: Callable[..., TaskRequest]
) -> None:
    await serve(store, "https://tracker.example/mcp")
    endpoint = ScriptedEndpoint(turns(call("ask_user", question="Shall I?"), calls("repeat"), *REPAIR))
    task = await users(store).submit(make_request(profile="assistant", review=False))
    async with worker(store, tmp_path, endpoint) as working:
        await working.drain()
        await ProjectMcpServers(store.database).delete(DEFAULT_PROJECT, "tracker")
        await users(store).tell(task.id, "message.added", {"message_id": "m", "text": "Yes.", "delivery": "steer"})
        await working.drain()

    assert endpoint.requests[0]["tools"] == endpoint.requests[-1]["tools"]
    assert "there is no server 'tracker'" in (await read(store, task.id))[1]


async def _resolve(path: Path, commit: str) -> str:
    raise NotImplementedError
