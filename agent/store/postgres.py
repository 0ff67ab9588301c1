"""Postgres: one store for a service of many processes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import psycopg
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agent.errors import StoreError
from agent.store.database import Changes
from agent.store.migrations import HEAD, check_newer, create, revision_of, upgrade

_POOL_SIZE = 10
_CONNECT_TIMEOUT_S = 10

_LISTENING_POLL_S = 5.0
"""How often is looked although the server calls: a lease ends without a word."""

_DEAF_POLL_S = 0.3
"""The same while the connection that listens is lost."""

_LISTEN_AGAIN_S = 1.0

_CHANNEL = "mimo_tasks"

_MIGRATION_LOCK = 6_459_001
"""Number of the advisory lock under which tables are made and changed; any number nobody else uses."""

_logger = logging.getLogger(__name__)


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
    async def listening(self, url: URL) -> AsyncIterator[None]:
        listener = asyncio.ensure_future(self._listen(url))
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self, url: URL) -> None:
        conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S
                )
                async with connection:
                    await connection.execute(f"LISTEN {_CHANNEL}")
                    self.poll_s = _LISTENING_POLL_S
                    async for notification in connection.notifies():
                        self.tell((notification.payload,))
            except psycopg.OperationalError as error:
                _logger.warning("action=listen_lost error=%r", str(error))
            finally:
                self.poll_s = _DEAF_POLL_S
            await asyncio.sleep(_LISTEN_AGAIN_S)


def _engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
        pool_size=_POOL_SIZE,
        max_overflow=0,
        # After a restart of the server, a connection from before it is replaced instead of handed out.
        pool_pre_ping=True,
    )


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
