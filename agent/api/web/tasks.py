"""The pages of tasks: the list, the form of a new one, and one task from several sides."""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from agent.api.auth import needs
from agent.api.context import Context, Shared
from agent.api.events import EventStream
from agent.api.images import read_images as decoded
from agent.api.images import with_problem
from agent.api.lasting import lasts
from agent.api.once import first_answer
from agent.api.problems import Problem
from agent.api.repos import resolve_repository
from agent.api.schemas import Image
from agent.api.web.changes import changes
from agent.api.web.form import (
    Form,
    Rejected,
    empty_task_form,
    filled_task_form,
    read_form,
    read_images,
    task_request,
)
from agent.api.web.html import Templates
from agent.api.web.live import draw_entries, messages
from agent.api.web.page import Html, page_router
from agent.api.web.state import State, read_state
from agent.store.artifacts import NewImage
from agent.store.base import TaskRecord
from agent.store.idempotency import Answer, Keyed
from agent.types import Status, TaskRequest

router = page_router("tasks:read")

_FIRST_EVENTS = 200
"""So many events are in the page itself; the others come through the stream."""

_PAGE_SIZE = 25
_Words = Annotated[str, Query(max_length=256)]
"""In titles and problems."""

_QUEUE_SHOWN = 10
"""The list says of so many tasks where they stand in the queue: of those that come first."""


@router.get("/")
async def home() -> Response:
    return RedirectResponse("/tasks", HTTPStatus.SEE_OTHER)


@router.get("/tasks")
async def list_tasks(
    request: Request,
    shared: Shared,
    html: Html,
    status: Annotated[Status | None, Query()] = None,
    q: _Words = "",
    cursor: Annotated[str | None, Query()] = None,
) -> Response:
    return html.page(request, "tasks.html", **await _listing(shared, status, q, cursor))


@router.get("/tasks/rows")
async def refresh_tasks(
    request: Request,
    shared: Shared,
    html: Html,
    seen: Annotated[str, Query()],
    status: Annotated[Status | None, Query()] = None,
    q: _Words = "",
) -> Response:
    """The newest tasks again, if they are not those that the page has seen."""
    listing = await _listing(shared, status, q, None)
    if listing["seen"] == seen:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return html.page(request, "task_rows.html", **listing)


@router.get("/tasks/new")
async def new_task(
    request: Request, shared: Shared, html: Html, like: Annotated[str | None, Query()] = None
) -> Response:
    """The form of a new task, empty or filled as another one's was."""
    form = empty_task_form() if like is None else filled_task_form((await shared.tasks.get(like)).request)
    return await _task_form(request, shared, html, form, {}, HTTPStatus.OK)


@router.post("/tasks", dependencies=[needs("tasks:write")])
async def submit(request: Request, shared: Shared, html: Html) -> Response:
    """Queue a task; the same form sent twice, by whatever accident, is one."""
    form = await read_form(request)

    async def do(keyed: Keyed[Answer] | None) -> Answer:
        task, images = task_request(form), read_images(form)
        shown = _contents(shared, task, images)
        pinned = await resolve_repository(shared, task)
        record = await shared.tasks.submit(
            pinned,
            created_by=shared.principal.subject,
            message=with_problem(shown),
            images=shown,
            keyed=keyed and keyed.of(_submitted),
        )
        return _submitted(record)

    # The form holds a text of its own: what was changed after going back is another task.
    key = f"page {sha256(await request.body()).hexdigest()}" if form.get("once") else None
    try:
        answer, _ = await first_answer(shared, request, key, do)
    except Rejected as rejected:
        return await _task_form(request, shared, html, form, rejected.errors, HTTPStatus.UNPROCESSABLE_ENTITY)
    except Problem as problem:
        return await _task_form(request, shared, html, form, {"repository": problem.detail}, problem.status)
    return RedirectResponse(f"/tasks/{answer.task_id}", HTTPStatus.SEE_OTHER)


@router.get("/tasks/{task_id}")
async def show_activity(
    request: Request, task_id: str, shared: Shared, html: Html, run: Annotated[str | None, Query()] = None
) -> Response:
    """What the task did and does, which the page goes on reading through the stream."""
    state = await _state(shared, task_id)
    events = await shared.tasks.events(task_id, limit=_FIRST_EVENTS)
    shown = next((owned for owned in state.task.runs if owned.run_id == run), None)
    entries = Markup(draw_entries(html, state.task, events, shown.run_id if shown else None))  # noqa: S704 - of our own template
    after = events[-1].seq if events else 0
    sight = _takes_images(shared)
    return _task_page(html, request, "activity", state, entries=entries, after=after, run=shown, takes_images=sight)


@router.get("/tasks/{task_id}/live", dependencies=[lasts("page")])
async def follow(
    task_id: str,
    shared: Shared,
    html: Html,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    run: Annotated[str | None, Query()] = None,
) -> Response:
    await shared.tasks.get(task_id)  # An unknown task is refused before the stream begins.
    return EventStream(messages(shared, html, task_id, after, run))


@router.get("/tasks/{task_id}/changes")
async def show_changes(request: Request, task_id: str, shared: Shared, html: Html) -> Response:
    state = await _state(shared, task_id)
    return _task_page(html, request, "changes", state, files=await changes(state.task.patch))


@router.get("/tasks/{task_id}/patch")
async def save_patch(task_id: str, shared: Shared) -> Response:
    task = await shared.tasks.get(task_id)
    headers = {"Content-Disposition": f'attachment; filename="{task.id}.patch"'}
    return Response(task.patch, media_type="text/x-diff; charset=utf-8", headers=headers)


@router.get("/tasks/{task_id}/verdict")
async def show_verdict(request: Request, task_id: str, shared: Shared, html: Html) -> Response:
    return _task_page(html, request, "verdict", await _state(shared, task_id))


@router.get("/tasks/{task_id}/attempts")
async def show_attempts(request: Request, task_id: str, shared: Shared, html: Html) -> Response:
    state = await _state(shared, task_id)
    attempts = [(run, await changes(run.patch)) for run in state.task.runs]
    return _task_page(html, request, "attempts", state, attempts=attempts)


@router.get("/tasks/{task_id}/details")
async def show_details(request: Request, task_id: str, shared: Shared, html: Html) -> Response:
    return _task_page(html, request, "details", await _state(shared, task_id))


def _submitted(record: TaskRecord) -> Answer:
    return Answer(task_id=record.id, status=HTTPStatus.SEE_OTHER, location=None, body="")


async def _state(shared: Context, task_id: str) -> State:
    return await read_state(shared, await shared.tasks.get(task_id))


def _task_page(html: Templates, request: Request, tab: str, state: State, **values: Any) -> Response:
    return html.page(request, f"{tab}.html", task=state.task, state=state, tab=tab, **values)


async def _listing(shared: Context, status: Status | None, words: str, cursor: str | None) -> dict[str, Any]:
    """What the list of tasks shows; ``seen`` changes when any of it does."""
    page = await shared.tasks.list_tasks(status=status, text=words or None, cursor=cursor, limit=_PAGE_SIZE)
    queued = [task.id for task in page.tasks if task.status is Status.QUEUED][-_QUEUE_SHOWN:]
    queue = {task_id: await shared.tasks.queue_position(task_id) for task_id in queued}
    state = [(task.id, task.last_seq, task.status, queue.get(task.id)) for task in page.tasks]
    seen = sha256(repr((state, page.next_cursor)).encode()).hexdigest()[:16]
    return {
        "page": page,
        "status": status,
        "q": words,
        "wanted": {name: value for name, value in (("status", status), ("q", words)) if value},
        "cursor": cursor,
        "seen": seen,
        "queue": queue,
        "statuses": tuple(Status),
    }


def _takes_images(shared: Context) -> bool:
    return shared.takes_images and shared.store.artifacts is not None


def _contents(shared: Context, task: TaskRequest, images: Sequence[Image]) -> Sequence[NewImage]:
    """
    Raises:
        Rejected
    """
    try:
        return decoded(shared, task.model.name or shared.model_name, images)
    except Problem as problem:
        raise Rejected({"images": f"{problem.errors[0].detail}. Choose them again."}) from problem


async def _task_form(
    request: Request, shared: Context, html: Templates, form: Form, errors: Form, status: HTTPStatus
) -> Response:
    recent = await shared.tasks.list_tasks(limit=_PAGE_SIZE)
    named = (repo.name for repo in await shared.remotes.repos.all(shared.principal.project_id))
    repositories = list(dict.fromkeys([*named, *(task.request.repository for task in recent.tasks)]))
    shown = dict.fromkeys(empty_task_form(), "") | dict(form)
    return html.page(
        request,
        "new_task.html",
        status,
        form=shown,
        once=secrets.token_urlsafe(12),
        errors=errors,
        repositories=repositories,
        model_name=shared.model_name,
        takes_images=_takes_images(shared),
    )
