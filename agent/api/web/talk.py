"""What people say to a task while it works, and the inbox of what it asks them."""

import json
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from agent.api import images, messages
from agent.api.auth import needs
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.api.web.form import Rejected, checked, read_form, read_images, read_labels
from agent.api.web.page import Html, page_router
from agent.api.web.state import State, read_state
from agent.events import ApprovalDecided, BudgetGranted, MessageAdded, TaskUpdated
from agent.store.ids import new_id
from agent.types import Status

router = page_router("tasks:read")

_INBOX_SIZE = 100


@router.post("/tasks/{task_id}/messages", dependencies=[needs("tasks:write")])
async def add_message(request: Request, task_id: str, shared: Shared) -> Response:
    form = await read_form(request)
    given = {"message_id": new_id("msg"), "text": form.get("text", "").strip()}
    message = checked(MessageAdded, {**given, "delivery": form.get("delivery", "steer")}, "Write a message first.")
    task = await shared.tasks.get(task_id)
    try:
        shown = images.read_images(shared, task.request.model.name or shared.model_name, read_images(form))
    except Rejected as rejected:
        detail = " ".join(rejected.errors.values())
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, remedy="Go back.") from rejected
    await shared.tasks.say(task_id, message, shown)
    if "hx-request" in request.headers:  # The page goes on, and reads the message from the log.
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return _back(task_id)


@router.post("/tasks/{task_id}/messages/{message_id}/take_back", dependencies=[needs("tasks:write")])
async def take_back(request: Request, task_id: str, message_id: str, shared: Shared) -> Response:
    await read_form(request)
    await messages.take_back(task_id, message_id, shared)
    return _back(task_id)


@router.post("/tasks/{task_id}/update", dependencies=[needs("tasks:write")])
async def update(request: Request, task_id: str, shared: Shared) -> Response:
    """Change what people see of the task and how urgent it is; what was asked stays as it was."""
    form = await read_form(request)
    labels = read_labels(form.get("labels", ""))
    given = {"title": form.get("title", "").strip() or None, "labels": labels, "priority": form.get("priority") or None}
    change = checked(TaskUpdated, given, "Go back and correct it.")
    await shared.tasks.tell(task_id, "task.updated", change.model_dump(mode="json", exclude_none=True))
    return RedirectResponse(f"/tasks/{task_id}/details", HTTPStatus.SEE_OTHER)


@router.post("/tasks/{task_id}/cancel", dependencies=[needs("tasks:write")])
async def cancel(request: Request, task_id: str, shared: Shared) -> Response:
    await read_form(request)
    await shared.tasks.cancel(task_id)
    return _back(task_id)


@router.post("/tasks/{task_id}/pause", dependencies=[needs("tasks:write")])
async def pause(request: Request, task_id: str, shared: Shared) -> Response:
    await read_form(request)
    await shared.tasks.tell(task_id, "task.paused", {})
    return _back(task_id)


@router.post("/tasks/{task_id}/resume", dependencies=[needs("tasks:write")])
async def resume(request: Request, task_id: str, shared: Shared) -> Response:
    await read_form(request)
    await shared.tasks.tell(task_id, "task.resumed", {})
    return _back(task_id)


@router.post("/tasks/{task_id}/budget", dependencies=[needs("tasks:write")])
async def grant_budget(request: Request, task_id: str, shared: Shared) -> Response:
    form = await read_form(request)
    given = {name: form[name] for name in BudgetGranted.model_fields if form.get(name)}
    granted = checked(BudgetGranted, given, "Say the new limit as a number.")
    await shared.tasks.tell(task_id, "budget.granted", granted.model_dump(mode="json", exclude_none=True))
    return _back(task_id)


@router.post("/tasks/{task_id}/approvals/{approval_id}", dependencies=[needs("approvals:write")])
async def decide(request: Request, task_id: str, approval_id: str, shared: Shared) -> Response:
    form = await read_form(request)
    decision, _, scope = form.get("decision", "").partition(" ")
    state = await read_state(shared, await shared.tasks.get(task_id))
    asked = next((asked for asked in state.permissions if asked.approval_id == approval_id), None)
    if asked is None:
        raise Problem(
            HTTPStatus.CONFLICT, "already_decided", "Somebody has decided this already.", remedy="Look at the task."
        )
    given = {
        "approval_id": approval_id,
        "decision": decision,
        "scope": scope or "once",
        "reason": form.get("reason", ""),
    }
    if "command" in form:
        # Forms end lines as nothing else does.
        given["edited_args"] = json.dumps({**asked.arguments, "command": form["command"].replace("\r\n", "\n")})
    decided = checked(ApprovalDecided, given, "Allow it or deny it.")
    await shared.tasks.tell(task_id, "approval.decided", decided.model_dump(mode="json", exclude_none=True))
    return RedirectResponse("/approvals" if form.get("from") == "inbox" else f"/tasks/{task_id}", HTTPStatus.SEE_OTHER)


@router.get("/approvals")
async def show_inbox(request: Request, shared: Shared, html: Html) -> Response:
    return html.page(request, "inbox.html", states=await waiting(shared))


@router.get("/approvals/count")
async def count_inbox(shared: Shared) -> Response:
    """How many tasks wait, for the navigation; empty for none."""
    num_waiting = len(await waiting(shared))
    return HTMLResponse(f' <span class="badge">{num_waiting}</span>' if num_waiting else "")


async def waiting(shared: Context) -> list[State]:
    """The tasks that wait for somebody, those that wait longest first."""
    page = await shared.tasks.list_tasks(status=Status.WAITING, limit=_INBOX_SIZE)
    states = [await read_state(shared, task) for task in reversed(page.tasks)]
    return [state for state in states if state.permissions or state.question or state.limit]


def _back(task_id: str) -> Response:
    return RedirectResponse(f"/tasks/{task_id}", HTTPStatus.SEE_OTHER)
