"""Opens a store from an address."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from agent.errors import StoreError
from agent.store.database import Changes, Database, utc_now
from agent.store.sql import SqlStore
from agent.store.sqlite import POLL_S, open_sqlite


@asynccontextmanager
async def open_store(url: str, *, clock: Callable[[], datetime] = utc_now) -> AsyncIterator[SqlStore]:
    """The store at ``url``: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` in memory.

    The file and its tables are made where they are missing, and brought up to date where they are older.

    Raises:
        StoreError: the address is of another kind, or the database is another version's.
    """
    engine = await open_sqlite(_parsed(url))
    store = SqlStore(Database(engine, Changes(POLL_S), clock))
    try:
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"not a store address: {url!r}; use sqlite:///PATH") from error
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(f"no store for {parsed.get_backend_name()!r} addresses; use sqlite:///PATH")
    return parsed
