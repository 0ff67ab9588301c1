"""The store over SQL: SQLite on one machine, written so that Postgres fits.

Every change is one transaction that begins by locking the task's row (SQLite: the whole database, through
``BEGIN IMMEDIATE``), so the log of a task has no holes and everything derived from it is true when the transaction
ends. Postgres waits on the row lock; SQLite has none and leaves ``FOR UPDATE`` out of the statement.
"""

import asyncio
import base64
import binascii
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
from sqlalchemy import ColumnElement, RowMapping, Select, and_, func, insert, or_, update
from sqlalchemy import select as sql_select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent.errors import InvalidCursor, LeaseLost, UnknownTask
from agent.store.base import Claim, RunRecord, RunResult, TaskPage, TaskRecord, select
from agent.store.derive import advance, task_status
from agent.store.ids import new_id
from agent.store.tables import events, runs, tasks
from agent.types import Event, Status, StopReason, TaskRequest, Usage, Verdict, VerdictKind

READ_ONLY = "mimo_read_only"
"""Execution option of connections that never write: on SQLite they begin without the write lock."""

_POLL_S = 0.2
"""How often other processes' writes are looked for; every process may write, and SQLite cannot call us."""

_LIVING = tuple(status.value for status in Status if not status.terminal)
_RUN_FIELDS = tuple(RunRecord.model_fields)
_EVENT_FIELDS = tuple(Event.model_fields)


_P = ParamSpec("_P")
_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _whole(
    method: Callable[Concatenate["SqlStore", _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate["SqlStore", _P], Coroutine[Any, Any, _T]]:
    """Finish the transaction even where the caller is cancelled: half a conversation would spoil the connection."""

    @functools.wraps(method)
    async def shielded(store: "SqlStore", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        work = asyncio.ensure_future(method(store, *args, **kwargs))
        store.unfinished.add(work)
        work.add_done_callback(store.unfinished.discard)
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


class SqlStore:
    """An :class:`~agent.store.base.Store` on an engine whose tables exist; ``open_store`` makes both."""

    def __init__(self, engine: AsyncEngine, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{READ_ONLY: True})
        self._clock = clock
        self._changed = anyio.Event()
        self.unfinished: set[asyncio.Future[Any]] = set()
        """Transactions under way, also those whose caller is gone."""

    async def close(self) -> None:
        if self.unfinished:
            await asyncio.wait(self.unfinished)
        await self._engine.dispose()

    # What users ask.

    @_whole
    async def submit(self, request: TaskRequest) -> TaskRecord:
        task_id, now = new_id("task"), self._clock()
        body = request.model_dump(mode="json")
        async with self._writing() as db:
            await db.execute(
                insert(tasks).values(
                    task_id=task_id, request=body, status=Status.QUEUED, created_at=now, updated_at=now
                )
            )
            for attempt in range(1, request.attempts + 1):
                await db.execute(
                    insert(runs).values(
                        run_id=new_id("run"),
                        task_id=task_id,
                        attempt=attempt,
                        status=Status.QUEUED,
                        usage=Usage().model_dump(),
                    )
                )
            await self._log(db, task_id, None, 0, "task.submitted", {"request": body})
            return await _task(db, task_id)

    @_whole
    async def get(self, task_id: str) -> TaskRecord:
        async with self._reading() as db:
            return await _task(db, task_id)

    @_whole
    async def list_tasks(self, *, status: Status | None = None, cursor: str | None = None, limit: int = 20) -> TaskPage:
        query = sql_select(tasks).order_by(tasks.c.position.desc()).limit(limit + 1)
        if status is not None:
            query = query.where(tasks.c.status == status)
        if cursor is not None:
            query = query.where(tasks.c.position < _decode_cursor(cursor))
        async with self._reading() as db:
            rows = (await db.execute(query)).mappings().all()
            page = rows[:limit]
            owned = await _runs(db, runs.c.task_id.in_([row["task_id"] for row in page]), brief=True)
        next_cursor = _encode_cursor(page[-1]["position"]) if len(rows) > limit else None
        return TaskPage(
            tasks=tuple(_task_record(row, owned.get(row["task_id"], ())) for row in page), next_cursor=next_cursor
        )

    @_whole
    async def events(self, task_id: str, *, after: int = 0, limit: int = 1000) -> tuple[Event, ...]:
        where = and_(events.c.task_id == task_id, events.c.seq > after)
        async with self._reading() as db:
            found = await _events(db, where, limit)
            if not found:
                await _require_task(db, task_id)
        return found

    async def wait_for_events(self, task_id: str, *, after: int, timeout_s: float) -> tuple[Event, ...]:
        deadline = anyio.current_time() + timeout_s
        while True:
            changed = self._changed
            found = await self.events(task_id, after=after)
            left_s = deadline - anyio.current_time()
            if found or left_s <= 0:
                return found
            await _wait(changed, min(left_s, _POLL_S))

    @_whole
    async def cancel(self, task_id: str) -> TaskRecord:
        async with self._writing() as db:
            task = await _task(db, task_id, lock=True)
            if task.status.terminal or task.cancel_requested:
                return task
            await db.execute(update(tasks).where(tasks.c.task_id == task_id).values(cancel_requested=True))
            await self._log(db, task_id, None, 0, "task.cancel_requested", {})
            await self._cancel_queued(db, task)
            await self._derive_task(db, task_id)
            return await _task(db, task_id)

    # What workers do.

    @_whole
    async def claim(self, worker_id: str, ttl_s: float) -> Claim | None:
        async with self._reading() as db:
            if (await db.execute(_claimable(self._clock()))).first() is None:
                return None
        async with self._writing() as db:
            now = self._clock()
            row = (await db.execute(_claimable(now))).mappings().first()
            if row is None:
                return None
            task_id, run = row["task_id"], _run_record(row)
            generation = run.generation + 1
            body = {"worker_id": worker_id, "attempt": run.attempt}
            event = await self._log(db, task_id, run.run_id, generation, "run.claimed", body)
            await _save_run(db, advance(run, event), lease_until=now + timedelta(seconds=ttl_s))
            started_at = func.coalesce(tasks.c.started_at, now)
            await db.execute(update(tasks).where(tasks.c.task_id == task_id).values(started_at=started_at))
            await self._derive_task(db, task_id)
            return Claim(
                run_id=run.run_id,
                task=await _task(db, task_id),
                generation=generation,
                events=await _events(db, events.c.run_id == run.run_id),
            )

    async def wait_for_work(self, timeout_s: float) -> None:
        await _wait(self._changed, min(timeout_s, _POLL_S))

    @_whole
    async def renew(self, run_id: str, generation: int, ttl_s: float) -> None:
        async with self._writing(silent=True) as db:
            await _owned(db, run_id, generation)
            until = self._clock() + timedelta(seconds=ttl_s)
            await db.execute(update(runs).where(runs.c.run_id == run_id).values(lease_until=until))

    @_whole
    async def cancel_requested(self, task_id: str) -> bool:
        query = sql_select(tasks.c.cancel_requested).where(tasks.c.task_id == task_id)
        async with self._reading() as db:
            return bool((await db.execute(query)).scalar())

    @_whole
    async def append(self, run_id: str, generation: int, type: str, body: dict[str, Any]) -> Event:  # noqa: A002
        async with self._writing() as db:
            task_id, run = await _owned(db, run_id, generation)
            event = await self._log(db, task_id, run_id, generation, type, body)
            advanced = advance(run, event)
            if advanced != run:
                await _save_run(db, advanced)
                await self._derive_task(db, task_id)
            return event

    @_whole
    async def finish(self, run_id: str, generation: int, result: RunResult) -> TaskRecord:
        async with self._writing() as db:
            task_id, run = await _owned(db, run_id, generation)
            await self._end(db, task_id, run, result)
            if result.verdict and result.verdict.kind is VerdictKind.VERIFIED:
                await self._cancel_queued(db, await _task(db, task_id))
            await self._derive_task(db, task_id)
            return await _task(db, task_id)

    @_whole
    async def release(self, run_id: str, generation: int) -> None:
        async with self._writing() as db:
            task_id, _ = await _owned(db, run_id, generation)
            await self._log(db, task_id, run_id, generation, "run.released", {})
            await db.execute(update(runs).where(runs.c.run_id == run_id).values(lease_until=None))

    # Parts of a transaction.

    @asynccontextmanager
    async def _writing(self, *, silent: bool = False) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as connection:
            yield connection
        if not silent:
            self._changed.set()
            self._changed = anyio.Event()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._reader.begin() as connection:
            yield connection

    async def _log(
        self, db: AsyncConnection, task_id: str, run_id: str | None, generation: int, kind: str, body: dict[str, Any]
    ) -> Event:
        now = self._clock()
        following = (
            update(tasks)
            .where(tasks.c.task_id == task_id)
            .values(last_seq=tasks.c.last_seq + 1, updated_at=now)
            .returning(tasks.c.last_seq)
        )
        seq = (await db.execute(following)).scalar_one()
        event = Event(task_id=task_id, seq=seq, run_id=run_id, generation=generation, type=kind, body=body, at=now)
        await db.execute(insert(events).values({name: getattr(event, name) for name in _EVENT_FIELDS}))
        return event

    async def _end(self, db: AsyncConnection, task_id: str, run: RunRecord, result: RunResult) -> None:
        body = {
            "attempt": run.attempt,
            "status": result.status,
            "stop_reason": result.stop_reason,
            "verdict": result.verdict.kind if result.verdict else None,
            "error": result.error,
        }
        event = await self._log(db, task_id, run.run_id, run.generation, "run.finished", body)
        ended = advance(run, event).model_copy(update={"verdict": result.verdict, "patch": result.patch})
        await _save_run(db, ended, patch=result.patch, lease_until=None)

    async def _cancel_queued(self, db: AsyncConnection, task: TaskRecord) -> None:
        """End the attempts that nobody began."""
        result = RunResult(status=Status.CANCELLED, stop_reason=StopReason.CANCELLED)
        for run in task.runs:
            if run.status is Status.QUEUED:
                await self._end(db, task.id, run, result)

    async def _derive_task(self, db: AsyncConnection, task_id: str) -> None:
        """Write what the runs say about their task; with the last of them the task ends."""
        owned = (await _runs(db, runs.c.task_id == task_id))[task_id]
        status = task_status(owned)
        change: dict[str, Any] = {"status": status}
        if status.terminal:
            best = select(owned)
            body = {
                "status": status,
                "stop_reason": best.stop_reason,
                "verdict": best.verdict.kind if best.verdict else None,
                "run_id": best.run_id,
                "error": best.error,
            }
            event = await self._log(db, task_id, None, 0, "task.finished", body)
            change["finished_at"] = event.at
        await db.execute(update(tasks).where(tasks.c.task_id == task_id).values(change))


async def _wait(changed: anyio.Event, timeout_s: float) -> None:
    with anyio.move_on_after(timeout_s):
        await changed.wait()


def _claimable(now: datetime) -> Select[Any]:
    """The run whose turn it is: every task gets a first attempt before any gets a second, which it may not need."""
    unowned = or_(runs.c.lease_until.is_(None), runs.c.lease_until < now)
    return (
        sql_select(runs)
        .join(tasks, tasks.c.task_id == runs.c.task_id)
        .where(runs.c.status.in_(_LIVING), unowned)
        .order_by(runs.c.attempt, runs.c.position)
        .limit(1)
        .with_for_update(of=tasks, skip_locked=True)
    )


async def _owned(db: AsyncConnection, run_id: str, generation: int) -> tuple[str, RunRecord]:
    """The run and its task's id, locked, if the caller's generation is the one that owns it."""
    query = (
        sql_select(runs)
        .join(tasks, tasks.c.task_id == runs.c.task_id)
        .where(runs.c.run_id == run_id)
        .with_for_update(of=tasks)
    )
    row = (await db.execute(query)).mappings().first()
    if row is None:
        raise LeaseLost(f"no run {run_id}")
    run = _run_record(row)
    if run.generation != generation:
        raise LeaseLost(f"run {run_id} is at generation {run.generation}, this worker's is {generation}")
    if run.status.terminal:
        raise LeaseLost(f"run {run_id} has ended")
    return row["task_id"], run


async def _require_task(db: AsyncConnection, task_id: str, *, lock: bool = False) -> RowMapping:
    query = sql_select(tasks).where(tasks.c.task_id == task_id)
    row = (await db.execute(query.with_for_update() if lock else query)).mappings().first()
    if row is None:
        raise UnknownTask(f"no task {task_id}")
    return row


async def _task(db: AsyncConnection, task_id: str, *, lock: bool = False) -> TaskRecord:
    row = await _require_task(db, task_id, lock=lock)
    return _task_record(row, (await _runs(db, runs.c.task_id == task_id))[task_id])


async def _runs(
    db: AsyncConnection, where: ColumnElement[bool], *, brief: bool = False
) -> dict[str, tuple[RunRecord, ...]]:
    """Runs by task, in the order of their attempts; ``brief`` leaves out patches and outputs."""
    columns = [column for column in runs.c if not (brief and column.name == "patch")]
    found: dict[str, tuple[RunRecord, ...]] = {}
    for row in (await db.execute(sql_select(*columns).where(where).order_by(runs.c.position))).mappings():
        run = _run_record(row)
        if brief and run.verdict:
            run = run.model_copy(update={"verdict": _without_output(run.verdict)})
        found[row["task_id"]] = (*found.get(row["task_id"], ()), run)
    return found


async def _events(db: AsyncConnection, where: ColumnElement[bool], limit: int | None = None) -> tuple[Event, ...]:
    query = sql_select(events).where(where).order_by(events.c.seq).limit(limit)
    return tuple(Event.model_validate(dict(row)) for row in (await db.execute(query)).mappings())


async def _save_run(db: AsyncConnection, run: RunRecord, **columns: Any) -> None:
    values = run.model_dump(mode="python", exclude={"run_id", "attempt", "patch", "verdict", "usage"})
    values["usage"] = run.usage.model_dump()
    values["verdict"] = run.verdict.model_dump(mode="json") if run.verdict else None
    await db.execute(update(runs).where(runs.c.run_id == run.run_id).values(values | columns))


def _run_record(row: RowMapping) -> RunRecord:
    return RunRecord.model_validate({name: row[name] for name in _RUN_FIELDS if name in row})


def _task_record(row: RowMapping, owned: tuple[RunRecord, ...]) -> TaskRecord:
    return TaskRecord(
        id=row["task_id"],
        request=TaskRequest.model_validate(row["request"]),
        status=row["status"],
        runs=owned,
        cancel_requested=row["cancel_requested"],
        last_seq=row["last_seq"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def _without_output(verdict: Verdict) -> Verdict:
    evidence = tuple(item.model_copy(update={"output": ""}) for item in verdict.evidence)
    return verdict.model_copy(update={"evidence": evidence})


def _encode_cursor(position: int) -> str:
    return base64.urlsafe_b64encode(f"p{position}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor(f"not a cursor of this service: {cursor[:64]!r}") from error
    # SQLite integers end at 63 bits; a longer number is none of ours.
    if not text.startswith("p") or not text[1:].isdigit() or len(text) > 19:
        raise InvalidCursor(f"not a cursor of this service: {cursor[:64]!r}")
    return int(text[1:])
