"""Transactions on a database, and word of what they changed.

A change is one transaction that begins by locking the task's row (SQLite: the whole database, through ``BEGIN
IMMEDIATE``), so the log of a task has no holes and everything derived from it is true when the transaction ends.
Postgres waits on the row lock; SQLite has none and leaves ``FOR UPDATE`` out of the statement.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import anyio
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent.errors import LeaseLost, StoreUnavailable

READ_ONLY = "mimo_read_only"
"""Execution option of connections that never write: on SQLite they begin without the write lock."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Transaction:
    """One that writes."""

    db: AsyncConnection
    now: datetime
    touched: set[str] = field(default_factory=set)
    """Tasks whose log grew."""


class Changes:
    """Wakes those who wait for a task's log, or for work, when something may have come."""

    def __init__(self, poll_s: float) -> None:
        """
        Args:
            poll_s: how often waiters look by themselves: for what other processes wrote, and for leases that ended.
        """
        self.poll_s = poll_s
        self._tasks: dict[str, anyio.Event] = {}
        self._any = anyio.Event()

    def tell(self, task_ids: set[str]) -> None:
        for task_id in task_ids:
            changed = self._tasks.pop(task_id, None)
            if changed is not None:
                changed.set()
        self._any.set()
        self._any = anyio.Event()

    def of_task(self, task_id: str) -> anyio.Event:
        """Set with the next change of the task."""
        return self._tasks.setdefault(task_id, anyio.Event())

    def of_any(self) -> anyio.Event:
        return self._any

    async def wait(self, changed: anyio.Event, timeout_s: float) -> None:
        with anyio.move_on_after(min(timeout_s, self.poll_s)):
            await changed.wait()


class Database:
    """An engine whose tables exist, and a clock."""

    def __init__(self, engine: AsyncEngine, changes: Changes, clock: Callable[[], datetime]) -> None:
        self.changes = changes
        self.clock = clock
        self.unfinished: set[asyncio.Future[Any]] = set()
        """Transactions under way, also those whose caller is gone."""
        self._engine = engine
        self._reader = engine.execution_options(**{READ_ONLY: True})

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Transaction]:
        """
        Raises:
            StoreUnavailable: the database went away, or its disk is full. Nothing was written, unless it went away
                in the moment of the commit.
        """
        async with _translated(), self._engine.begin() as db:
            transaction = Transaction(db, self.clock())
            yield transaction
        if transaction.touched:
            self.changes.tell(transaction.touched)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """
        Raises:
            StoreUnavailable: the database went away.
        """
        async with _translated(), self._reader.begin() as db:
            yield db

    async def close(self) -> None:
        if self.unfinished:
            await asyncio.wait(self.unfinished)
        await self._engine.dispose()


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise StoreUnavailable(f"the store cannot be used: {error.orig}") from error


class OnDatabase(Protocol):
    @property
    def database(self) -> Database: ...


_Self = TypeVar("_Self", bound=OnDatabase)


def whole(
    method: Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _T]]:
    """Finish the transaction even where the caller is cancelled: half a conversation would spoil the connection."""

    @functools.wraps(method)
    async def shielded(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        unfinished = self.database.unfinished
        work = asyncio.ensure_future(method(self, *args, **kwargs))
        unfinished.add(work)
        work.add_done_callback(unfinished.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_report_failure)
            raise

    return shielded


def _report_failure(work: asyncio.Future[Any]) -> None:
    """Log how a transaction failed whose caller is gone, and can no longer be told."""
    if work.cancelled() or (error := work.exception()) is None:
        return
    if isinstance(error, LeaseLost):  # As if the caller had gone a moment earlier.
        _logger.info("action=lose reason=%r", str(error))
    else:
        _logger.error("action=fail error=%r", error, exc_info=error)
