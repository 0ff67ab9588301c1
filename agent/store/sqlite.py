"""SQLite: a file for one machine, or memory."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiosqlite
import anyio
from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent.errors import StoreError
from agent.store.database import READ_ONLY
from agent.store.migrations import HEAD, check_newer, create, revision_of, upgrade

POLL_S = 0.1
"""How often other processes' writes are looked for: every process may write, and SQLite cannot call us."""

_BUSY_TIMEOUT_S = 30.0
"""How long SQLite waits for another writer. Transactions here take milliseconds; a full disk queue takes seconds."""

_OPEN_TRIES = 50
_OPEN_PAUSE_S = 0.1


async def open_sqlite(url: URL) -> AsyncEngine:
    """An engine whose file and tables exist, and are of this program.

    Raises:
        StoreError: the file cannot be used; the message says why.
    """
    if url.database == ":memory:":
        url = url.set(database=None)
    if url.database:
        _make_folder(Path(url.database).parent)
    engine = _engine(url.set(drivername="sqlite+aiosqlite"))
    try:
        await _prepare(engine)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await engine.dispose()
        raise
    return engine


def is_file(url: URL) -> bool:
    """Whether other processes can open it too; one in memory is this process's own."""
    return url.database not in (None, "", ":memory:")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the store's folder {folder}: {error.strerror}") from error


def _engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        # The driver must not begin transactions by itself; _begin below does.
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S, "async_creator_fn": _connect},
        poolclass=AsyncAdaptedQueuePool,
        # A database in memory lives in its one connection.
        pool_size=4 if url.database else 1,
        max_overflow=0,
    )
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


class _Connection(aiosqlite.Connection):
    """A connection with a thread of its own, and one way there for each statement.

    aiosqlite goes to the thread four times: to open a cursor, to execute, to fetch, to close. Each way costs more than
    most statements here.
    """

    def cursor(self) -> "_Cursor":  # type: ignore[override]
        return _Cursor(self._execute, self._conn)


class _Cursor:
    """What SQLAlchemy asks of a cursor; it is executed once, and all its rows are fetched then."""

    arraysize = 1

    def __init__(self, go: Callable[[Callable[[], None]], Any], connection: sqlite3.Connection) -> None:
        """
        Args:
            go: calls something in the connection's thread.
        """
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._go = go
        self._connection = connection
        self._rows: Iterable[Any] = ()

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Self:
        await self._go(partial(self._do, sqlite3.Cursor.execute, sql, parameters))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Self:
        await self._go(partial(self._do, sqlite3.Cursor.executemany, sql, parameters))
        return self

    async def fetchall(self) -> Iterable[Any]:
        return self._rows

    async def close(self) -> None:
        """It was closed when its rows were fetched."""

    def _do(self, how: Callable[..., Any], sql: str, parameters: Any) -> None:
        cursor = self._connection.cursor()
        try:
            how(cursor, sql, parameters)
            self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
            self._rows = cursor.fetchall() if cursor.description else ()
        finally:
            cursor.close()


def _connect(*arguments: Any, **options: Any) -> _Connection:
    connection = _Connection(partial(sqlite3.connect, *arguments, **options), iter_chunk_size=64)
    connection._thread.daemon = True  # As SQLAlchemy does: a process that ends does not wait for it.
    return connection


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


async def _prepare(engine: AsyncEngine) -> None:
    for attempt in range(_OPEN_TRIES):
        try:
            async with engine.begin() as db:
                await db.run_sync(_create_or_upgrade)
                return
        except StoreError as error:
            raise StoreError(f"{engine.url.database}: {error}") from error
        except DatabaseError as error:
            # Two processes that switch a new file to WAL at once: SQLite refuses one of them without waiting.
            if "locked" not in str(error) or attempt == _OPEN_TRIES - 1:
                raise StoreError(f"cannot open {engine.url.database}: {error.orig}") from error
        await anyio.sleep(_OPEN_PAUSE_S)


def _create_or_upgrade(connection: Connection) -> None:
    """The file is this program's alone, or at least this machine's: nobody else need be asked."""
    revision = revision_of(connection)
    if revision is None:
        create(connection)
    elif int(revision) < int(HEAD):
        upgrade(connection)
    else:
        check_newer(revision)
