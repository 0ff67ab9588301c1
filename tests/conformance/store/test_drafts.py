"""Answers while they are written, from one process to another: each has a store of its own here."""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import psycopg
import pytest
from cryptography.fernet import Fernet

from agent.store.drafts import PIECE_CHARS, DraftPiece
from agent.store.open import open_store
from agent.store.secrets import SecretBox
from agent.store.sql import SqlStore
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

PIECES = tuple(
    DraftPiece(run_id="run_1", step=1, kind="reasoning", offset=number, text=text)
    for number, text in enumerate(
        ["again", "again", "\U0001f600" * PIECE_CHARS, "\0\n\x1b[31m\u2028", "é" * PIECE_CHARS]
    )
)


@pytest.fixture
async def other(url: str, store: SqlStore) -> AsyncIterator[SqlStore]:
    """As another process sees the same; a store in memory is one process's."""
    if url == "sqlite://":
        yield store
        return
    async with open_store(url) as opened:
        yield opened


async def _watched(store: SqlStore, task_id: str, watched: bool = True) -> None:
    while store.drafts.watched(task_id) is not watched:  # noqa: ASYNC110 - nobody tells us
        await anyio.sleep(0.02)


async def _all_of(heard: list[DraftPiece], num: int) -> list[DraftPiece]:
    while len(heard) < num:  # noqa: ASYNC110 - nobody tells us
        await anyio.sleep(0.02)
    return heard


async def test_who_watches_hears_every_piece_as_it_was_said(store: SqlStore, other: SqlStore) -> None:
    heard: list[DraftPiece] = []
    async with other.drafts.listening("task_1", heard.append):
        await _watched(store, "task_1")
        store.drafts.say("task_2", PIECES[:1])
        store.drafts.say("task_1", PIECES)
        assert tuple(await _all_of(heard, len(PIECES))) == PIECES


async def test_every_watcher_hears_and_one_who_listens_twice_hears_once(store: SqlStore, other: SqlStore) -> None:
    first: list[DraftPiece] = []
    second: list[DraftPiece] = []
    async with store.drafts.listening("task_1", second.append), other.drafts.listening("task_1", first.append):
        async with other.drafts.listening("task_1", first.append):
            await _watched(store, "task_1")
            other.drafts.say("task_1", PIECES[:1])
            await _all_of(first, 1)
            await _all_of(second, 1)
        other.drafts.say("task_1", PIECES[2:3])
        await _all_of(first, 2)
        await _all_of(second, 2)

    assert first == second == [PIECES[0], PIECES[2]]


async def test_nobody_watches_a_task_that_nobody_listens_to(store: SqlStore, other: SqlStore) -> None:
    async with other.drafts.listening("task_1", lambda piece: None):
        await _watched(store, "task_1")
        assert not store.drafts.watched("task_2")


async def test_watcher_that_went_is_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(url) as store, open_store(url) as other:
        async with other.drafts.listening("task_1", lambda piece: None):
            await _watched(store, "task_1")
        await _watched(store, "task_1", watched=False)

    assert list((tmp_path / "store.db-drafts").iterdir()) == []


async def test_watcher_that_was_killed_is_forgotten_when_something_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "store.db-drafts"
    async with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        folder.mkdir()
        os.mkfifo(folder / "task_1.killed")
        await _watched(store, "task_1")
        store.drafts.say("task_1", PIECES)
        await _watched(store, "task_1", watched=False)

    assert list(folder.iterdir()) == []


async def test_watcher_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    heard: list[DraftPiece] = []
    async with open_store(url) as store, open_store(url) as other, other.drafts.listening("task_1", heard.append):
        for _ in range(200):  # More than a pipe holds, while nothing reads.
            store.drafts.say("task_1", PIECES)
        assert len(await _all_of(heard, 1)) < 200 * len(PIECES)
        assert all(piece in PIECES for piece in heard)


async def test_only_its_account_may_read_a_pipe(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store, store.drafts.listening("task_1", print):
        (pipe,) = (tmp_path / "store.db-drafts").iterdir()
        assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
        assert stat.S_IMODE(pipe.parent.stat().st_mode) == 0o700


async def test_what_goes_through_the_server_is_sealed_where_there_is_a_key(postgres: PostgresServer) -> None:
    url, box = postgres.new_database(), SecretBox(Fernet.generate_key().decode())
    heard: list[DraftPiece] = []
    async with (
        open_store(url, box=box) as store,
        open_store(url, box=box) as other,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as eavesdropper,
    ):
        await eavesdropper.execute("LISTEN mimo_drafts")
        async with other.drafts.listening("task_1", heard.append):
            await _watched(store, "task_1")
            store.drafts.say("task_1", PIECES)
            await _all_of(heard, len(PIECES))
        overheard = [said.payload async for said in eavesdropper.notifies(timeout=60, stop_after=len(PIECES))]

    assert tuple(heard) == PIECES
    assert len(overheard) == len(PIECES)
    assert not any("again" in payload or "reasoning" in payload for payload in overheard)


async def test_store_that_is_closed_while_it_sends_leaves_no_connection_open(postgres: PostgresServer) -> None:
    url = postgres.new_database()

    async def say_on(store: SqlStore) -> None:
        while True:
            store.drafts.say("task_1", PIECES[:1])
            await anyio.lowlevel.checkpoint()

    for num_reads in range(6):
        async with anyio.create_task_group() as saying, open_store(url) as store:
            saying.start_soon(say_on, store)
            for _ in range(num_reads):
                await store.of("default").list_tasks()
            saying.cancel_scope.cancel()

    with psycopg.connect(url, autocommit=True) as asking, anyio.fail_after(120):
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while asking.execute(others.encode()).fetchone() != (0,):  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(0.05)
