"""A task goes on from an earlier moment of another one, whose steps it does not take again."""

from collections.abc import Callable

import httpx
import pytest

from agent.api.app import create_app
from agent.errors import UnknownTask
from agent.orchestrator.worker import Worker
from agent.repository import check_repository
from agent.store.base import Project
from agent.store.sql import SqlStore
from agent.testing import ScriptedModel, call, turns
from agent.types import Status, TaskRequest
from tests.integration.orchestrator.conftest import PATCH, REPAIR, users

pytestmark = pytest.mark.anyio

OTHER = call("str_replace", path="calc.py", old_str="a - b", new_str="b + a")


async def test_a_fork_goes_on_with_the_files_and_the_view_of_that_moment(
    store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest]
) -> None:
    tasks = users(store)
    source = await tasks.submit(make_request())
    await make_worker(*REPAIR).drain()
    first_step = next(event for event in await tasks.events(source.id) if event.type == "step.completed")

    forked = await tasks.fork(source.id, first_step.seq + 2, created_by="local")
    assert (forked.status, forked.steps) == (Status.QUEUED, 1)
    model = ScriptedModel(turns(REPAIR[0], OTHER, REPAIR[2]))
    await make_worker(model=model).drain()

    ended = await tasks.get(forked.id)
    assert ended.status is Status.SUCCEEDED
    assert "+    return b + a" in ended.patch
    assert "notes.txt" in ended.patch
    assert [len(messages) for messages, _ in model.requests] == [4, 6]
    assert (await tasks.get(source.id)).patch == PATCH
    log = await tasks.events(forked.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event.body["task_id"] for event in log if event.type == "run.forked"] == [source.id]


async def test_a_fork_before_the_first_step_begins_anew(
    store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest]
) -> None:
    tasks = users(store)
    source = await tasks.submit(make_request(attempts=2))
    await make_worker(*REPAIR).drain()
    forked = await tasks.fork(source.id, 1)
    await make_worker(*REPAIR).drain()
    ended = await tasks.get(forked.id)
    assert (ended.status, ended.patch, len(ended.runs)) == (Status.SUCCEEDED, PATCH, 1)


async def test_an_agent_that_had_finished_goes_on_with_what_its_fork_is_told(
    store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest]
) -> None:
    source = await users(store).submit(make_request())
    await make_worker(*REPAIR).drain()
    end = (await users(store).get(source.id)).last_seq

    transport = httpx.ASGITransport(create_app(store, check_repository))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        fork = f"/v1/tasks/{source.id}/fork"
        blank = await http.post(fork, json={"at_event": end, "message": " "})
        forked = (await http.post(fork, json={"at_event": end, "message": "Leave a note."})).json()["id"]
    model = ScriptedModel(turns(*REPAIR, call("bash", command="echo done > done.txt"), REPAIR[2]))
    await make_worker(model=model).drain()

    ended = await users(store).get(forked)
    assert (blank.status_code, blank.json()["errors"][0]["pointer"]) == (422, "#/message")
    assert (ended.status, ended.steps) == (Status.SUCCEEDED, 5)
    assert "+    return a + b" in ended.patch
    assert "done.txt" in ended.patch
    assert model.requests[0][0][-1] == {"role": "user", "content": "Leave a note."}


async def test_tasks_of_other_projects_cannot_be_forked(
    store: SqlStore, make_request: Callable[..., TaskRequest]
) -> None:
    task = await users(store).submit(make_request())
    await store.make_project(Project(project_id="other"))
    with pytest.raises(UnknownTask):
        await store.of("other").fork(task.id, 1)
