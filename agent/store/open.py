"""Opens a store from an address."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, event, insert, make_url
from sqlalchemy import select as sql_select
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent.errors import StoreError
from agent.store.sql import READ_ONLY, SqlStore, utc_now
from agent.store.tables import SCHEMA_VERSION, metadata, schema

_BUSY_TIMEOUT_S = 30.0
"""How long SQLite waits for another writer. Transactions here take milliseconds; a full disk queue takes seconds."""

_OPEN_TRIES = 50
_OPEN_PAUSE_S = 0.1


@asynccontextmanager
async def open_store(url: str, *, clock: Callable[[], datetime] = utc_now) -> AsyncIterator[SqlStore]:
    """The store at ``url``: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` in memory.

    The file and its tables are made where they are missing.

    Raises:
        StoreError: the address is of another kind, or the file is another version's.
    """
    parsed = _sqlite_url(url)
    if parsed.database:
        _make_folder(Path(parsed.database).parent)
    engine = _engine(parsed)
    store = SqlStore(engine, clock=clock)
    try:
        await _create_tables(engine)
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


def _sqlite_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"not a store address: {url!r}; use sqlite:///PATH") from error
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(f"no store for {parsed.get_backend_name()!r} addresses; use sqlite:///PATH")
    if parsed.database == ":memory:":
        parsed = parsed.set(database=None)
    return parsed.set(drivername="sqlite+aiosqlite")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the store's folder {folder}: {error.strerror}") from error


def _engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        # The driver must not begin transactions by itself; _begin below does.
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S},
        poolclass=AsyncAdaptedQueuePool,
        # A database in memory lives in its one connection.
        pool_size=4 if url.database else 1,
        max_overflow=0,
    )
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _configure(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers go on while one writes.
    cursor.execute("PRAGMA journal_mode = WAL")
    # An event that was acknowledged survives a loss of power.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    """A transaction that will write takes the lock first: one that upgrades later fails instead of waiting."""
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


async def _create_tables(engine: AsyncEngine) -> None:
    for attempt in range(_OPEN_TRIES):
        try:
            async with engine.begin() as db:
                await db.run_sync(metadata.create_all)
                version = (await db.execute(sql_select(schema.c.version))).scalar()
                if version is None:
                    await db.execute(insert(schema).values(version=SCHEMA_VERSION))
        except DatabaseError as error:
            # Two processes that switch a new file to WAL at once: SQLite refuses one of them without waiting.
            if "locked" not in str(error) or attempt == _OPEN_TRIES - 1:
                raise StoreError(f"cannot open {engine.url.database}: {error.orig}") from error
            await anyio.sleep(_OPEN_PAUSE_S)
            continue
        if version not in (None, SCHEMA_VERSION):
            raise StoreError(
                f"{engine.url.database} has schema version {version}, this program reads {SCHEMA_VERSION}; "
                "use the program that wrote it, or another file"
            )
        return
