"""A task goes on from an earlier moment of another one, whose steps it does not take again."""

from collections.abc import Callable

import pytest

from agent.errors import UnknownTask
from agent.orchestrator.worker import Worker
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


async def test_tasks_of_other_projects_cannot_be_forked(
    store: SqlStore, make_request: Callable[..., TaskRequest]
) -> None:
    task = await users(store).submit(make_request())
    await store.put_project(Project(project_id="other"))
    with pytest.raises(UnknownTask):
        await store.of("other").fork(task.id, 1)
