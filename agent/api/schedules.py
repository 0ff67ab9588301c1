"""Tasks that a project wants submitted again and again."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.api.access import Name
from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Shared
from agent.api.etag import WITH_ETAG, IfMatch, check_unchanged, etag
from agent.api.problems import Problem
from agent.api.repos import resolve_repository
from agent.api.schemas import TaskView
from agent.api.tasks import check_problem, view
from agent.errors import UnusableCron
from agent.store.base import TaskRecord
from agent.store.schedules import Overlap, Schedule
from agent.types import TaskRequest

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

CronExpression = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,200}$")]
TimeZone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")]

_ADMIN = [needs("projects:admin"), needs("tasks:write")]
"""The second too: whoever may not submit a task may not have one submitted."""

_READER = [needs("projects:admin")]


_OVERLAP = (
    "At a time at which the task before is not over: `skip` lets the time pass, `queue` waits for its end, `replace` "
    "cancels it, `allow` has both work."
)


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewSchedule(_Shape):
    name: Name
    cron: CronExpression = Field(
        description="Minute, hour, day of the month, month, day of the week; such as `30 6 * * MON-FRI`."
    )
    time_zone: TimeZone = Field("UTC", description="Name of the IANA's, such as Europe/Berlin.")
    task: TaskRequest = Field(description="As for POST /v1/tasks. Its commit is resolved anew each time.")
    overlap: Overlap = Field("skip", description=_OVERLAP)
    enabled: bool = True


class ScheduleChange(_Shape):
    """What is left out, or null, stays."""

    name: Name | None = None
    cron: CronExpression | None = None
    time_zone: TimeZone | None = None
    task: TaskRequest | None = None
    overlap: Overlap | None = None
    enabled: bool | None = Field(None, description="A schedule that is off submits nothing, and makes up for nothing.")


class ScheduleList(_Shape):
    schedules: tuple[Schedule, ...]


BODIES = (NewSchedule, ScheduleChange)

_CHANGEABLE = frozenset(ScheduleChange.model_fields)


@router.post(
    "",
    dependencies=_ADMIN,
    status_code=HTTPStatus.CREATED,
    response_model=Schedule,
    openapi_extra=described(NewSchedule),
)
async def create_schedule(request: Request, response: Response, shared: Shared) -> Schedule:
    """Have a task submitted at the times of a cron expression. Its repository is looked at now, so that a wrong one is
    said now."""
    schedule = await create(shared, await read_body(request, NewSchedule))
    response.headers["Location"] = f"/v1/schedules/{schedule.id}"
    return schedule


async def create(shared: Context, new: NewSchedule) -> Schedule:
    """
    Raises:
        Problem: its task or its times cannot be.
    """
    await _try(shared, new.task)
    try:
        return await shared.schedules.create(
            shared.principal.project_id,
            name=new.name,
            cron=new.cron,
            time_zone=new.time_zone,
            task=new.task,
            any_path=shared.principal.may("service:admin"),
            overlap=new.overlap,
            enabled=new.enabled,
            created_by=shared.principal.subject,
        )
    except UnusableCron as error:
        raise _unusable(error) from error


@router.get("", dependencies=_READER)
async def list_schedules(shared: Shared) -> ScheduleList:
    """Those of the project, oldest first."""
    return ScheduleList(schedules=await shared.schedules.all(shared.principal.project_id))


@router.get("/{schedule_id}", dependencies=_READER, responses=WITH_ETAG)
async def show_schedule(schedule_id: str, response: Response, shared: Shared) -> Schedule:
    """When it submits next, and what came of the last time."""
    schedule = await find(shared, schedule_id)
    response.headers["ETag"] = etag(schedule, _CHANGEABLE)
    return schedule


@router.patch("/{schedule_id}", dependencies=_ADMIN, responses=WITH_ETAG, openapi_extra=described(ScheduleChange))
async def change_schedule(
    schedule_id: str, request: Request, response: Response, shared: Shared, if_match: IfMatch = None
) -> Schedule:
    """Have another task submitted, at other times, or none. One that is switched on, or gets other times, is next due
    after now."""
    wanted = await read_body(request, ScheduleChange)
    after = await change(shared, schedule_id, wanted, if_match)
    response.headers["ETag"] = etag(after, _CHANGEABLE)
    return after


async def change(shared: Context, schedule_id: str, wanted: ScheduleChange, if_match: str | None = None) -> Schedule:
    """
    Args:
        if_match: change it only if this is still its ETag.

    Raises:
        Problem: there is no such schedule, or its task or its times cannot be.
    """

    def check(schedule: Schedule) -> None:
        check_unchanged(f"Schedule {schedule_id}", "schedule_changed", etag(schedule, _CHANGEABLE), if_match)

    await find(shared, schedule_id)
    changes: dict[str, Any] = wanted.model_dump(exclude_none=True, exclude={"task"})
    if wanted.task is not None:
        await _try(shared, wanted.task)
        changes["task"] = wanted.task
        changes["any_path"] = shared.principal.may("service:admin")
    try:
        after = await shared.schedules.change(shared.principal.project_id, schedule_id, changes, check=check)
    except UnusableCron as error:
        raise _unusable(error) from error
    if after is None:
        raise _unknown(schedule_id)
    return after


@router.post("/{schedule_id}/run", dependencies=_ADMIN, status_code=HTTPStatus.ACCEPTED)
async def run_schedule(schedule_id: str, response: Response, shared: Shared) -> TaskView:
    """Submit its task now, as yours. Its times stay as they are, and nothing is waited for or replaced."""
    task = await run_now(shared, schedule_id)
    response.headers["Location"] = f"/v1/tasks/{task.id}"
    return await view(shared, task)


async def run_now(shared: Context, schedule_id: str) -> TaskRecord:
    """
    Raises:
        Problem: there is no such schedule, or its task cannot be submitted.
    """
    schedule = await find(shared, schedule_id)
    request = await resolve_repository(shared, schedule.task, "/task")
    project, subject = shared.principal.project_id, shared.principal.subject
    task_id = await shared.schedules.run(project, schedule_id, request, created_by=subject)
    if task_id is None:
        raise _unknown(schedule_id)
    shared.metrics.scheduled("started", "by_hand")
    return await shared.tasks.get(task_id)


@router.delete("/{schedule_id}", dependencies=_READER, status_code=HTTPStatus.NO_CONTENT)
async def delete_schedule(schedule_id: str, shared: Shared) -> None:
    """Forget a schedule. Tasks that it submitted stay."""
    await find(shared, schedule_id)
    await shared.schedules.delete(shared.principal.project_id, schedule_id)


async def _try(shared: Context, task: TaskRequest) -> None:
    """
    Raises:
        Problem: 422, the task could not be submitted now.
    """
    check_problem(task, "/task")
    await resolve_repository(shared, task, "/task")


async def find(shared: Context, schedule_id: str) -> Schedule:
    """
    Raises:
        Problem: 404.
    """
    project = shared.principal.project_id
    schedule = await shared.schedules.get(project, schedule_id)
    if schedule is None:
        raise _unknown(schedule_id)
    return schedule


def _unknown(schedule_id: str) -> Problem:
    return Problem(
        HTTPStatus.NOT_FOUND,
        "unknown_schedule",
        f"The project has no schedule {schedule_id[:64]}.",
        remedy="GET /v1/schedules lists its schedules.",
    )


def _unusable(error: UnusableCron) -> Problem:
    return rejected(f"/{error.field}", str(error), "Write five fields, as in crontab(5), and a zone of the IANA's.")
