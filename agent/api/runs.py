"""The attempts at a task, each by itself."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from agent.api.auth import needs
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.api.schemas import DiffView, RunList, RunView, TaskView, show_run
from agent.api.tasks import DIFF_ANSWERS, diff_answer, view
from agent.errors import UnknownRun
from agent.store.base import RunRecord, TaskRecord

router = APIRouter(prefix="/v1/tasks", tags=["runs"])


@router.get("/{task_id}/runs", dependencies=[needs("tasks:read")])
async def list_runs(task_id: str, shared: Shared) -> RunList:
    """Every attempt, in order, without patches."""
    task = await shared.tasks.get(task_id)
    return RunList(runs=tuple(show_run(run, task) for run in task.runs))


@router.get("/{task_id}/runs/{run_id}", dependencies=[needs("tasks:read")])
async def read_run(task_id: str, run_id: str, shared: Shared) -> RunView:
    """One attempt."""
    task, run = await _find(shared, task_id, run_id)
    return show_run(run, task)


@router.get(
    "/{task_id}/runs/{run_id}/diff",
    dependencies=[needs("tasks:read")],
    response_model=DiffView,
    responses=DIFF_ANSWERS,
)
async def read_run_diff(task_id: str, run_id: str, request: Request, shared: Shared) -> DiffView | Response:
    """What an attempt changed: as JSON, or with ``Accept: text/x-diff`` as the patch itself."""
    _, run = await _find(shared, task_id, run_id)
    if not run.status.terminal:
        raise Problem(
            HTTPStatus.CONFLICT,
            "run_not_ended",
            f"Run {run_id} is {run.status}; its patch is computed when it ends.",
            remedy="Wait for its event run.finished (GET /v1/tasks/{id}/events), then ask again.",
        )
    return await diff_answer(request, run.patch)


@router.post("/{task_id}/attempts/{attempt}/select", dependencies=[needs("tasks:write")])
async def select_attempt(
    task_id: str, attempt: Annotated[int, Path(ge=1, le=100, description="From 1.")], shared: Shared
) -> TaskView:
    """Let the patch, verdict and status of an ended task be those of this attempt."""
    return await view(shared, await shared.tasks.choose(task_id, attempt))


async def _find(shared: Context, task_id: str, run_id: str) -> tuple[TaskRecord, RunRecord]:
    task = await shared.tasks.get(task_id)
    for run in task.runs:
        if run.run_id == run_id:
            return task, run
    raise UnknownRun(f"Task {task_id} has no run {run_id[:64]}.")
