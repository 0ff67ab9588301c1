"""What a project gives its agents: real workers, a scripted endpoint, and sandboxes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.api.app import create_app
from agent.config import ModelSettings
from agent.identity import DEFAULT_PROJECT
from agent.orchestrator.app import open_worker
from agent.orchestrator.settings import WorkerSettings
from agent.orchestrator.worker import Worker
from agent.store.skills import ProjectSkills, SkillSettings
from agent.store.sql import SqlStore
from agent.testing import Script, ScriptedEndpoint, call, turns
from agent.types import Status, TaskRequest
from tests.integration.orchestrator.conftest import PATCH, REPAIR, users

pytestmark = pytest.mark.anyio

RELEASE = SkillSettings(description="before a\nrelease", text="Ask Ada.\nThen tag.")


@asynccontextmanager
async def worker(store: SqlStore, tmp_path: Path, endpoint: ScriptedEndpoint) -> AsyncIterator[Worker]:
    with endpoint.running() as url:
        settings = WorkerSettings(store="", data=tmp_path / "data", model=ModelSettings(url=url))
        async with open_worker(settings, store=store) as opened:
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


async def _resolve(path: Path, commit: str) -> str:
    raise NotImplementedError
