"""What the files of a worker are worth once their tasks, runs and projects are gone."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from agent.orchestrator.leftovers import Leftovers
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.store.base import Project
from agent.store.retention import Retention
from agent.store.sql import SqlStore
from agent.testing import turns
from agent.types import Limits, SetUp, Status, TaskRequest
from tests.integration.orchestrator.conftest import PATCH, REPAIR, Clock, users

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where ``make_worker`` keeps files."""
    return tmp_path / "data"


@pytest.fixture
def leftovers(store: SqlStore, folder: Path) -> Leftovers:
    return Leftovers(folder, Retention(store.database))


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(("task_", "run_", ".task_"))}


async def test_files_go_with_their_task_and_those_of_others_stay(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
) -> None:
    gone, stays = [(await users(store).submit(make_request())).id for _ in range(2)]
    await make_worker(script=turns(*REPAIR)).drain()
    (folder / f".{gone}.git.of a killed worker").mkdir()
    (folder / "another program's").mkdir()
    await leftovers.remove()
    assert kept(folder) == {f"{gone}.git", f".{gone}.git.of a killed worker", f"{stays}.git"}

    await Retention(store.database).delete("default", gone)
    await leftovers.remove()

    assert kept(folder) == {f"{stays}.git"}
    assert (folder / "another program's").is_dir()


async def test_a_fork_still_finds_the_files_of_a_task_that_was_deleted(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
) -> None:
    source = await users(store).submit(make_request())
    await make_worker(*REPAIR).drain()
    end = (await users(store).get(source.id)).last_seq
    step = next(event for event in await users(store).events(source.id) if event.type == "step.completed")
    forked = await users(store).fork(source.id, step.seq)
    await Retention(store.database).delete("default", source.id)
    await leftovers.remove()

    await make_worker(*REPAIR).drain()
    await leftovers.remove()

    ended = await users(store).get(forked.id)
    assert end > step.seq
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    assert kept(folder) == {f"{forked.id}.git"}


async def test_work_trees_of_a_run_that_waits_stay_until_it_expires(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
    clock: Clock,
) -> None:
    task = await users(store).submit(make_request(limits=Limits(max_steps=1), on_limit="ask"))
    await make_worker(*REPAIR).drain()
    files = {f"{task.id}.git", f"{task.runs[0].run_id}.checkpoints"}
    await leftovers.remove()
    assert kept(folder) == files

    clock.advance(timedelta(days=8).total_seconds())
    await store.tidy(timedelta(days=7))
    await leftovers.remove()

    assert (await users(store).get(task.id)).status is Status.EXPIRED
    assert kept(folder) == {f"{task.id}.git"}


async def test_what_a_project_shares_goes_with_it(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
) -> None:
    for project_id in ("web", "data"):
        await store.make_project(Project(project_id=project_id))
        await store.of(project_id).submit(make_request(setup=SetUp(script="echo made > made.txt")))
    await make_worker(script=turns(*REPAIR)).drain()
    assert {path.name for path in (folder / "setups").iterdir()} == {"web", "data"}

    await Retention(store.database).purge("web")
    await leftovers.remove()

    assert {path.name for path in (folder / "setups").iterdir()} == {"data"}
    assert len(kept(folder)) == 1


async def test_a_mark_that_was_not_written_to_its_end_is_written_again(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
) -> None:
    task = await users(store).submit(make_request())
    await make_worker(*REPAIR).drain()
    (folder / "store").write_text("")
    await Retention(store.database).delete("default", task.id)

    await leftovers.remove()

    assert kept(folder) == set()


async def test_the_folder_of_another_store_is_left_alone(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
) -> None:
    task = await users(store).submit(make_request())
    await make_worker(*REPAIR).drain()
    (folder / "store").write_text("2020-01-01T00:00:00+00:00")
    await Retention(store.database).delete("default", task.id)

    await leftovers.remove()

    assert kept(folder) == {f"{task.id}.git"}


async def test_a_worker_looks_by_itself(
    store: SqlStore,
    make_worker: Callable[..., Worker],
    make_request: Callable[..., TaskRequest],
    leftovers: Leftovers,
    folder: Path,
) -> None:
    task = await users(store).submit(make_request())
    await make_worker(*REPAIR).drain()
    await Retention(store.database).delete("default", task.id)
    runner = cast(Runner, None)  # It claims nothing, so it never asks.
    stopping = asyncio.Event()
    worker = Worker(store, runner, worker_id="tidy", may_claim=lambda: False, tidy_every_s=0.01, leftovers=leftovers)

    working = asyncio.ensure_future(worker.run(stopping))
    async with asyncio.timeout(60):
        while kept(folder):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stopping.set()
    await working
