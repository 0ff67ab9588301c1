"""Workers' writes that come at the same moment, done in one transaction.

Most of what a transaction costs is its own, not the event's: the commit, and the way to the database and back. A
process with a thousand runs appends hundreds of events a second, so what comes while one transaction is under way
waits for the next and goes with it.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, bindparam, insert, select, update

from agent.errors import LeaseLost, StoreUnavailable
from agent.log import Entry
from agent.store.base import RunRecord
from agent.store.database import Database, Transaction
from agent.store.derive import advance, changes
from agent.store.journal import derive_task
from agent.store.reasoning import sealed
from agent.store.rows import EVENT_FIELDS, run_record, run_values, verify_owner
from agent.store.tables import events, runs, tasks
from agent.store.webhooks import announce
from agent.types import Event

_MOST = 500
"""Writes of one transaction; databases bound the parameters of a statement."""


@dataclass(frozen=True, slots=True)
class _Append:
    run_id: str
    generation: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class _Renewal:
    run_id: str
    generation: int
    ttl_s: float


_Write = _Append | _Renewal
_Outcome = tuple[Event, ...] | LeaseLost
"""The events that were written; none for a renewal."""


@dataclass(slots=True, eq=False)
class _Batch:
    writes: list[_Write] = field(default_factory=list)
    done: "asyncio.Future[Sequence[_Outcome]]" = field(init=False)


class Batches:
    """Writes of workers under their leases. Callers must not be cancelled while they wait: others wait for the same."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._open: _Batch | None = None

    async def extend(self, run_id: str, generation: int, entries: Sequence[Entry]) -> tuple[Event, ...]:
        return await self._write(_Append(run_id, generation, entries))

    async def renew(self, run_id: str, generation: int, ttl_s: float) -> None:
        await self._write(_Renewal(run_id, generation, ttl_s))

    async def _write(self, write: _Write) -> tuple[Event, ...]:
        batch = self._open
        if batch is None or len(batch.writes) == _MOST:
            batch = self._open = _Batch()
            batch.done = asyncio.ensure_future(self._do(batch))
        number = len(batch.writes)
        batch.writes.append(write)
        try:
            outcome = (await batch.done)[number]
        except StoreUnavailable:
            raise
        except Exception:  # noqa: BLE001 - its own failure is raised again
            # What cannot be written may be another's: nobody fails for what somebody else wrote.
            (outcome,) = await self._do(_Batch([write]))
        if isinstance(outcome, LeaseLost):
            raise outcome
        return outcome

    async def _do(self, batch: _Batch) -> Sequence[_Outcome]:
        try:
            async with self._turn, self._database.writing() as transaction:
                self._close(batch)
                return await _Writing(transaction).do(batch.writes)
        finally:
            self._close(batch)

    def _close(self, batch: _Batch) -> None:
        """Who comes from now on goes with the next."""
        if self._open is batch:
            self._open = None


class _Writing:
    """One batch, in its transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._rows: dict[str, RowMapping] = {}
        self._last_seq: dict[str, int] = {}
        self._runs: dict[str, RunRecord] = {}
        """Those that changed, as they are now."""
        self._events: list[Event] = []
        self._leases: dict[str, datetime] = {}

    async def do(self, writes: Sequence[_Write]) -> Sequence[_Outcome]:
        await self._read({write.run_id for write in writes})
        outcomes = [self._decide(write) for write in writes]
        if self._leases:
            await self._save_leases()
        if self._events:
            await self._save_events()
        if self._runs:
            await self._save_runs()
        return outcomes

    async def _read(self, run_ids: Iterable[str]) -> None:
        """Lock first, then read; tasks always in the same order, so that no two batches wait for each other."""
        db, its = self._transaction.db, runs.c.run_id.in_(run_ids)
        locked = select(tasks.c.task_id, tasks.c.last_seq).where(tasks.c.task_id.in_(select(runs.c.task_id).where(its)))
        for row in await db.execute(locked.order_by(tasks.c.task_id).with_for_update()):
            self._last_seq[row.task_id] = row.last_seq
        columns = [column for column in runs.c if column.name != "patch"]
        for found in (await db.execute(select(*columns).where(its))).mappings():
            self._rows[found["run_id"]] = found

    def _decide(self, write: _Write) -> _Outcome:
        row = self._rows.get(write.run_id)
        if row is None:
            return LeaseLost(f"no run {write.run_id}")
        try:
            verify_owner(row, write.generation)
        except LeaseLost as lost:
            return lost
        if isinstance(write, _Renewal):
            self._leases[write.run_id] = self._transaction.now + timedelta(seconds=write.ttl_s)
            return ()
        return tuple([self._append(write, row, *entry) for entry in write.entries])

    def _append(self, write: _Append, row: RowMapping, kind: str, body: dict[str, Any]) -> Event:
        task_id = row["task_id"]
        self._last_seq[task_id] += 1
        event = Event(
            task_id=task_id,
            seq=self._last_seq[task_id],
            run_id=write.run_id,
            generation=write.generation,
            type=kind,
            body=body,
            at=self._transaction.now,
        )
        self._events.append(event)
        if changes(event):
            self._runs[write.run_id] = advance(self._runs.get(write.run_id) or run_record(row), event)
        return event

    async def _save_leases(self) -> None:
        query = update(runs).where(runs.c.run_id == bindparam("its")).values(lease_until=bindparam("until"))
        rows = [{"its": run_id, "until": until} for run_id, until in self._leases.items()]
        await self._transaction.db.execute(query, rows)

    async def _save_events(self) -> None:
        db, now = self._transaction.db, self._transaction.now
        projects = {row["task_id"]: row["project_id"] for row in self._rows.values()}
        rows = [
            {name: getattr(event, name) for name in EVENT_FIELDS}
            | {"project_id": projects[event.task_id], "body": sealed(db, event.task_id, event.body)}
            for event in self._events
        ]
        await db.execute(insert(events), rows)
        touched = {event.task_id for event in self._events}
        query = update(tasks).where(tasks.c.task_id == bindparam("its"))
        await db.execute(
            query.values(last_seq=bindparam("seq"), updated_at=now),
            [{"its": task_id, "seq": self._last_seq[task_id]} for task_id in touched],
        )
        self._transaction.touched |= touched
        for event in self._events:
            await announce(self._transaction, projects[event.task_id], event)

    async def _save_runs(self) -> None:
        values = {run_id: run_values(run) for run_id, run in self._runs.items()}
        names = next(iter(values.values()))
        query = update(runs).where(runs.c.run_id == bindparam("its")).values({name: bindparam(name) for name in names})
        await self._transaction.db.execute(query, [row | {"its": run_id} for run_id, row in values.items()])
        for run_id, run in self._runs.items():
            if run.status != self._rows[run_id]["status"]:
                await derive_task(self._transaction, self._rows[run_id]["task_id"])
