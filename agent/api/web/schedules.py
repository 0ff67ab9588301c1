"""Tasks that are submitted again and again: when each is next, and what came of the last time."""

from http import HTTPStatus
from typing import Any, get_args

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from agent.api import schedules
from agent.api.auth import needs
from agent.api.context import Shared
from agent.api.web.form import Form, checked, read_form
from agent.api.web.page import Html, page_router
from agent.store.schedules import Overlap

router = page_router("tasks:read", "projects:admin")

_PATH = "/settings/schedules"
_WRITER = [needs("tasks:write")]
_REMEDY = "Give a name, times as five fields such as 30 6 * * MON-FRI, a repository, and what is wanted."


@router.get(_PATH)
async def show_schedules(request: Request, shared: Shared, html: Html) -> Response:
    found = await shared.schedules.all(shared.principal.project_id)
    writes = shared.principal.may("tasks:write")
    return html.page(request, "schedules.html", schedules=found, overlaps=get_args(Overlap), writes=writes)


@router.post(_PATH, dependencies=_WRITER)
async def make_schedule(request: Request, shared: Shared) -> Response:
    form = await read_form(request)
    given = _times(form) | {"task": _task(form)}
    await schedules.create(shared, checked(schedules.NewSchedule, given, _REMEDY))
    return _back()


@router.get(_PATH + "/{schedule_id}")
async def show_schedule(request: Request, schedule_id: str, shared: Shared, html: Html) -> Response:
    schedule = await schedules.find(shared, schedule_id)
    writes = shared.principal.may("tasks:write")
    return html.page(request, "schedule.html", schedule=schedule, overlaps=get_args(Overlap), writes=writes)


@router.post(_PATH + "/{schedule_id}", dependencies=_WRITER)
async def change_schedule(request: Request, schedule_id: str, shared: Shared) -> Response:
    form = await read_form(request)
    before = await schedules.find(shared, schedule_id)
    task = before.task.model_dump(mode="json") | _task(form)
    wanted = checked(schedules.ScheduleChange, _times(form) | {"task": task}, _REMEDY)
    # A task that stays is not looked at again: its path may be one that only an operator may name.
    if wanted.task == before.task:
        wanted = wanted.model_copy(update={"task": None})
    await schedules.change(shared, schedule_id, wanted)
    return _back()


@router.post(_PATH + "/{schedule_id}/enabled", dependencies=_WRITER)
async def switch_schedule(request: Request, schedule_id: str, shared: Shared) -> Response:
    form = await read_form(request)
    await schedules.change(shared, schedule_id, schedules.ScheduleChange(enabled=form.get("enabled") == "yes"))
    return _back()


@router.post(_PATH + "/{schedule_id}/run", dependencies=_WRITER)
async def run_schedule(request: Request, schedule_id: str, shared: Shared) -> Response:
    await read_form(request)
    task = await schedules.run_now(shared, schedule_id)
    return RedirectResponse(f"/tasks/{task.id}", HTTPStatus.SEE_OTHER)


@router.post(_PATH + "/{schedule_id}/delete")
async def delete_schedule(request: Request, schedule_id: str, shared: Shared) -> Response:
    await read_form(request)
    await schedules.delete_schedule(schedule_id, shared)
    return _back()


def _times(form: Form) -> dict[str, Any]:
    return {
        "name": form.get("name", "").strip(),
        "cron": form.get("cron", "").strip(),
        "time_zone": form.get("time_zone", "").strip() or "UTC",
        "overlap": form.get("overlap", "skip"),
    }


def _task(form: Form) -> dict[str, str]:
    return {
        "repository": form.get("repository", "").strip(),
        "problem_statement": form.get("problem_statement", "").replace("\r\n", "\n").strip(),
    }


def _back() -> Response:
    return RedirectResponse(_PATH, HTTPStatus.SEE_OTHER)
