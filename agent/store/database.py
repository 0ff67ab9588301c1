"""Transactions on a database, and word of what they changed.

A change is one transaction that begins by locking the task's row (SQLite: the whole database, through ``BEGIN
IMMEDIATE``), so the log of a task has no holes and everything derived from it is true when the transaction ends.
Postgres waits on the row lock; SQLite has none and leaves ``FOR UPDATE`` out of the statement.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio
import sqlalchemy.exc
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from agent.config import Prices
from agent.errors import LeaseLost, StoreDamaged, StoreUnavailable
from agent.store.reasoning import BOX

if TYPE_CHECKING:
    from agent.store.secrets import SecretBox

READ_ONLY = "mimo_read_only"
"""Execution option of connections that never write: on SQLite they begin without the write lock."""

_PATIENCE_S = 30.0
"""So long one waits for a connection."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


Clock = Callable[[AsyncConnection], Awaitable[datetime]]
"""What time it is where the database is: all that share it must agree on when a lease ends."""


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
        self._tasks: WeakValueDictionary[str, anyio.Event] = WeakValueDictionary()
        self._any = anyio.Event()

    async def publish(self, db: AsyncConnection, task_ids: set[str]) -> None:
        """Part of a transaction: tell other processes, where the database can."""

    def tell(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            changed = self._tasks.pop(task_id, None)
            if changed is not None:
                changed.set()
        self._any.set()
        self._any = anyio.Event()

    def of_task(self, task_id: str) -> anyio.Event:
        """Set with the next change of the task."""
        changed = self._tasks.get(task_id)
        if changed is None:
            changed = self._tasks[task_id] = anyio.Event()
        return changed

    def of_any(self) -> anyio.Event:
        """Set with the next change of any task."""
        return self._any

    async def wait(self, changed: anyio.Event, timeout_s: float) -> None:
        with anyio.move_on_after(min(timeout_s, self.poll_s)):
            await changed.wait()


class Database:
    """An engine whose tables exist, and a clock."""

    def __init__(
        self,
        engine: AsyncEngine,
        changes: Changes,
        now: Clock,
        *,
        one_writer: bool = False,
        box: "SecretBox | None" = None,
        prices: Prices | None = None,
    ) -> None:
        """
        Args:
            one_writer: the database lets one transaction write at a time; its own queue for them is none, they poll.
            box: seals the model's reasoning; None stores it as it is.
            prices: of a million tokens; None: limits of money hold everybody back.
        """
        self.engine = engine.execution_options(**{BOX: box})
        self.changes = changes
        self.now = now
        self.box = box
        self.prices = prices
        self.unfinished: set[asyncio.Future[Any]] = set()
        """Transactions under way, also those whose caller is gone."""
        # In SQLite a transaction reads what there was when it began; in Postgres only where it is asked to.
        one_moment = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reader = self.engine.execution_options(**{READ_ONLY: True}, **one_moment)
        self._turn = asyncio.Lock() if one_writer else nullcontext()
        assert isinstance(engine.pool, QueuePool), engine.pool
        self._places = asyncio.Semaphore(engine.pool.size())

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Transaction]:
        """
        Raises:
            StoreUnavailable: the database went away, or its disk is full. Nothing was written, unless it went away
                in the moment of the commit.
        """
        async with _translated(), self._turn, self._place(), self.engine.begin() as db:
            transaction = Transaction(db, await self.now(db))
            yield transaction
            if transaction.touched:
                await self.changes.publish(db, transaction.touched)
        if transaction.touched:
            self.changes.tell(transaction.touched)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """What is read is of one moment.

        Raises:
            StoreUnavailable: the database went away.
        """
        async with _translated(), self._place(), self._reader.begin() as db:
            yield db

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Of a connection, in turn: the pool by itself lets who comes later go before who waits."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._places.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("the store cannot be used: all its connections are busy") from error
        try:
            yield
        finally:
            self._places.release()

    async def close(self) -> None:
        """Wait for the transactions under way. A connection that one has, disposing of the engine would leave open."""
        if self.unfinished:
            await asyncio.wait(self.unfinished)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not (isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated):
            raise
        raise StoreUnavailable(f"the store cannot be used: {error.orig}") from error
    except sqlalchemy.exc.TimeoutError as error:
        raise StoreUnavailable("the store cannot be used: all its connections are busy") from error
    except JSONDecodeError as error:
        raise StoreDamaged(f"what is stored is no JSON: {error}") from error


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
