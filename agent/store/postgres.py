"""Postgres: one store for a service of many processes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import URL, Connection, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agent.errors import StoreError
from agent.store.database import Changes
from agent.store.drafts import Drafts
from agent.store.migrations import HEAD, check_newer, create, revision_of, upgrade
from agent.store.notifications import CONNECT_TIMEOUT_S, listen
from agent.store.postgres_drafts import WATCHED_CHANNEL, PostgresDrafts

if TYPE_CHECKING:  # Slow to import; who has a key has it already.
    from agent.store.secrets import SecretBox

_POOL_SIZE = 10

_LISTENING_POLL_S = 5.0
"""How often is looked although the server calls: a lease ends without a word."""

_DEAF_POLL_S = 0.3
"""The same while the connection that listens is lost."""

_CHANNEL = "mimo_tasks"

_MIGRATION_LOCK = 6_459_001
"""Number of the advisory lock under which tables are made and changed; any number nobody else uses."""


async def open_postgres(url: URL) -> AsyncEngine:
    """An engine on a database with the tables of this program; they are made where there are none.

    Raises:
        StoreError: the server cannot be reached, or the tables are of another version.
    """
    engine = _engine(url)
    try:
        await _in_transaction(engine, _create_or_check)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await engine.dispose()
        raise
    return engine


@asynccontextmanager
async def connected(url: URL, box: "SecretBox | None") -> AsyncIterator[tuple[AsyncEngine, Changes, Drafts]]:
    """As :func:`open_postgres`, and what the server calls out while this is open."""
    engine, changes = await open_postgres(url), PostgresChanges()
    drafts = PostgresDrafts(url, engine, box)
    try:
        async with drafts.opened(), changes.listening(url, {WATCHED_CHANNEL: drafts.hear_watched}):
            yield engine, changes, drafts
    finally:
        # Not before nobody has a connection: one that comes back to an engine that was disposed of stays open.
        with anyio.CancelScope(shield=True):
            await engine.dispose()


async def server_time(db: AsyncConnection) -> datetime:
    now: datetime = (await db.exec_driver_sql("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(UTC)


async def migrate_postgres(url: URL) -> None:
    """Make the tables, or bring them up to date, while programs of the release before go on.

    Raises:
        StoreError: the server cannot be reached, or the tables are of a newer program.
    """
    engine = _engine(url)
    try:
        await _in_transaction(engine, _create_or_upgrade)
    finally:
        await engine.dispose()


class PostgresChanges(Changes):
    """The server tells of every commit (LISTEN and NOTIFY); while it cannot be heard, waiters look by themselves."""

    def __init__(self) -> None:
        super().__init__(_DEAF_POLL_S)

    async def publish(self, db: AsyncConnection, task_ids: set[str]) -> None:
        for task_id in task_ids:
            await db.execute(text("SELECT pg_notify(:channel, :task)"), {"channel": _CHANNEL, "task": task_id})

    @asynccontextmanager
    async def listening(self, url: URL, heard: Mapping[str, Callable[[str], None]]) -> AsyncIterator[None]:
        """
        Args:
            heard: other channels, and what gets their payloads.
        """
        channels = {_CHANNEL: lambda task_id: self.tell((task_id,)), **heard}
        listener = asyncio.ensure_future(listen(url, channels, self._connected))
        try:
            yield
        finally:
            listener.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([listener])

    def _connected(self, is_connected: bool) -> None:
        self.poll_s = _LISTENING_POLL_S if is_connected else _DEAF_POLL_S


def _engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
        pool_size=_POOL_SIZE,
        max_overflow=0,
        # After a restart of the server, a connection from before it is replaced instead of handed out.
        pool_pre_ping=True,
    )
    event.listen(engine.sync_engine, "handle_error", _leave_reader)
    return engine


def _leave_reader(context: ExceptionContext) -> None:
    """A server that takes no writes (any more) is not the one to be connected to: another was promoted, or will be."""
    if isinstance(context.original_exception, ReadOnlySqlTransaction):
        context.is_disconnect = True


async def _in_transaction(engine: AsyncEngine, work: Callable[[Connection], None]) -> None:
    name = engine.url.render_as_string()
    try:
        async with engine.begin() as db:
            await db.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})
            await db.run_sync(work)
    except StoreError as error:
        raise StoreError(f"{name}: {error}") from error
    except DBAPIError as error:
        raise StoreError(f"cannot open {name}: {error.orig}") from error


def _create_or_check(connection: Connection) -> None:
    revision = revision_of(connection)
    if revision is None:
        create(connection)
    elif int(revision) < int(HEAD):
        raise StoreError(f"schema revision {revision}, this program needs {HEAD}; run 'python -m agent.store migrate'")
    else:
        check_newer(revision)


def _create_or_upgrade(connection: Connection) -> None:
    revision = revision_of(connection)
    if revision is None:
        create(connection)
    elif int(revision) < int(HEAD):
        upgrade(connection)
    else:
        check_newer(revision)
