"""Do the rows of a store add up when all its work is over? What ``benchmarks.day`` reads at the end."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, text

from agent.store.queue import QUANTUM_S
from agent.store.sql import SqlStore
from agent.store.tables import (
    artifacts,
    audit_log,
    events,
    idempotent_answers,
    runs,
    schedules,
    tasks,
    webhook_deliveries,
    webhooks,
)
from agent.types import Status, StopReason, Usage

_ENDS: Mapping[Status, frozenset[StopReason | None]] = {
    Status.SUCCEEDED: frozenset({StopReason.FINISHED}),
    Status.CANCELLED: frozenset({StopReason.CANCELLED}),
    Status.FAILED: frozenset(StopReason) - {StopReason.FINISHED, StopReason.CANCELLED},
}
"""How a run may end where nothing is broken: an internal error would leave it failed without a reason."""

_USING = ("step.message", "note.written", "tool.completed", "reproduction.written", "attempts.judged")
"""Events whose ``usage`` was spent."""

_BEGIN_TO_WAIT = ("task.submitted", "run.requeued", "run.released")
_STOP_WAITING = ("run.claimed", "run.parked", "run.finished")


@dataclass(frozen=True, slots=True)
class Turns:
    """What a project had of the workers while it, and those it is compared with, had runs waiting."""

    project_id: str
    weight: float
    num_claims: int
    charged_s: float

    @property
    def share(self) -> float:
        return self.charged_s / self.weight


class Books:
    """Those of one store of which nothing is at work."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def faults(self, expected: set[str]) -> list[str]:
        """What should not be, in words.

        Args:
            expected: ids of the tasks that were accepted and are not deleted, but for those of schedules.
        """
        parts = (
            self._tasks(expected),
            self._runs(),
            self._logs(),
            self._usage(),
            self._deliveries(),
            self._left_over(),
        )
        return [fault for part in parts async for fault in part]

    async def usage(self) -> dict[str, Usage]:
        """By project, added up from what single answers cost."""
        found = defaultdict[str, Usage](Usage)
        sums = [func.coalesce(func.sum(events.c.body["usage"][name].as_integer()), 0) for name in Usage.model_fields]
        query = select(events.c.project_id, *sums).where(events.c.type.in_(_USING)).group_by(events.c.project_id)
        for project_id, *numbers in await self._all(query):
            found[project_id] = Usage(**dict(zip(Usage.model_fields, map(int, numbers), strict=True)))
        return found

    async def num_by_ending(self) -> Counter[str]:
        """Tasks by status, and by stop reason where they failed."""
        query = select(runs.c.status, runs.c.stop_reason, func.count()).group_by(runs.c.status, runs.c.stop_reason)
        return Counter(
            {
                f"{status} ({reason})" if status == Status.FAILED else status: n
                for status, reason, n in await self._all(query)
            }
        )

    async def num_of(self, *kinds: str) -> int:
        """Events of these types."""
        ((number,),) = await self._all(select(func.count()).where(events.c.type.in_(kinds)).select_from(events))
        return int(number)

    async def scheduled(self) -> dict[str, tuple[str, datetime]]:
        """The tasks that schedules submitted at their times: by which, and when."""
        query = select(audit_log.c.target, audit_log.c.subject, audit_log.c.at).where(
            audit_log.c.kind == "schedule", audit_log.c.action == "POST /v1/tasks"
        )
        return {target.rpartition("/")[2]: (subject, at) for target, subject, at in await self._all(query)}

    async def turns(self, weights: Mapping[str, float]) -> list[Turns]:
        """How worker time was shared among these projects while all of them had runs waiting."""
        waits = await self._waits(list(weights))
        found = {project_id: [0, 0.0] for project_id in weights}
        for project_id, claimed_at, charged_s in await self._claims(list(weights)):
            if all(any(begin <= claimed_at < end for begin, end in waits[other]) for other in weights):
                found[project_id][0] += 1
                found[project_id][1] += charged_s
        return [Turns(project_id, weights[project_id], int(n), s) for project_id, (n, s) in found.items()]

    async def sandboxes(self) -> list[str]:
        """Ids of those on record."""
        return [str(row[0]) for row in await self._all(select(text("id FROM sandboxes")))]

    async def bytes(self) -> int:
        """Of the database."""
        ((size,),) = await self._all(select(text("pg_database_size(current_database())")))
        return int(size)

    async def _tasks(self, expected: set[str]) -> AsyncIterator[str]:
        rows = await self._all(select(tasks.c.task_id, tasks.c.status))
        scheduled = await self.scheduled()
        for task_id in expected - {row.task_id for row in rows}:
            yield f"{task_id} was accepted, and is gone"
        for task_id, status in rows:
            if not Status(status).terminal:
                yield f"{task_id} is {status}"
            if task_id not in expected and task_id not in scheduled:
                yield f"{task_id} was submitted by nobody"
        minutes = Counter((by, at.replace(second=0, microsecond=0)) for by, at in scheduled.values())
        for (by, minute), number in minutes.items():
            if number > 1:
                yield f"{by} submitted {number} tasks at {minute}"

    async def _runs(self) -> AsyncIterator[str]:
        ended = select(events.c.run_id, func.count()).where(events.c.type == "run.finished").group_by(events.c.run_id)
        num_ends = {row[0]: row[1] for row in await self._all(ended)}
        for row in await self._all(select(runs)):
            status = Status(row.status)
            reason = StopReason(row.stop_reason) if row.stop_reason else None
            if reason not in _ENDS.get(status, frozenset()):
                yield f"{row.task_id}: a run is {status} ({reason}): {row.error}"
            if row.claimed_at is not None or row.lease_until is not None:
                yield f"{row.task_id}: a run that is {status} has a lease"
            if num_ends.get(row.run_id) != 1:
                yield f"{row.task_id}: a run ended {num_ends.get(row.run_id, 0)} times"

    async def _logs(self) -> AsyncIterator[str]:
        its_end = func.max(events.c.seq).filter(events.c.type == "task.finished")
        num_ends = func.count().filter(events.c.type == "task.finished")
        query = (
            select(tasks.c.task_id, tasks.c.last_seq, func.count(), func.min(events.c.seq), func.max(events.c.seq))
            .add_columns(its_end, num_ends)
            .join(events, events.c.task_id == tasks.c.task_id, isouter=True)
            .group_by(tasks.c.task_id, tasks.c.last_seq)
        )
        for task_id, last_seq, number, first, last, end, ends in await self._all(query):
            if not (first == 1 and number == last == last_seq):
                yield f"{task_id}: the log has {number} events from {first} to {last}, and should have {last_seq}"
            if ends != 1 or end != last:
                yield f"{task_id}: it ended {ends} times, at last with event {end} of {last}"

    async def _usage(self) -> AsyncIterator[str]:
        """Runs hold what their answers cost."""
        spent = await self.usage()
        sums = [func.coalesce(func.sum(runs.c.usage[name].as_integer()), 0) for name in Usage.model_fields]
        for project_id, *numbers in await self._all(select(runs.c.project_id, *sums).group_by(runs.c.project_id)):
            counted = Usage(**dict(zip(Usage.model_fields, map(int, numbers), strict=True)))
            if counted != spent[project_id]:
                yield f"{project_id} is charged {counted}, and its answers cost {spent[project_id]}"

    async def _deliveries(self) -> AsyncIterator[str]:
        """Each event that a webhook asked for was said; tasks that were deleted are known by the messages alone."""
        said = Counter(
            (row.webhook_id, row.body["data"]["task_id"], row.body["data"]["seq"])
            for row in await self._all(select(webhook_deliveries.c.webhook_id, webhook_deliveries.c.body))
        )
        for key, number in said.items():
            if number > 1:
                yield f"{key} is to be said {number} times"
        for hook in await self._all(select(webhooks)):
            wanted = (events.c.project_id == hook.project_id, events.c.type.in_(hook.events))
            for task_id, seq in await self._all(select(events.c.task_id, events.c.seq).where(*wanted)):
                if (hook.webhook_id, task_id, seq) not in said:
                    yield f"{hook.webhook_id} was never to be told of event {seq} of {task_id}"
        others = webhook_deliveries.c.status != "delivered"
        for row in await self._all(select(webhook_deliveries).where(others)):
            yield f"message {row.delivery_id} is {row.status} after {row.num_tries} tries"

    async def _left_over(self) -> AsyncIterator[str]:
        """Rows of what is no more."""
        for table in (runs, events, artifacts):
            orphans = select(func.count()).where(table.c.task_id.not_in(select(tasks.c.task_id))).select_from(table)
            ((number,),) = await self._all(orphans)
            if number:
                yield f"{number} {table.name} are of no task"
        answers, known = idempotent_answers.c, select(tasks.c.task_id)
        dangling = or_(answers.status.is_(None), and_(answers.task_id.is_not(None), answers.task_id.not_in(known)))
        for row in await self._all(select(idempotent_answers).where(dangling)):
            yield f"the key {row.key} has no answer, or one about no task"
        for row in await self._all(select(schedules).where(schedules.c.taken_until.is_not(None))):
            yield f"{row.schedule_id} is still looked at"
        for sandbox in await self.sandboxes():
            yield f"sandbox {sandbox} is still on record"

    async def _waits(self, project_ids: Sequence[str]) -> dict[str, list[tuple[datetime, datetime]]]:
        """When each project had at least one run that could be claimed, in order."""
        moments: defaultdict[str, list[tuple[datetime, int]]] = defaultdict(list)
        waiting = set[str]()
        for row in await self._log(project_ids, (*_BEGIN_TO_WAIT, *_STOP_WAITING)):
            # One attempt of a task stands for all of them.
            if row.type in _BEGIN_TO_WAIT and row.task_id not in waiting:
                waiting.add(row.task_id)
                moments[row.project_id].append((row.at, 1))
            elif row.type in _STOP_WAITING and row.task_id in waiting:
                waiting.discard(row.task_id)
                moments[row.project_id].append((row.at, -1))
        found: dict[str, list[tuple[datetime, datetime]]] = {}
        for project_id in project_ids:
            number, begun, spans = 0, None, []
            for at, change in moments[project_id]:
                number += change
                if number and begun is None:
                    begun = at
                elif not number and begun is not None:
                    spans.append((begun, at))
                    begun = None
            found[project_id] = spans
        return found

    async def _claims(self, project_ids: Sequence[str]) -> list[tuple[str, datetime, float]]:
        """Of each claim: whose, when, and what it cost, s."""
        found, open_ = [], dict[str, tuple[str, datetime]]()
        for row in await self._log(project_ids, ("run.claimed", "run.parked", "run.released", "run.finished")):
            if (claim := open_.pop(row.run_id, None)) is not None:
                found.append((*claim, max((row.at - claim[1]).total_seconds(), QUANTUM_S)))
            if row.type == "run.claimed":
                open_[row.run_id] = (row.project_id, row.at)
        return found

    async def _log(self, project_ids: Sequence[str], kinds: Sequence[str]) -> Sequence[Any]:
        columns = (events.c.project_id, events.c.task_id, events.c.run_id, events.c.type, events.c.at)
        wanted = (events.c.project_id.in_(project_ids), events.c.type.in_(kinds))
        return await self._all(select(*columns).where(*wanted).order_by(events.c.at, events.c.task_id, events.c.seq))

    async def _all(self, query: Select[Any]) -> Sequence[Any]:
        async with self._store.database.reading() as db:
            rows: Sequence[Any] = (await db.execute(query)).all()
            return rows
