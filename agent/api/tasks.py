"""Submit, list, show, change and end tasks, and read what they changed."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime

from agent.api.artifacts import artifacts_of
from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Shared
from agent.api.diff import changed_files
from agent.api.etag import WITH_ETAG, IfMatch, check_unchanged, etag
from agent.api.images import read_images, with_problem
from agent.api.log import whole_log
from agent.api.once import IdempotencyKey, once
from agent.api.problems import Problem, invalid_parameter
from agent.api.repos import resolve_repository
from agent.api.schemas import (
    Delivery,
    DiffView,
    ForkPoint,
    NewTask,
    QueuePlace,
    RewindPoint,
    TaskChange,
    TaskList,
    TaskView,
    show,
    show_run,
    summarise,
)
from agent.api.service import usage_of
from agent.errors import TaskOver
from agent.events import MessageAdded
from agent.inbox import Inbox
from agent.log import Entry
from agent.mining import Mining, mining
from agent.store.artifacts import NewImage
from agent.store.base import USER_EVENTS, TaskRecord
from agent.store.idempotency import Keyed
from agent.store.ids import new_id
from agent.store.retention import Retention
from agent.telemetry import traceparent_of
from agent.trajectory import steps
from agent.types import Limits, Status, TaskRequest, WaitingOn

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

DIFF_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/x-diff": {"schema": {"type": "string"}}}}}
_CHANGEABLE = frozenset({"title", "labels", "priority", "limits"})


@router.post(
    "",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.ACCEPTED,
    response_model=TaskView,
    openapi_extra=described(NewTask),
)
async def submit(request: Request, shared: Shared, idempotency_key: IdempotencyKey = None) -> Response:
    """Queue a task. The commit is resolved now, so that what is repaired does not move while the task waits."""
    new = await read_body(request, NewTask)
    task = TaskRequest.model_validate(new.model_dump(exclude={"images"}))
    check_problem(task)
    images = read_images(shared, task.model.name or shared.model_name, new.images)

    async def do(keyed: Keyed[tuple[str, TaskView]] | None) -> tuple[str, TaskView]:
        record = await queue_task(shared, request.headers, task, images, keyed=keyed and keyed.of(_fresh))
        return record.id, await view(shared, record)

    return await once(shared, request, idempotency_key, do, location=lambda task: f"/v1/tasks/{task.id}")


@router.get("", dependencies=[needs("tasks:read")])
async def list_tasks(
    shared: Shared,
    status: Annotated[Status | None, Query(description="Only tasks in this state.")] = None,
    created_by: Annotated[str | None, Query(max_length=256, description="Only tasks of this subject.")] = None,
    repository: Annotated[str | None, Query(max_length=4096, description="Only tasks about this one.")] = None,
    label: Annotated[
        list[str] | None, Query(max_length=32, description="Only tasks with this label: name, or name=value.")
    ] = None,
    q: Annotated[str | None, Query(max_length=256, description="Only tasks with this in title or problem.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only tasks submitted then or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Only tasks submitted before.")] = None,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> TaskList:
    """Tasks, newest first."""
    page = await shared.tasks.list_tasks(
        status=status,
        created_by=created_by,
        repository=repository,
        labels=dict(map(_label, label or ())),
        text=q,
        since=since,
        until=until,
        cursor=cursor,
        limit=limit,
    )
    return TaskList(tasks=tuple(map(summarise, page.tasks)), next_cursor=page.next_cursor)


@router.get("/{task_id}", dependencies=[needs("tasks:read")], responses=WITH_ETAG)
async def show_task(
    task_id: str,
    response: Response,
    shared: Shared,
    expand: Annotated[str, Query(description="What to add, with commas between: artifacts, mining, runs, usage.")] = "",
) -> TaskView:
    """A task as a whole."""
    wanted = set(filter(None, expand.split(",")))
    if unknown := wanted - {"artifacts", "mining", "runs", "usage"}:
        raise invalid_parameter("expand", f"{sorted(unknown)[0][:64]!r} is none of artifacts, mining, runs and usage")
    record = await shared.tasks.get(task_id)
    shown = await view(shared, record)
    response.headers["ETag"] = etag(shown, _CHANGEABLE)
    more: dict[str, Any] = {}
    if "artifacts" in wanted:
        more["artifacts"] = await artifacts_of(shared, task_id)
    if "mining" in wanted and record.request.benchmark:
        more["mining"] = await _mining(shared, record)
    if "runs" in wanted:
        more["runs"] = tuple(show_run(run, record) for run in record.runs)
    if "usage" in wanted:
        more["total"] = await usage_of(shared, task_id)
    return shown.model_copy(update=more)


@router.patch(
    "/{task_id}", dependencies=[needs("tasks:write")], responses=WITH_ETAG, openapi_extra=described(TaskChange)
)
async def change_task(
    task_id: str,
    request: Request,
    response: Response,
    shared: Shared,
    if_match: IfMatch = None,
) -> TaskView:
    """Give a task another title, other labels or another priority, or raise its limits, which ends a wait for budget.
    Members that are left out, or null, stay as they are."""
    change = await read_body(request, TaskChange)

    def decide(task: TaskRecord, limits: Limits) -> list[Entry]:
        check_unchanged(f"Task {task_id}", "task_changed", etag(show(task, limits), _CHANGEABLE), if_match)
        return _words(change, limits)

    await shared.tasks.change(task_id, decide)
    after = await view(shared, await shared.tasks.get(task_id))
    response.headers["ETag"] = etag(after, _CHANGEABLE)
    return after


@router.delete("/{task_id}", dependencies=[needs("tasks:write")], status_code=HTTPStatus.NO_CONTENT)
async def delete_task(task_id: str, shared: Shared) -> None:
    """Delete an ended task for good: what was asked, its log, its artifacts. The audit log still says who did it."""
    await Retention(shared.store.database, shared.store.artifacts).delete(shared.principal.project_id, task_id)


@router.get("/{task_id}/diff", dependencies=[needs("tasks:read")], response_model=DiffView, responses=DIFF_ANSWERS)
async def show_diff(task_id: str, request: Request, shared: Shared) -> DiffView | Response:
    """What the task changed: as JSON, or with ``Accept: text/x-diff`` as the patch itself."""
    record = await shared.tasks.get(task_id)
    if not record.status.terminal:
        raise Problem(
            HTTPStatus.CONFLICT,
            "task_not_ended",
            f"Task {task_id} is {record.status}; its patch is computed when it ends.",
            remedy="Wait for the event task.finished (GET /v1/tasks/{id}/events), then ask again.",
        )
    return await diff_answer(request, record.patch)


@router.post("/{task_id}/cancel", dependencies=[needs("tasks:write")], status_code=HTTPStatus.ACCEPTED)
async def cancel(task_id: str, shared: Shared) -> TaskView:
    """Ask for the end of a task. Asking again changes nothing; a task that ended otherwise answers 409."""
    record = await shared.tasks.cancel(task_id)
    if record.status.terminal and record.status is not Status.CANCELLED:
        raise Problem(
            HTTPStatus.CONFLICT,
            "task_already_ended",
            f"Task {task_id} had ended as {record.status} before it could be cancelled.",
            remedy="Nothing needs to be stopped; GET /v1/tasks/{id} shows its result.",
        )
    return await view(shared, record)


@router.post("/{task_id}/pause", dependencies=[needs("tasks:write")], status_code=HTTPStatus.ACCEPTED)
async def pause(task_id: str, shared: Shared) -> TaskView:
    """Let the agent stop before its next step, until the task is resumed. Asking again changes nothing."""
    return await _say(shared, task_id, "task.paused")


@router.post("/{task_id}/resume", dependencies=[needs("tasks:write")], status_code=HTTPStatus.ACCEPTED)
async def resume(task_id: str, shared: Shared) -> TaskView:
    """Let a paused task go on, or one that waits for a quota or for capacity try again at once. Asking again changes
    nothing; a task that waits for you answers 409."""
    record = await shared.tasks.get(task_id)
    if any(run.waiting_on in USER_EVENTS["task.resumed"] for run in record.runs):
        await shared.tasks.tell(task_id, "task.resumed", {})
    elif record.waiting_on is not None and not Inbox(await shared.store.user_events(task_id)).paused:
        raise Problem(
            HTTPStatus.CONFLICT,
            "task_waits_for_you",
            f"Task {task_id} is not paused: it waits for {_AWAITED[record.waiting_on][0]}.",
            remedy=_AWAITED[record.waiting_on][1],
        )
    return await _say(shared, task_id, "task.resumed")


@router.post(
    "/{task_id}/fork",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.ACCEPTED,
    response_model=TaskView,
    openapi_extra=described(ForkPoint),
)
async def fork(task_id: str, request: Request, shared: Shared, idempotency_key: IdempotencyKey = None) -> Response:
    """A new task that goes on from an earlier moment of this one, with the files and the conversation of then, and with
    what you say now."""
    point = await read_body(request, ForkPoint)
    message = None if point.message is None else new_message(point.message, "/message")
    if point.images and message is None:
        raise rejected("/images", "There is no message that they belong to", "Say in message what they show.")
    model = (await shared.tasks.get(task_id)).request.model.name or shared.model_name
    images = read_images(shared, model, point.images)

    async def do(keyed: Keyed[tuple[str, TaskView]] | None) -> tuple[str, TaskView]:
        record = await shared.tasks.fork(
            task_id,
            point.at_event,
            created_by=shared.principal.subject,
            message=message,
            images=images,
            limits=point.limits,
            keyed=keyed and keyed.of(_fresh),
        )
        return record.id, await view(shared, record)

    return await once(shared, request, idempotency_key, do, location=lambda task: f"/v1/tasks/{task.id}")


@router.post(
    "/{task_id}/rewind",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=described(RewindPoint),
)
async def rewind(task_id: str, request: Request, shared: Shared) -> TaskView:
    """Take steps back from a task that is paused or waits for you: files, conversation, or both. With the conversation
    back, it is paused: say what it should do instead, and resume it. An ended task can be forked."""
    point = await read_body(request, RewindPoint)
    record = await shared.tasks.rewind(task_id, point.to_step, point.restore, run_id=point.run_id)
    return await view(shared, record)


async def queue_task(
    shared: Context,
    headers: Mapping[str, str],
    task: TaskRequest,
    images: Sequence[NewImage] = (),
    *,
    keyed: Keyed[TaskRecord] | None = None,
) -> TaskRecord:
    """
    Args:
        headers: of the request, which may carry a trace.
        images: shown to the agent with the problem.
        keyed: the request, where its caller gave it a key.

    Raises:
        Problem: the repository or the commit cannot be used.
    """
    resolved = await resolve_repository(shared, task)
    trace = traceparent_of(headers)
    with shared.telemetry.submission(trace) if shared.telemetry else nullcontext(trace) as within:
        return await shared.tasks.submit(
            resolved,
            created_by=shared.principal.subject,
            traceparent=within,
            message=with_problem(images),
            images=images,
            keyed=keyed,
        )


def _fresh(record: TaskRecord) -> tuple[str, TaskView]:
    """A task in the moment in which it comes to be; its place in the queue is looked up later."""
    return record.id, show(record)


def new_message(text: str, pointer: str, delivery: Delivery = "steer") -> MessageAdded:
    """
    Args:
        pointer: where the text stands in the body.

    Raises:
        Problem: it is blank.
    """
    if not text.strip():
        raise rejected(pointer, "The message is blank", "Say what the agent should know or do.")
    return MessageAdded(message_id=new_id("msg"), text=text, delivery=delivery)


async def _mining(shared: Context, record: TaskRecord) -> Mining:
    """Of the attempt that is shown."""
    whole = [event async for event in whole_log(shared.tasks, record.id)]
    events = [event for event in whole if event.run_id == record.shown.run_id]
    return await asyncio.to_thread(mining, steps(events), record.request.repository)  # Long logs take seconds.


async def view(shared: Context, record: TaskRecord) -> TaskView:
    """A task with the limits it has now, and its place in the queue."""
    queue = None
    if record.status is Status.QUEUED or record.waiting_on in (WaitingOn.CAPACITY, WaitingOn.QUOTA):
        place = await shared.tasks.queue_position(record.id)
        queue = QueuePlace(position=place.position, reason=place.reason)
    return show(record, await limits_of(shared, record), queue)


async def limits_of(shared: Context, record: TaskRecord) -> Limits:
    """The limits of the request, with what was granted since."""
    return Inbox(await shared.store.user_events(record.id)).raised(record.request.limits)


_AWAITED = {
    WaitingOn.APPROVAL: ("your word on a call", "GET /v1/approvals lists the calls; POST /v1/approvals/{id} decides."),
    WaitingOn.QUESTION: (
        "your answer",
        "POST /v1/tasks/{id}/messages answers; the event question.asked asks.",
    ),
    WaitingOn.BUDGET: ("a higher limit", "PATCH /v1/tasks/{id} with higher limits."),
}
"""What a word of the user's own ends, and which."""


def _label(given: str) -> tuple[str, str | None]:
    name, equals, value = given.partition("=")
    return name, value if equals else None


async def diff_answer(request: Request, patch: str) -> DiffView | Response:
    if "text/x-diff" in request.headers.get("accept", ""):
        return Response(patch, media_type="text/x-diff; charset=utf-8")
    return DiffView(patch=patch, files=await changed_files(patch))


async def _say(shared: Context, task_id: str, word: Literal["task.paused", "task.resumed"]) -> TaskView:
    """Tell a task to stop or to go on, unless that was the last word on it."""
    record = await shared.tasks.get(task_id)
    if Inbox(await shared.store.user_events(task_id)).paused != (word == "task.paused"):
        await shared.tasks.tell(task_id, word, {})
        record = await shared.tasks.get(task_id)
    elif record.status.terminal:
        raise TaskOver(f"task {task_id} had ended as {record.status}")
    return await view(shared, record)


def _words(change: TaskChange, limits: Limits) -> list[Entry]:
    """What says a change to a task that has these limits now.

    Raises:
        Problem: 422, a limit would fall.
    """
    granted = change.limits.model_dump(exclude_none=True) if change.limits else {}
    for name, value in granted.items():
        old = getattr(limits, name)
        if old is None or value < old:
            detail = f"{value} is lower than {old}" if old is not None else "there is no such limit to raise"
            raise rejected(f"/limits/{name}", detail, "Limits of a task can only be raised; to end it, cancel it.")
    updated = change.model_dump(exclude={"limits"}, exclude_none=True, mode="json")
    words: list[Entry] = [("task.updated", updated), ("budget.granted", granted)]
    return [(word, body) for word, body in words if body]


def check_problem(task: TaskRequest, at: str = "") -> None:
    """
    Args:
        at: JSON pointer to the task in the body.

    Raises:
        Problem: 422, it is blank.
    """
    if not task.problem_statement.strip():
        raise rejected(f"{at}/problem_statement", "The problem statement is blank", "Say what is wrong or wanted.")
