"""What the service has, allows and charges: models, limits, the queue, usage."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from agent.api.auth import lacks, needs
from agent.api.completions.models import chat_models
from agent.api.context import Context, Shared
from agent.api.gate import BODY_LIMIT_BYTES
from agent.api.problems import FieldError, Problem
from agent.api.schemas import LimitsView, ModelList, ModelView, QueueView, UsageList, UsageView
from agent.config import Prices
from agent.store.accounts import GROUPS, Group, Used
from agent.types import Limits, Status

router = APIRouter(prefix="/v1", tags=["service"])

_Since = Annotated[AwareDatetime | None, Query(description="Only tasks submitted then or later.")]
_Until = Annotated[AwareDatetime | None, Query(description="Only tasks submitted before.")]
_By = Annotated[
    str,
    Query(
        description="Split by any of user, model and day (of submission, in UTC), with commas between; empty: one sum."
        " With project, which takes service:admin, the tasks of all projects are split."
    ),
]


@router.get("/usage", dependencies=[needs("tasks:read")])
async def read_usage(shared: Shared, group_by: _By = "", since: _Since = None, until: _Until = None) -> UsageList:
    """What the tasks of the project used, all attempts counted; split by project, what those of every project did."""
    groups = _groups(group_by)
    if "project" in groups and not shared.principal.may("service:admin"):
        raise lacks("service:admin")
    whose = None if "project" in groups else shared.principal.project_id
    used = await shared.accounts.used(whose, groups, since=since, until=until)
    return UsageList(project=shared.principal.project_id, usage=tuple(_view(sums, shared.prices) for sums in used))


@router.get("/tasks/{task_id}/usage", dependencies=[needs("tasks:read")])
async def read_task_usage(task_id: str, shared: Shared) -> UsageView:
    """What a task used, all attempts counted."""
    await shared.tasks.get(task_id)
    return await usage_of(shared, task_id)


async def usage_of(shared: Context, task_id: str) -> UsageView:
    """Of a task that is the caller's."""
    (used,) = await shared.accounts.used(shared.principal.project_id, task_id=task_id)
    return _view(used, shared.prices)


async def usage_of_eval(shared: Context, eval_id: str) -> UsageView:
    """Of an evaluation that is the caller's."""
    (used,) = await shared.accounts.used(shared.principal.project_id, eval_id=eval_id)
    return _view(used, shared.prices)


@router.get("/queue", dependencies=[needs("tasks:read")])
async def read_queue(shared: Shared) -> QueueView:
    """How much of the project waits, and how long. Where one task stands, and why, is said by the task itself."""
    project = shared.principal.project_id
    counts = await shared.accounts.num_tasks(project)
    oldest = await shared.accounts.oldest_queued(project)
    working = (Status.PROVISIONING, Status.RUNNING, Status.FINALIZING)
    return QueueView(
        num_queued=counts.get(Status.QUEUED, 0),
        num_working=sum(counts.get(status, 0) for status in working),
        num_waiting=counts.get(Status.WAITING, 0),
        num_paused=counts.get(Status.PAUSED, 0),
        oldest_queued_s=seconds_since(oldest),
    )


@router.get("/limits", dependencies=[needs("tasks:read")])
async def read_limits(shared: Shared) -> LimitsView:
    """What the service takes from you, and what a task gets that names no limits."""
    project = await shared.store.project(shared.principal.project_id)
    return LimitsView(
        requests_per_minute=shared.rates.quota if shared.rates else None,
        streams_per_caller=shared.streams.per_caller,
        streams_per_project=shared.streams.per_project,
        max_body_bytes=BODY_LIMIT_BYTES,
        max_running=project.max_running,
        max_running_per_user=project.max_running_per_user,
        daily_tokens=project.daily_tokens,
        daily_tokens_per_user=project.daily_tokens_per_user,
        daily_cost=project.daily_cost,
        daily_cost_per_user=project.daily_cost_per_user,
        monthly_cost=project.monthly_cost,
        monthly_cost_per_user=project.monthly_cost_per_user,
        weight=project.weight,
        retention_days=project.retention_days,
        task_defaults=Limits(),
    )


@router.get("/models", dependencies=[needs("tasks:read")])
async def list_models(shared: Shared) -> ModelList:
    """The model that a task gets which names none; workers ask for any other by the name a task gives. ``data`` has the
    names that chat programs use."""
    repos = await shared.remotes.repos.all(shared.principal.project_id)
    model = ModelView(name=shared.model_name, default=True, prices=shared.prices)
    return ModelList(models=(model,), data=chat_models(repo.name for repo in repos))


def seconds_since(moment: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds()) if moment else 0.0


def _groups(text: str) -> tuple[Group, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = tuple(group for group in GROUPS if group in names)
    if len(known) != len(names):
        detail = "Not a list of project, user, model and day, each at most once"
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            f"group_by: {detail}",
            remedy="Name what to split by, such as group_by=user,day.",
            errors=[FieldError(parameter="group_by", detail=detail)],
        )
    return known


def _view(used: Used, prices: Prices | None) -> UsageView:
    return UsageView(
        group=used.group,
        num_tasks=used.num_tasks,
        num_runs=used.num_runs,
        num_steps=used.num_steps,
        usage=used.usage,
        cost=prices.cost(used.usage) if prices else None,
    )
