"""From a database of an earlier program to this one."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from agent.errors import StoreError
from agent.identity import DEFAULT_PROJECT
from agent.store.__main__ import main
from agent.store.migrations import HEAD, upgrade
from agent.store.open import open_store
from agent.store.tables import metadata
from agent.types import Status
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

# As the first release wrote them, with a task that ended, one whose worker vanished, and one that waits.
FIRST_RELEASE = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE tasks (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(64) NOT NULL, request JSON NOT NULL,
    status VARCHAR(32) NOT NULL, cancel_requested BOOLEAN NOT NULL, last_seq INTEGER NOT NULL,
    created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL, started_at DATETIME, finished_at DATETIME,
    UNIQUE (task_id)
);
CREATE INDEX tasks_by_status ON tasks (status, position);
CREATE TABLE runs (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, run_id VARCHAR(64) NOT NULL, task_id VARCHAR(64) NOT NULL,
    attempt INTEGER NOT NULL, status VARCHAR(32) NOT NULL, generation INTEGER NOT NULL, lease_until DATETIME,
    stop_reason VARCHAR(32), verdict JSON, patch TEXT NOT NULL, steps INTEGER NOT NULL, usage JSON NOT NULL,
    error TEXT, started_at DATETIME, finished_at DATETIME,
    UNIQUE (run_id), FOREIGN KEY(task_id) REFERENCES tasks (task_id)
);
CREATE INDEX ix_runs_task_id ON runs (task_id);
CREATE INDEX runs_by_status ON runs (status, position);
CREATE TABLE events (
    task_id VARCHAR(64) NOT NULL, seq INTEGER NOT NULL, run_id VARCHAR(64), generation INTEGER NOT NULL,
    type VARCHAR(64) NOT NULL, body JSON NOT NULL, at DATETIME NOT NULL,
    PRIMARY KEY (task_id, seq), FOREIGN KEY(task_id) REFERENCES tasks (task_id)
);
CREATE INDEX ix_events_run_id ON events (run_id);
"""
REQUEST = '{"repository": "/repository", "problem_statement": "Repair it."}'
USAGE = '{"prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": 2, "reasoning_tokens": 0}'
AT = "2026-01-01 00:00:00.000000"


def first_release(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(FIRST_RELEASE)
    for name, status, generation, lease in (
        ("ended", "succeeded", 1, None),
        ("begun", "running", 1, AT),
        ("new", "queued", 0, None),
    ):
        connection.execute(
            "INSERT INTO tasks VALUES (NULL, ?, ?, ?, 0, 1, ?, ?, NULL, NULL)",
            (f"task_{name}", REQUEST, status, AT, AT),
        )
        connection.execute(
            "INSERT INTO runs VALUES (NULL, ?, ?, 1, ?, ?, ?, NULL, NULL, ?, 1, ?, NULL, NULL, NULL)",
            (f"run_{name}", f"task_{name}", status, generation, lease, "diff", USAGE),
        )
        connection.execute(
            "INSERT INTO events VALUES (?, 1, NULL, 0, 'task.submitted', ?, ?)", (f"task_{name}", "{}", AT)
        )
    connection.commit()
    connection.close()


async def test_file_of_the_first_release_is_brought_up_to_date_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_release(path)

    async with open_store(f"sqlite:///{path}") as store:
        tasks = store.of(DEFAULT_PROJECT)
        ended = await tasks.get("task_ended")
        claims = [await store.claim("worker", 15) for _ in range(3)]
        new = await tasks.submit(ended.request)

    assert (ended.status, ended.patch, ended.usage.prompt_tokens) == (Status.SUCCEEDED, "diff", 7)
    assert (ended.created_by, ended.created_at) == ("local", datetime(2026, 1, 1, tzinfo=UTC))
    assert [(claim.run_id, claim.generation) for claim in claims if claim] == [("run_begun", 2), ("run_new", 1)]
    assert new.status is Status.QUEUED


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_tables_made_step_by_step_are_those_made_at_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine = create_engine(_address(kind, tmp_path, request))
    with engine.begin() as connection:
        upgrade(connection)
        assert _differences(connection) == []
        assert connection.execute(text("SELECT project_id FROM projects")).scalars().all() == [DEFAULT_PROJECT]
    engine.dispose()


def test_server_with_tables_of_an_earlier_program_is_migrated_when_asked(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.new_database()
    export = ["export", "--store", url, "--project", DEFAULT_PROJECT]
    with _engine(url).begin() as connection:
        upgrade(connection, "0001")

    assert main(export) == 1
    assert "run 'python -m agent.store migrate'" in capsys.readouterr().err
    assert [main(["migrate", "--store", url]) for _ in range(2)] == [0, 0]
    assert main(export) == 0
    assert '"project_id": "default"' in capsys.readouterr().out


async def test_database_of_the_next_release_is_used_and_of_a_later_one_refused(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    for url in (f"sqlite:///{tmp_path / 'store.db'}", postgres.new_database()):
        async with open_store(url):
            pass
        with _engine(url).begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :next"), {"next": f"{int(HEAD) + 1:04}"})
        async with open_store(url) as store:
            await store.of(DEFAULT_PROJECT).list_tasks()
        with _engine(url).begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :next"), {"next": f"{int(HEAD) + 2:04}"})
        with pytest.raises(StoreError, match="use the program that wrote it"):
            async with open_store(url):
                pass


async def test_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(StoreError, match=r"cannot open postgresql.*mimo:\*\*\*@") as refused:
        async with open_store("postgresql://mimo:secret@127.0.0.1:1/mimo"):
            pass
    assert "secret" not in str(refused.value)


def test_the_address_may_stand_in_the_environment_and_an_argument_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIMO_STORE", f"sqlite:///{tmp_path / 'store.db'}")
    assert main(["migrate"]) == 0
    assert (tmp_path / "store.db").exists()
    assert main(["migrate", "--store", "mysql://host/name"]) == 1
    assert "use sqlite:///PATH" in capsys.readouterr().err


def test_command_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"

    assert main(["purge", "--store", url, "--project", "nobody"]) == 1
    assert "no project nobody" in capsys.readouterr().err
    assert main(["migrate", "--store", "mysql://host/name"]) == 1
    assert "use sqlite:///PATH" in capsys.readouterr().err
    purged = subprocess.run(
        [sys.executable, "-m", "agent.store", "purge", "--store", url, "--project", DEFAULT_PROJECT],
        capture_output=True,
        text=True,
        check=True,
    )
    assert purged.stdout == "0 tasks deleted\n"


def _address(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return _driven(server.new_database())


def _driven(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def _engine(url: str) -> Engine:
    return create_engine(_driven(url), poolclass=NullPool)


def _differences(connection: Connection) -> list[object]:
    """What alembic would still do; a table's own version is none of ours."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": False})
    return list(compare_metadata(context, metadata))
