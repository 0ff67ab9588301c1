"""Opens a store from an address."""

import argparse
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import anyio
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent.config import Prices
from agent.errors import StoreError
from agent.store.blobs import open_blobs
from agent.store.database import Changes, Clock, Database
from agent.store.drafts import Drafts
from agent.store.piped_drafts import PipedDrafts
from agent.store.sql import SqlStore
from agent.store.sqlite import POLL_S, is_file, open_sqlite

if TYPE_CHECKING:  # Slow to import; who has a key has it already.
    from agent.store.secrets import SecretBox

STORE_VARIABLE = "MIMO_STORE"
"""Holds the address where no argument does: what is in an argument, a password too, all of a machine can see."""

_USE = "use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """``--store``, which workers, API and commands have alike."""
    known = os.environ.get(STORE_VARIABLE)
    text = f"Address of the store; else {STORE_VARIABLE}, the place for one with a password."
    parser.add_argument("--store", default=known, required=known is None, metavar="URL", help=text)


@asynccontextmanager
async def open_store(
    url: str,
    *,
    clock: Callable[[], datetime] | None = None,
    artifacts: str | None = None,
    box: "SecretBox | None" = None,
    prices: Prices | None = None,
) -> AsyncIterator[SqlStore]:
    """The store at ``url``, and what runs leave beside it at ``artifacts`` (see ``open_blobs``; None keeps nothing).

    Addresses are ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://`` in memory, and
    ``postgresql://USER:PASSWORD@HOST/DATABASE``. Tables are made where there are none. Those of an older program are
    brought up to date in a file; on a server ``python -m agent.store migrate`` does it, when the operator says so.

    Args:
        clock: what time it is; None: as the server says, or for a file, which is one machine's, this machine.
        box: seals the model's reasoning, and opens it; None stores it as it is.
        prices: what the limits of money of projects are counted by.

    Raises:
        StoreError: the address is of another kind, or the database cannot be used.
    """
    blobs = open_blobs(artifacts) if artifacts else None
    async with AsyncExitStack() as stack:
        store = SqlStore(*await _open(_parsed(url), clock and _told_by(clock), stack, box, prices), blobs)
        try:
            yield store
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()


async def migrate(url: str) -> None:
    """Make the tables of a store, or bring them up to date.

    Raises:
        StoreError: the address is of another kind, or the database cannot be used.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        await (await open_sqlite(parsed)).dispose()
    else:
        await _postgres().migrate_postgres(parsed)


def _parsed(url: str) -> URL:
    """
    Raises:
        StoreError: the address is of another kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"not a store address; {_USE}") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"no store for {parsed.get_backend_name()!r} addresses; {_USE}")
    return parsed


async def _open(
    url: URL, now: Clock | None, stack: AsyncExitStack, box: "SecretBox | None", prices: Prices | None
) -> tuple[Database, Drafts]:
    if url.get_backend_name() == "sqlite":
        drafts = PipedDrafts(Path(f"{url.database}-drafts")) if is_file(url) else Drafts()
        engine = await open_sqlite(url)
        stack.push_async_callback(_dispose, engine)
        now = now or _told_by(lambda: datetime.now(UTC))
        return Database(engine, Changes(POLL_S), now, one_writer=True, box=box, prices=prices), drafts
    engine, changes, drafts = await stack.enter_async_context(_postgres().connected(url, box))
    return Database(engine, changes, now or _postgres().server_time, box=box, prices=prices), drafts


async def _dispose(engine: AsyncEngine) -> None:
    with anyio.CancelScope(shield=True):
        await engine.dispose()


def _told_by(clock: Callable[[], datetime]) -> Clock:
    async def now(_: AsyncConnection) -> datetime:
        return clock()

    return now


def _postgres() -> ModuleType:
    """Imported only here: where nobody asks for a server, its driver need not be installed."""
    try:
        return import_module("agent.store.postgres")
    except ImportError as error:
        raise StoreError("a Postgres store needs psycopg; install mimo-coder[postgres]") from error
