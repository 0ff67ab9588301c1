"""What only a file has: other processes, other versions, and a next time."""

import multiprocessing
import sqlite3
from pathlib import Path

import anyio
import pytest

from agent.errors import StoreError
from agent.identity import DEFAULT_PROJECT
from agent.store.open import open_store
from agent.types import Event, TaskRequest

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")


async def test_tasks_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'store.db'}"
    async with open_store(url) as store:
        task = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    async with open_store(url) as store:
        assert await store.of(DEFAULT_PROJECT).get(task.id) == task


async def test_waiter_sees_events_written_through_another_connection(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(url) as reader, open_store(url) as writer:
        task = await writer.of(DEFAULT_PROJECT).submit(REQUEST)
        seen: list[tuple[Event, ...]] = []

        async def wait() -> None:
            seen.append(await reader.of(DEFAULT_PROJECT).wait_for_events(task.id, after=1, timeout_s=30))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await writer.of(DEFAULT_PROJECT).cancel(task.id)

        assert seen[0][0].type == "task.cancel_requested"


async def test_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_store(f"sqlite:///{path}"):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 99")
    connection.close()

    with pytest.raises(StoreError, match="schema revision 99"):
        async with open_store(f"sqlite:///{path}"):
            pass


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("these are not the bytes of a database, but long enough to be looked at" * 100)

    with pytest.raises(StoreError, match="not a database"):
        async with open_store(f"sqlite:///{path}"):
            pass


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", ""])
async def test_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///PATH"):
        async with open_store(url):
            pass


async def test_processes_that_open_a_new_file_at_once_share_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_submit_and_claim, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        await anyio.to_thread.run_sync(process.join)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    async with open_store(url) as store:
        tasks = (await store.of(DEFAULT_PROJECT).list_tasks()).tasks
    assert len(tasks) == 15
    assert {run.generation for task in tasks for run in task.runs} == {1}


def _submit_and_claim(url: str) -> None:
    anyio.run(_submit_and_claim_five, url)


async def _submit_and_claim_five(url: str) -> None:
    async with open_store(url) as store:
        for _ in range(5):
            await store.of(DEFAULT_PROJECT).submit(REQUEST)
            assert await store.claim("worker", 60) is not None
