"""The durable list of sandboxes: who has each, for how long, and what it takes to take one over.

It is written by those who make sandboxes (:class:`RecordedBackend`), read by an executor that was restarted, and
compared by the reaper with what the machines really hold. Keys are in it: keep it as private as the sandboxes' content.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    URL,
    Column,
    Engine,
    Executable,
    Float,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from sandbox.errors import NoRoom, SandboxError
from sandbox.inventory import Found, Handle, LastingBackend, LastingSandbox
from sandbox.types import SandboxSpec

_NUM_CONNECTIONS = 8
_MAKING_LOCK = 5_077_310
"""Number of the advisory lock of Postgres under which the table is made; any number nobody else uses."""
_log = logging.getLogger(__name__)


class Record(BaseModel):
    """One sandbox, as its owner wrote it down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    spec: SandboxSpec
    address: str
    boot_id: str
    key: bytes
    run: str
    """Whom it was given to; "" while it waits in a pool."""
    tenant: str
    """Of that run."""
    owner: str
    """The process that cares for it; "" once it has let go."""
    lease_until: float
    """The owner says so before this time, in seconds since 1970, or is taken for dead."""

    @property
    def handle(self) -> Handle:
        return Handle(self.id, self.address, self.boot_id, self.key)


class Registry(Protocol):
    """Where the records are. While that does not answer, each call raises :class:`~sandbox.errors.NoRoom`."""

    async def put(self, record: Record) -> None:
        """Add it, or replace the one of that id."""

    async def get(self, id: str) -> Record | None: ...  # noqa: A002  # the field's name

    async def all(self) -> Sequence[Record]: ...

    async def assign(self, id: str, run: str, tenant: str) -> None: ...  # noqa: A002

    async def hand_over(self, id: str, owner: str, lease_until: float) -> None:  # noqa: A002
        """Somebody else cares for it from now on; "" for nobody."""

    async def release(self, id: str, owner: str, lease_until: float) -> None:  # noqa: A002
        """As :meth:`hand_over` to nobody, where it is still this owner's."""

    async def renew(self, owner: str, lease_until: float) -> None:
        """For all that ``owner`` has."""

    async def forget(self, id: str) -> None: ...  # noqa: A002


class RecordedBackend:
    """Another backend, everything of which is on record while it lives."""

    def __init__(
        self,
        backend: LastingBackend,
        registry: Registry,
        *,
        owner: str,
        lease_s: float = 60.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Use :meth:`open`, which also renews the lease."""
        self.name = backend.name
        self.capabilities = backend.capabilities
        self._backend = backend
        self._registry = registry
        self._owner = owner
        self._lease_s = lease_s
        self._now = now

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        backend: LastingBackend,
        registry: Registry,
        *,
        owner: str,
        lease_s: float = 60.0,
        now: Callable[[], float] = time.time,
    ) -> AsyncIterator[Self]:
        """Renews the lease of everything on record as ``owner``'s; the backend is closed at the end."""
        recorded = cls(backend, registry, owner=owner, lease_s=lease_s, now=now)
        renewing = asyncio.create_task(recorded._renew())
        try:
            yield recorded
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
            await recorded.close()
            if not renewing.cancelled():
                renewing.result()

    async def acquire(self, spec: SandboxSpec) -> LastingSandbox:
        sandbox = await self._backend.acquire(spec)
        handle = sandbox.handle
        record = Record(
            id=handle.id,
            spec=spec,
            address=handle.address,
            boot_id=handle.boot_id,
            key=handle.key,
            run="",
            tenant="",
            owner=self._owner,
            lease_until=self._now() + self._lease_s,
        )
        try:
            await self._registry.put(record)
        except BaseException:
            await sandbox.close()
            raise
        return self._watched(sandbox)

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> LastingSandbox:
        sandbox = await self._backend.attach(handle, spec, term)
        try:
            await self._registry.hand_over(handle.id, self._owner, self._now() + self._lease_s)
        except BaseException:
            await sandbox.detach()
            raise
        return self._watched(sandbox)

    async def found(self) -> Sequence[Found]:
        return await self._backend.found()

    async def remove(self, id: str) -> None:  # noqa: A002
        await self._backend.remove(id)

    async def close(self) -> None:
        await self._backend.close()

    def _watched(self, sandbox: LastingSandbox) -> LastingSandbox:
        return _Watched(sandbox, self._registry, self._let_go)

    async def _let_go(self, id_: str) -> None:
        """Who comes next has a lease's time to take it over."""
        with _unless_away("release"):
            await self._registry.release(id_, self._owner, self._now() + self._lease_s)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            with _unless_away("renew"):  # the next time is in time, too
                await self._registry.renew(self._owner, self._now() + self._lease_s)


class _Watched:
    """A sandbox on record. Everything but its end is the sandbox's own."""

    def __init__(self, sandbox: LastingSandbox, registry: Registry, let_go: Callable[[str], Awaitable[None]]) -> None:
        self._sandbox = sandbox
        self._registry = registry
        self._let_go = let_go

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox, name)

    async def close(self) -> None:
        id_ = self._sandbox.handle.id
        # First nobody's: should the end fail, or we end before it, the reaper goes on.
        with _unless_away("let_go"):
            await self._registry.hand_over(id_, "", 0.0)
        await self._sandbox.close()
        with _unless_away("forget"):
            await self._registry.forget(id_)

    async def detach(self) -> None:
        await self._let_go(self._sandbox.handle.id)
        await self._sandbox.detach()


@contextmanager
def _unless_away(action: str) -> Iterator[None]:
    """What is not written down now, the reaper finds."""
    try:
        yield
    except SandboxError as error:
        _log.warning("action=%s reason=%r", action, str(error))


class SqlRegistry:
    """Records in a database: SQLite for one machine, Postgres for several. Each call is one turn of one thread."""

    def __init__(self, engine: Engine, num_writers: int) -> None:
        """Use :func:`open_registry`."""
        self._engine = engine
        self._turn = asyncio.Semaphore(num_writers)

    async def put(self, record: Record) -> None:
        values = record.model_dump() | {"spec": record.spec.model_dump_json()}
        await self._write(delete(_sandboxes).where(_sandboxes.c.id == record.id), insert(_sandboxes).values(**values))

    async def get(self, id: str) -> Record | None:  # noqa: A002
        found = await self._read(select(_sandboxes).where(_sandboxes.c.id == id))
        return found[0] if found else None

    async def all(self) -> Sequence[Record]:
        return await self._read(select(_sandboxes))

    async def assign(self, id: str, run: str, tenant: str) -> None:  # noqa: A002
        await self._write(update(_sandboxes).where(_sandboxes.c.id == id).values(run=run, tenant=tenant))

    async def hand_over(self, id: str, owner: str, lease_until: float) -> None:  # noqa: A002
        values = {"owner": owner, "lease_until": lease_until}
        await self._write(update(_sandboxes).where(_sandboxes.c.id == id).values(**values))

    async def release(self, id: str, owner: str, lease_until: float) -> None:  # noqa: A002
        theirs = update(_sandboxes).where(_sandboxes.c.id == id, _sandboxes.c.owner == owner)
        await self._write(theirs.values(owner="", lease_until=lease_until))

    async def renew(self, owner: str, lease_until: float) -> None:
        await self._write(update(_sandboxes).where(_sandboxes.c.owner == owner).values(lease_until=lease_until))

    async def forget(self, id: str) -> None:  # noqa: A002
        await self._write(delete(_sandboxes).where(_sandboxes.c.id == id))

    async def _read(self, wanted: Select[Any]) -> list[Record]:
        def read() -> list[Record]:
            with _translated(self._engine), self._engine.connect() as connection:
                return [_record(dict(row)) for row in connection.execute(wanted).mappings()]

        return await asyncio.to_thread(read)

    async def _write(self, *changes: Executable) -> None:
        """All in one transaction; in SQLite one by one, for those that it makes wait ask until they give up."""

        def write() -> None:
            with _translated(self._engine), self._engine.begin() as connection:
                for change in changes:
                    connection.execute(change)

        async with self._turn:
            await asyncio.to_thread(write)


@asynccontextmanager
async def open_registry(url: str) -> AsyncIterator[SqlRegistry]:
    """The registry at ``sqlite:////var/lib/mimo/sandboxes.db`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.

    It is made where there is none.

    Raises:
        ValueError: the address names another database.
        NoRoom: that does not answer.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            engine, num_writers = _sqlite(parsed), 1
        case "postgresql":
            engine, num_writers = _postgres(parsed), _NUM_CONNECTIONS
        case other:
            raise ValueError(f"a registry cannot be in {other!r}; name one of sqlite:/// or postgresql://")
    try:
        await asyncio.to_thread(_make_table, engine)
        yield SqlRegistry(engine, num_writers)
    finally:
        await asyncio.to_thread(engine.dispose)


def _sqlite(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        # Before it has any content: the keys of all sandboxes will be in it.
        os.close(os.open(Path(url.database), os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(url)
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _postgres(url: URL) -> Engine:
    # After a restart of the server, a connection from before it is replaced instead of handed out.
    return create_engine(url.set(drivername="postgresql+psycopg"), pool_size=_NUM_CONNECTIONS, pool_pre_ping=True)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise NoRoom(f"the registry of sandboxes at {engine.url} does not answer: {str(error.orig).strip()}") from error


def _make_table(engine: Engine) -> None:
    with _translated(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # two that make what is not there at once fail
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MAKING_LOCK})
        if inspect(connection).has_table(_sandboxes.name):
            return  # else who may not make tables could not use it
        connection.execute(CreateTable(_sandboxes, if_not_exists=True))
        for index in _sandboxes.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))


def _set_up_sqlite(connection: Any, _: object) -> None:
    # Several processes write; what the last moment of a power failure loses, the reaper finds.
    for line in ("PRAGMA busy_timeout=10000", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"):
        connection.execute(line)


def _record(row: dict[str, Any]) -> Record:
    return Record.model_validate(row | {"spec": SandboxSpec.model_validate_json(row["spec"])})


_sandboxes = Table(
    "sandboxes",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("run", Text, nullable=False, index=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False, index=True),
    Column("lease_until", Float, nullable=False),
)
