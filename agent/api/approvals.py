"""Tool calls that wait for a user's word, over all tasks of a project."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Shared
from agent.api.log import whole_log
from agent.api.problems import Problem
from agent.api.schemas import ApprovalList, ApprovalView, Decision, show_approval
from agent.errors import UnknownTask
from agent.events import ApprovalDecided
from agent.inbox import Inbox
from agent.profiles.by_name import profile
from agent.store.base import TaskRecord
from agent.tools.base import ToolResult
from agent.tools.check import check
from agent.types import Status, ToolCall

router = APIRouter(prefix="/v1/approvals", tags=["approvals"])


@router.get("", dependencies=[needs("tasks:read")])
async def list_approvals(
    shared: Shared,
    status: Annotated[Literal["pending"], Query(description="Only those that are to be decided.")] = "pending",
    task_id: Annotated[str | None, Query(description="Only those of this task.")] = None,
) -> ApprovalList:
    """What waits for a decision, oldest task first."""
    waiting = [await shared.tasks.get(task_id)] if task_id is not None else await _waiting(shared)
    found = [approval for task in waiting for approval in await _approvals(shared, task)]
    return ApprovalList(approvals=tuple(approval for approval in found if approval.decision is None))


@router.get("/{approval_id}", dependencies=[needs("tasks:read")])
async def read_approval(approval_id: str, shared: Shared) -> ApprovalView:
    """What a run wants to do, and what was decided about it."""
    return await _find(shared, approval_id)


@router.post(
    "/{approval_id}",
    dependencies=[needs("approvals:write")],
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=described(Decision),
)
async def decide(approval_id: str, request: Request, shared: Shared) -> ApprovalView:
    """Allow a call, also with arguments of yours, or deny it. The first decision counts: the same one again changes
    nothing, another answers 409."""
    decision = await read_body(request, Decision)
    approval = await _find(shared, approval_id)
    if approval.decision is None:
        task_id, _, own_id = approval_id.partition(".")
        if decision.edited_args is not None:
            _check_edited(await shared.tasks.get(task_id), approval, decision, decision.edited_args)
        decided = ApprovalDecided(approval_id=own_id, **decision.model_dump())
        await shared.tasks.tell(task_id, "approval.decided", decided.model_dump(mode="json", exclude_none=True))
        return await _find(shared, approval_id)
    if (approval.decision, approval.edited_args) != (decision.decision, decision.edited_args):
        raise Problem(
            HTTPStatus.CONFLICT,
            "already_decided",
            f"Approval {approval_id} was decided before: {approval.decision}.",
            remedy="Say something to the task (POST /v1/tasks/{id}/messages) where it should do otherwise.",
        )
    return approval


def _check_edited(task: TaskRecord, approval: ApprovalView, decision: Decision, arguments: str) -> None:
    """A tool of the profile can be asked whether it takes them; any other says so when it is called."""
    if (decision.decision, decision.scope) != ("allow", "once"):
        raise rejected("/edited_args", "They go with decision allow and scope once", "Leave them out, or allow once.")
    tools = profile(task.request.profile).tools
    if approval.tool in {tool.name for tool in tools}:
        call = ToolCall(id=approval.id, name=approval.tool, arguments=arguments)
        if isinstance(found := check(call, tools, cut=False), ToolResult):
            detail = found.text.removeprefix("[error] ")
            raise rejected("/edited_args", detail, "Take the approval's arguments and change what they say.")


async def _waiting(shared: Context) -> list[TaskRecord]:
    found: list[TaskRecord] = []
    cursor: str | None = None
    while True:
        page = await shared.tasks.list_tasks(status=Status.WAITING, cursor=cursor, limit=100)
        found.extend(page.tasks)
        cursor = page.next_cursor
        if cursor is None:
            return found[::-1]


async def _find(shared: Context, approval_id: str) -> ApprovalView:
    try:
        task = await shared.tasks.get(approval_id.partition(".")[0])
        return next(found for found in await _approvals(shared, task) if found.id == approval_id)
    except (UnknownTask, StopIteration) as error:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_approval",
            f"No approval has the id {approval_id[:200]}.",
            remedy="GET /v1/approvals lists what waits for a decision.",
        ) from error


async def _approvals(shared: Context, task: TaskRecord) -> list[ApprovalView]:
    """All that the task's runs ever asked for."""
    requested = [event async for event in whole_log(shared.tasks, task.id) if event.type == "approval.requested"]
    decided = Inbox(await shared.store.user_events(task.id)).decisions()
    return [show_approval(event, decided) for event in requested]
