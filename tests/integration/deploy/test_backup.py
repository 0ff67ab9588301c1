"""The lines of docs/operations.md bring a store back as it was."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.identity import DEFAULT_PROJECT
from agent.store.open import open_store
from agent.types import TaskRequest
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
REQUEST = TaskRequest(repository="/repository", problem_statement="mend it")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def run(action: str, kind: str, **variables: str) -> None:
    """What the page says in the fence after ``<!-- action: kind -->``."""
    (lines,) = re.findall(rf"<!-- {action}: {kind} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    programs = [str(Path(sys.executable).parent), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    path = ":".join([*programs, os.environ["PATH"]])
    subprocess.run(["bash", "-euc", lines], env={**os.environ, "PATH": path, **variables}, check=True)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Those of the service and of its backup, by the names that the page gives them."""
    for name in ("data", "backup"):
        (tmp_path / name).mkdir()
    places = {"DATA": str(tmp_path / "data"), "BACKUP": str(tmp_path / "backup")}
    kept(places).write_text("before")
    return places


def kept(folders: dict[str, str]) -> Path:
    """A file beside the store."""
    return Path(folders["DATA"], "kept")


async def test_a_file_comes_back_from_a_backup_that_was_made_while_it_was_used(folders: dict[str, str]) -> None:
    url = f"sqlite:///{folders['DATA']}/service.db"
    async with open_store(url) as store:
        before = await store.of(DEFAULT_PROJECT).submit(REQUEST)
        run("backup", "sqlite", **folders)
        after = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    kept(folders).write_text("after")
    run("restore", "sqlite", **folders)
    await assert_restored(url, folders, before.id, after.id)


async def test_a_database_comes_back_from_a_backup_that_was_made_while_it_was_used(
    folders: dict[str, str], postgres: PostgresServer
) -> None:
    async with open_store(url := postgres.new_database()) as store:
        before = await store.of(DEFAULT_PROJECT).submit(REQUEST)
        run("backup", "postgres", **folders, DATABASE=url)
        after = await store.of(DEFAULT_PROJECT).submit(REQUEST)
    kept(folders).write_text("after")
    run("restore", "postgres", **folders, DATABASE=(empty := postgres.new_database()))
    await assert_restored(empty, folders, before.id, after.id)


async def assert_restored(url: str, folders: dict[str, str], before: str, after: str) -> None:
    assert kept(folders).read_text() == "before"
    async with open_store(url) as store:
        claimed = await store.claim("worker", 60)
        assert claimed is not None
        assert claimed.task.id == before
        assert after not in [task.id for task in (await store.of(DEFAULT_PROJECT).list_tasks()).tasks]
