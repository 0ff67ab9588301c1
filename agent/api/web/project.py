"""What a project used, and how it is set up."""

from datetime import UTC, datetime, time, timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from agent.api.auth import lacks, needs
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.api.web.form import read_form
from agent.api.web.html import Templates
from agent.api.web.page import Html, page_router
from agent.api.web.plot import HEIGHT, WIDTH, Plot, plot
from agent.api.web.usage import Period, first_day, period
from agent.identity import ROLES
from agent.store.base import TaskRecord
from agent.types import VerdictKind

router = page_router("tasks:read")

_USAGE_TASKS = 5000
"""Most tasks the usage page adds up."""
_NAME_CHARS = 200
_MAX_DAYS = 3650


@router.get("/usage")
async def show_usage(
    request: Request, shared: Shared, html: Html, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> Response:
    now = datetime.now(UTC)
    tasks, whole = await _tasks_since(shared, datetime.combine(first_day(days, now), time.min, UTC))
    used = period(tasks, days, now)
    shown: dict[str, Any] = {
        "used": used,
        "days": days,
        "whole": whole,
        "cost": shared.prices.cost(used.total.usage) if shared.prices else None,
        "plots": _plots(used),
        "width": WIDTH,
        "height": HEIGHT,
    }
    return html.page(request, "usage.html", **shown)


@router.get("/settings")
async def show_settings(request: Request, shared: Shared, html: Html) -> Response:
    return await _settings(request, shared, html)


@router.post("/settings/keys", dependencies=[needs("projects:admin")])
async def make_key(request: Request, shared: Shared, html: Html) -> Response:
    form = await read_form(request)
    name, role, days = form.get("name", "").strip(), form.get("role", ""), form.get("days", "") or "0"
    if not name or not name.isprintable() or len(name) > _NAME_CHARS or role not in ROLES or not days.isdecimal():
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            "A key needs a name, rights and days.",
            remedy="Go back.",
        )
    for scope in sorted(ROLES[role] - shared.principal.scopes):
        raise lacks(scope)
    _, secret = await shared.store.identities.create_key(
        shared.principal.project_id,
        name,
        ROLES[role],
        created_by=shared.principal.subject,
        expires_at=datetime.now(UTC) + timedelta(days=min(int(days), _MAX_DAYS)) if int(days) else None,
    )
    return await _settings(request, shared, html, secret)


@router.post("/settings/keys/{key_id}/revoke", dependencies=[needs("projects:admin")])
async def revoke_key(request: Request, key_id: str, shared: Shared) -> Response:
    await read_form(request)
    if await shared.store.identities.revoke_key(shared.principal.project_id, key_id) is None:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_key", "The project has no such key.", remedy="Look at the list.")
    return RedirectResponse("/settings", HTTPStatus.SEE_OTHER)


async def _settings(request: Request, shared: Context, html: Templates, secret: str = "") -> Response:
    principal = shared.principal
    administers = principal.may("projects:admin")
    keys = await shared.store.identities.keys(principal.project_id) if administers else None
    roles = [name for name, scopes in ROLES.items() if scopes <= principal.scopes]
    project = await shared.store.project(principal.project_id)
    shown: dict[str, Any] = {"principal": principal, "project": project, "keys": keys, "roles": roles, "secret": secret}
    return html.page(request, "settings.html", **shown)


async def _tasks_since(shared: Context, start: datetime) -> tuple[list[TaskRecord], bool]:
    """The tasks submitted since, newest first, and whether these are all."""
    found: list[TaskRecord] = []
    cursor: str | None = None
    while len(found) < _USAGE_TASKS:
        page = await shared.tasks.list_tasks(since=start, cursor=cursor, limit=100)
        found += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return found, True
    return found, False


def _plots(used: Period) -> dict[str, Plot]:
    tokens = [(day, (n.usage.cached_tokens, n.fresh_tokens, n.usage.completion_tokens)) for day, n in used.days]
    outcomes = [(day, (*map(n.of, _OUTCOMES), n.num_tasks - sum(map(n.of, _OUTCOMES)))) for day, n in used.days]
    return {
        "Tokens": plot(("read from the cache", "read", "written"), tokens),
        "Tasks": plot((*(name.replace("_", " ") for name in _OUTCOMES), "other"), outcomes),
    }


_OUTCOMES = (VerdictKind.VERIFIED, VerdictKind.PARTLY_VERIFIED, VerdictKind.REGRESSED)
