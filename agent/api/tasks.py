"""Submit, list, show and cancel tasks, and read what they changed."""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from agent.api.auth import needs
from agent.api.context import Context, Shared
from agent.api.diff import changed_files
from agent.api.problems import FieldError, Problem, invalid_input
from agent.api.schemas import DiffView, TaskList, TaskView, show, summarise
from agent.errors import InvalidCursor, RepositoryError
from agent.types import Status, TaskRequest

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

_SUBMISSION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TaskRequest"}}},
    }
}
_DIFF_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/x-diff": {"schema": {"type": "string"}}}}}


@router.post(
    "",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.ACCEPTED,
    response_model=TaskView,
    openapi_extra=_SUBMISSION,
)
async def submit(request: Request, response: Response, shared: Shared) -> TaskView:
    """Queue a task. The commit is resolved now, so that what is repaired does not move while the task waits."""
    task = await _read_submission(request)
    commit = await resolve_repository(shared, task)
    record = await shared.tasks.submit(
        task.model_copy(update={"base_commit": commit}), created_by=shared.principal.subject
    )
    response.headers["Location"] = f"/v1/tasks/{record.id}"
    return show(record)


@router.get("", dependencies=[needs("tasks:read")])
async def list_tasks(
    shared: Shared,
    status: Annotated[Status | None, Query(description="Only tasks in this state.")] = None,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> TaskList:
    """Tasks, newest first."""
    try:
        page = await shared.tasks.list_tasks(status=status, cursor=cursor, limit=limit)
    except InvalidCursor as error:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            "cursor: not a cursor that this service gave",
            remedy="Give back next_cursor of the page before, or leave cursor out for the first page.",
            errors=[FieldError(parameter="cursor", detail="Not a cursor that this service gave")],
        ) from error
    return TaskList(tasks=tuple(map(summarise, page.tasks)), next_cursor=page.next_cursor)


@router.get("/{task_id}", dependencies=[needs("tasks:read")])
async def show_task(task_id: str, shared: Shared) -> TaskView:
    """A task as a whole."""
    return show(await shared.tasks.get(task_id))


@router.get("/{task_id}/diff", dependencies=[needs("tasks:read")], response_model=DiffView, responses=_DIFF_ANSWERS)
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
    if "text/x-diff" in request.headers.get("accept", ""):
        return Response(record.patch, media_type="text/x-diff; charset=utf-8")
    return DiffView(patch=record.patch, files=await changed_files(record.patch))


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
    return show(record)


async def _read_submission(request: Request) -> TaskRequest:
    """The body, checked strictly: no text for numbers, no truth values for counts, no unknown fields."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        # A form of a foreign page can send any other type without asking first.
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            f"The body is {media_type or 'of no stated type'}, not application/json.",
            remedy="Send the header 'Content-Type: application/json'.",
        )
    try:
        task = TaskRequest.model_validate_json(await request.body(), strict=True)
    except ValidationError as error:
        raise invalid_input(error.errors(include_url=False, include_context=False)) from error
    if not task.problem_statement.strip():
        raise _rejected("/problem_statement", "The problem statement is blank", "Say what is wrong or wanted.")
    return task


async def resolve_repository(shared: Context, task: TaskRequest) -> str:
    """The full id of the commit a task starts from.

    Raises:
        Problem: the repository or the commit cannot be used.
    """
    if not task.repository.startswith("/") or "\0" in task.repository:
        raise _rejected(
            "/repository",
            f"{task.repository!r} is not an absolute path",
            "Give the absolute path of a git repository on the service's machine; clone a remote one first.",
        )
    try:
        return await shared.resolve_commit(Path(task.repository), task.base_commit)
    except RepositoryError as error:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_repository",
            str(error),
            remedy="Correct what detail names and submit again.",
            errors=[FieldError(pointer="#/repository", detail=str(error))],
        ) from error


def _rejected(pointer: str, detail: str, remedy: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        f"#{pointer}: {detail}",
        remedy=remedy,
        errors=[FieldError(pointer=f"#{pointer}", detail=detail)],
    )
