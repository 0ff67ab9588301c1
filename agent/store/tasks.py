"""What users do with tasks. Everything here is bound to one project; nothing else reads tasks by a user's id."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import anyio
from sqlalchemy import ColumnElement, Text, and_, case, cast, insert, or_, select, update

from agent.errors import IdempotencyConflict, TaskNotOver, TaskOver, UnknownRun, UnknownTask
from agent.events import MessageAdded, Restore
from agent.inbox import Inbox
from agent.log import Entry
from agent.store.artifacts import Artifacts, NewImage, write_images
from agent.store.base import USER_EVENTS, QueuePosition, TaskPage, TaskRecord
from agent.store.claims import position_of
from agent.store.cursors import page_of
from agent.store.database import Database, Transaction, whole
from agent.store.derive import advance
from agent.store.idempotency import Keyed, keep_answer
from agent.store.ids import new_id
from agent.store.journal import derive_task, end_unbegun, requeue, write_event
from agent.store.queue import AT_ONCE, due
from agent.store.reasoning import beside_log, hidden
from agent.store.rewind import rewind, run_to_rewind
from agent.store.rows import know_task, read_events, read_project, read_runs, read_task, save_run, task_record
from agent.store.tables import events, runs, tasks
from agent.trajectory import up_to
from agent.types import Event, Limits, Priority, Status, TaskRequest, Usage


class SqlProjectStore:
    """An :class:`~agent.store.base.ProjectStore`; ``Store.of`` makes them."""

    def __init__(
        self, database: Database, project_id: str, kept: Artifacts | None = None, *, reasoning: bool = True
    ) -> None:
        """
        Args:
            kept: the artifacts; None where none are kept.
        """
        self.database = database
        self.project_id = project_id
        self.reasoning = reasoning
        self._kept = kept

    @whole
    async def submit(
        self,
        request: TaskRequest,
        *,
        created_by: str = "local",
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        message: MessageAdded | None = None,
        images: Sequence[NewImage] = (),
        keyed: Keyed[TaskRecord] | None = None,
    ) -> TaskRecord:
        task_id = new_id("task")
        async with self._bytes_of(task_id, message, images) as message, self.database.writing() as transaction:
            # Two submissions with one key come one after the other.
            await read_project(transaction.db, self.project_id, lock=idempotency_key is not None)
            task = await self._known(transaction, request, idempotency_key)
            if task is None:
                await submit_task(
                    transaction,
                    self.project_id,
                    request,
                    created_by=created_by,
                    idempotency_key=idempotency_key,
                    traceparent=traceparent,
                    task_id=task_id,
                )
                if message is not None:
                    await write_images(transaction, self.project_id, task_id, message, images)
                    await write_event(transaction, task_id, "message.added", message.model_dump(mode="json"))
                task = await know_task(transaction.db, task_id)
            await keep_answer(transaction, self.project_id, keyed, task)
            return task

    @asynccontextmanager
    async def _bytes_of(
        self, task_id: str, message: MessageAdded | None, images: Sequence[NewImage]
    ) -> AsyncIterator[MessageAdded | None]:
        """The message with its images, whose bytes are kept before there is a task, and forgotten where none comes."""
        if message is None or not images:
            yield message
            return
        try:
            yield await self._artifacts.put_images(self.project_id, task_id, message, images)
        except BaseException:
            await self._artifacts.forget(self.project_id, task_id)
            raise

    @property
    def _artifacts(self) -> Artifacts:
        assert self._kept is not None, "images are refused where nothing keeps them"
        return self._kept

    @whole
    async def fork(
        self,
        task_id: str,
        at_event: int,
        *,
        created_by: str = "local",
        message: MessageAdded | None = None,
        images: Sequence[NewImage] = (),
        limits: Limits | None = None,
        keyed: Keyed[TaskRecord] | None = None,
    ) -> TaskRecord:
        forked = new_id("task")
        async with self._bytes_of(forked, message, images) as message, self.database.writing() as transaction:
            await read_project(transaction.db, self.project_id)
            source = await self._locked(transaction, task_id)
            log = await read_events(transaction.db, and_(events.c.task_id == task_id, events.c.seq <= at_event))
            run_id = next((event.run_id for event in reversed(log) if event.run_id), source.runs[0].run_id)
            if limits is None:
                limits = Inbox(event for event in log if event.run_id is None).raised(source.request.limits)
            request = source.request.model_copy(update={"attempts": 1, "limits": limits})
            await _insert(transaction, self.project_id, forked, request, {"created_by": created_by})
            await write_event(transaction, forked, "task.submitted", {"request": request.model_dump(mode="json")})
            run = (await know_task(transaction.db, forked)).runs[0]
            origin = {"task_id": task_id, "run_id": run_id, "at_event": at_event}
            await write_event(transaction, forked, "run.forked", origin, run_id=run.run_id)
            for event in up_to([event for event in log if event.run_id == run_id], at_event):
                copied = await write_event(transaction, forked, event.type, event.body, run_id=run.run_id)
                run = advance(run, copied)
            if message is not None:
                await write_images(transaction, self.project_id, forked, message, images)
                await write_event(transaction, forked, "message.added", message.model_dump(mode="json"))
            await save_run(transaction.db, run, copied_steps=run.steps, copied_usage=run.usage.model_dump())
            task = await know_task(transaction.db, forked)
            await keep_answer(transaction, self.project_id, keyed, task)
            return task

    @whole
    async def rewind(
        self, task_id: str, to_step: int, restore: Restore = "both", *, run_id: str | None = None
    ) -> TaskRecord:
        async with self.database.writing() as transaction:
            task = await self._locked(transaction, task_id)
            await rewind(transaction, run_to_rewind(task, run_id), task_id, to_step, restore)
            await derive_task(transaction, task_id)
            return await know_task(transaction.db, task_id)

    @whole
    async def get(self, task_id: str) -> TaskRecord:
        async with self.database.reading() as db:
            task = await read_task(db, self._mine(task_id))
        if task is None:
            raise self._unknown(task_id)
        return task

    @whole
    async def list_tasks(
        self,
        *,
        status: Status | None = None,
        created_by: str | None = None,
        repository: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 20,
    ) -> TaskPage:
        query = select(tasks).where(tasks.c.project_id == self.project_id)
        query = query.where(*_filters(status, created_by, since, until))
        query = query.where(*_contents(repository, labels or {}, text))
        page, next_cursor = await page_of(self.database, self.project_id, query, tasks.c.position, cursor, limit)
        async with self.database.reading() as db:
            owned = await read_runs(db, runs.c.task_id.in_([row["task_id"] for row in page]), brief=True)
        # One that was deleted after the page was read has no runs.
        found = (task_record(row, owned[row["task_id"]]) for row in page if row["task_id"] in owned)
        return TaskPage(tasks=tuple(found), next_cursor=next_cursor)

    @whole
    async def events(
        self, task_id: str, *, after: int = 0, limit: int = 1000, types: Collection[str] = ()
    ) -> tuple[Event, ...]:
        known = select(tasks.c.task_id).where(self._mine(task_id))
        mine = and_(events.c.task_id == task_id, events.c.project_id == self.project_id)
        if types:
            mine = and_(mine, events.c.type.in_(types))
        async with self.database.reading() as db:
            found = await read_events(db, and_(mine, events.c.seq > after), limit)
            if not found and (await db.execute(known)).first() is None:
                raise self._unknown(task_id)
        return found if self.reasoning else tuple(map(hidden, found))

    async def wait_for_events(
        self, task_id: str, *, after: int, timeout_s: float, limit: int = 1000
    ) -> tuple[Event, ...]:
        deadline = anyio.current_time() + timeout_s
        changes = self.database.changes
        while True:
            changed = changes.of_task(task_id)
            found = await self.events(task_id, after=after, limit=limit)
            left_s = deadline - anyio.current_time()
            if found or left_s <= 0:
                return found
            await changes.wait(changed, left_s)

    @whole
    async def tell(
        self,
        task_id: str,
        type: str,  # noqa: A002
        body: dict[str, Any],
        *,
        keyed: Keyed[Event] | None = None,
    ) -> Event:
        if type not in USER_EVENTS:
            raise ValueError(f"a user cannot say {type!r}")
        async with self.database.writing() as transaction:
            event = await self._hear(transaction, task_id, type, body)
            await keep_answer(transaction, self.project_id, keyed, event)
            return event

    @whole
    async def say(
        self,
        task_id: str,
        message: MessageAdded,
        images: Sequence[NewImage] = (),
        *,
        keyed: Keyed[Event] | None = None,
    ) -> Event:
        if images:
            message = await self._artifacts.put_images(self.project_id, task_id, message, images)
        try:
            async with self.database.writing() as transaction:
                event = await self._hear(transaction, task_id, "message.added", message.model_dump(mode="json"))
                await write_images(transaction, self.project_id, task_id, message, images)
                await keep_answer(transaction, self.project_id, keyed, event)
                return event
        except UnknownTask:
            if images:  # It was deleted meanwhile, and its bytes before these.
                await self._artifacts.forget(self.project_id, task_id)
            raise

    @whole
    async def change(self, task_id: str, decide: Callable[[TaskRecord, Limits], Sequence[Entry]]) -> None:
        async with self.database.writing() as transaction:
            task = await self._locked(transaction, task_id)
            granted = and_(events.c.task_id == task_id, events.c.type == "budget.granted")
            limits = Inbox(await read_events(transaction.db, granted)).raised(task.request.limits)
            for word, body in decide(task, limits):
                await self._hear(transaction, task_id, word, body)

    async def _hear(self, transaction: Transaction, task_id: str, word: str, body: dict[str, Any]) -> Event:
        """Write a word of the user, and let it end the waits that it ends.

        Raises:
            UnknownTask, TaskOver: as :meth:`tell`.
        """
        task = await self._locked(transaction, task_id)
        if task.status.terminal:
            raise TaskOver(f"task {task_id} had ended as {task.status}")
        event = await write_event(transaction, task_id, word, body)
        if word == "task.updated":
            await self._update(transaction, task, body)
        for run in task.runs:
            if run.status.parked and (run.waiting_on or "paused") in USER_EVENTS[word]:
                await requeue(transaction, task_id, run, word)
        await derive_task(transaction, task_id)
        return event

    @whole
    async def cancel(self, task_id: str) -> TaskRecord:
        async with self.database.writing() as transaction:
            task = await self._locked(transaction, task_id)
            if task.status.terminal or task.cancel_requested:
                return task
            await cancel_task(transaction, task)
            return await know_task(transaction.db, task_id)

    @whole
    async def choose(self, task_id: str, attempt: int) -> TaskRecord:
        async with self.database.writing() as transaction:
            task = await self._locked(transaction, task_id)
            run = next((run for run in task.runs if run.attempt == attempt), None)
            if run is None:
                raise UnknownRun(f"task {task_id} has no attempt {attempt}")
            if not task.status.terminal:
                raise TaskNotOver(f"task {task_id} is {task.status}")
            change = {"selected_run": run.run_id, "status": run.status, "updated_at": transaction.now}
            await transaction.db.execute(update(tasks).where(self._mine(task_id)).values(change))
            return await know_task(transaction.db, task_id)

    @whole
    async def queue_position(self, task_id: str) -> QueuePosition:
        async with self.database.reading() as db:
            task = await read_task(db, self._mine(task_id))
            if task is None:
                raise self._unknown(task_id)
            now = await self.database.now(db)
            stands = await position_of(db, now, self.database.prices, self.project_id, task_id)
            waits = and_(events.c.task_id == task.id, events.c.type == "run.parked")
            parked = await read_events(db, waits) if task.waiting_on is not None and stands is None else ()
        reason = f"the task is {task.status}; none of its runs is queued"
        if parked:
            detail = parked[-1].body.get("detail")
            reason = f"the task waits on {task.waiting_on}" + (f": {detail}" if detail else "")
        return stands or QueuePosition(position=None, reason=reason)

    async def _known(self, transaction: Transaction, request: TaskRequest, key: str | None) -> TaskRecord | None:
        if key is None:
            return None
        where = and_(tasks.c.project_id == self.project_id, tasks.c.idempotency_key == key)
        task = await read_task(transaction.db, where)
        if task is not None and task.request != request:
            raise IdempotencyConflict(f"the key {key!r} came with another request for task {task.id}")
        return task

    async def _update(self, transaction: Transaction, task: TaskRecord, body: dict[str, Any]) -> None:
        change = {name: body[name] for name in ("title", "labels", "priority") if name in body}
        if change:
            await transaction.db.execute(update(tasks).where(self._mine(task.id)).values(change))
        if "priority" in change and not task.cancel_requested:  # It has the first place of all, to be ended.
            for run in task.runs:
                place = _place(task.created_at, Priority(change["priority"]), run.attempt)
                await transaction.db.execute(update(runs).where(runs.c.run_id == run.run_id).values(place))

    async def _locked(self, transaction: Transaction, task_id: str) -> TaskRecord:
        task = await read_task(transaction.db, self._mine(task_id), lock=True)
        if task is None:
            raise self._unknown(task_id)
        return task

    def _mine(self, task_id: str) -> ColumnElement[bool]:
        if "\0" in task_id:  # Postgres cannot even be asked.
            raise self._unknown(task_id)
        return and_(tasks.c.task_id == task_id, tasks.c.project_id == self.project_id)

    def _unknown(self, task_id: str) -> UnknownTask:
        return UnknownTask(f"no task {task_id}")


async def cancel_task(transaction: Transaction, task: TaskRecord) -> None:
    """Ask for the end of a task that is not over, and was not asked to end."""
    await transaction.db.execute(update(tasks).where(tasks.c.task_id == task.id).values(cancel_requested=True))
    await write_event(transaction, task.id, "task.cancel_requested", {})
    await end_unbegun(transaction, task)
    for run in task.runs:
        if run.status.parked:  # A worker ends it, which has the patch as far as it came.
            await requeue(transaction, task.id, run, "task.cancel_requested")
    await transaction.db.execute(update(runs).where(runs.c.task_id == task.id).values(due=AT_ONCE))
    await derive_task(transaction, task.id)


async def submit_task(
    transaction: Transaction,
    project_id: str,
    request: TaskRequest,
    *,
    created_by: str,
    idempotency_key: str | None = None,
    eval_id: str | None = None,
    traceparent: str | None = None,
    task_id: str | None = None,
) -> str:
    """Part of a transaction: write a task down and queue its runs; its id. Arguments are those of ``submit``.

    Args:
        eval_id: the evaluation it is part of.
        task_id: of its own making where None.
    """
    columns = {"created_by": created_by, "idempotency_key": idempotency_key, "eval_id": eval_id}
    task_id = await _insert(transaction, project_id, task_id or new_id("task"), request, columns)
    body: dict[str, Any] = {"request": request.model_dump(mode="json")}
    if traceparent is not None:
        body["traceparent"] = traceparent
    await write_event(transaction, task_id, "task.submitted", body)
    return task_id


async def _insert(
    transaction: Transaction, project_id: str, task_id: str, request: TaskRequest, columns: Mapping[str, str | None]
) -> str:
    """
    Args:
        columns: of the task's row; ``created_by`` and what else is known of it.
    """
    now = transaction.now
    values = {
        "task_id": task_id,
        "project_id": project_id,
        # Without what is as it is by itself: the release before reads it too, though it knows fewer fields.
        "request": beside_log(transaction.db, request).model_dump(mode="json", exclude_defaults=True),
        "priority": request.priority,
        "status": Status.QUEUED,
        "created_at": now,
        "updated_at": now,
    }
    await transaction.db.execute(insert(tasks).values(values | dict(columns)))
    owner = {"task_id": task_id, "project_id": project_id, "created_by": columns["created_by"]}
    for attempt in range(1, request.attempts + 1):
        run = {
            "run_id": new_id("run"),
            "attempt": attempt,
            "status": Status.QUEUED,
            "idle_since": now,
            "usage": Usage().model_dump(),
        }
        place = _place(now, request.priority, attempt)
        await transaction.db.execute(insert(runs).values(owner | run | place))
    return task_id


def _place(submitted: datetime, priority: Priority, attempt: int) -> dict[str, object]:
    """A run's columns that say where it stands among those of its project."""
    return {"due": due(submitted, priority, attempt), "background": priority is Priority.BACKGROUND}


def _filters(
    status: Status | None, created_by: str | None, since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if status is not None:
        found.append(tasks.c.status == status)
    if created_by is not None:
        found.append(tasks.c.created_by == _askable(created_by))
    if since is not None:
        found.append(tasks.c.created_at >= since)
    if until is not None:
        found.append(tasks.c.created_at < until)
    return found


def _contents(repository: str | None, labels: Mapping[str, str | None], text: str | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if repository is not None:
        found.append(tasks.c.request["repository"].as_string() == _askable(repository))
    for name, value in labels.items():
        given = case(
            (tasks.c.labels.is_(None), tasks.c.request[("labels", _askable(name))].as_string()),
            else_=tasks.c.labels[_askable(name)].as_string(),
        )
        found.append(given.is_not(None) if value is None else given == _askable(value))
    if text is not None:
        title, problem = cast(tasks.c.title, Text), tasks.c.request["problem_statement"].as_string()
        found.append(or_(*(where.icontains(_askable(text), autoescape=True) for where in (title, problem))))
    return found


def _askable(text: str) -> str:
    """Postgres cannot even be asked for U+0000."""
    return text.replace("\0", "")
