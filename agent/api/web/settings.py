"""How a project is set up, and who may do what in it: what its administrators see and change."""

import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from agent.api.access import NewKey, NewSecret
from agent.api.auth import lacks, needs
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.api.projects import SECRET_NAME, seal_secret
from agent.api.web.form import checked, read_form
from agent.api.web.html import Templates
from agent.api.web.page import Html, page_router
from agent.api.webhooks import NewWebhook, create, find
from agent.identity import ROLES
from agent.store.webhooks import WEBHOOK_EVENTS

router = page_router("tasks:read")

_ADMIN = [needs("projects:admin")]
_MAX_DAYS = 3650


@router.get("/settings")
async def show_settings(request: Request, shared: Shared, html: Html) -> Response:
    return await _settings(request, shared, html)


@router.post("/settings/keys", dependencies=_ADMIN)
async def make_key(request: Request, shared: Shared, html: Html) -> Response:
    form = await read_form(request)
    days = form.get("days") or "0"
    if not days.isdecimal():
        raise _invalid("A key lives for a number of days.")
    ends = datetime.now(UTC) + timedelta(days=min(int(days), _MAX_DAYS)) if int(days) else None
    given = {
        "name": form.get("name", "").strip(),
        "scopes": ROLES.get(form.get("role", ""), frozenset()),
        "expires_at": ends,
    }
    new = checked(NewKey, given, "Give the key a name and rights.")
    for scope in sorted(new.scopes - shared.principal.scopes):
        raise lacks(scope)
    _, secret = await shared.store.identities.create_key(
        shared.principal.project_id,
        new.name,
        new.scopes,
        created_by=shared.principal.subject,
        expires_at=new.expires_at,
    )
    return await _settings(request, shared, html, ("The new key", secret))


@router.post("/settings/keys/{key_id}/revoke", dependencies=_ADMIN)
async def revoke_key(request: Request, key_id: str, shared: Shared) -> Response:
    await read_form(request)
    if await shared.store.identities.revoke_key(shared.principal.project_id, key_id) is None:
        raise _unknown("key")
    return _back()


@router.post("/settings/secrets", dependencies=_ADMIN)
async def put_secret(request: Request, shared: Shared) -> Response:
    form = await read_form(request)
    name = form.get("name", "").strip()
    if re.fullmatch(SECRET_NAME, name) is None:
        raise _invalid("A secret's name is fit for a variable: letters, digits and underscores, no digit first.")
    secret = checked(NewSecret, {"value": form.get("value", "")}, "Give the secret a value.")
    await seal_secret(shared, shared.principal.project_id, name, secret)
    return _back()


@router.post("/settings/secrets/{name}/delete", dependencies=_ADMIN)
async def delete_secret(request: Request, name: str, shared: Shared) -> Response:
    await read_form(request)
    if not await shared.store.identities.delete_secret(shared.principal.project_id, name):
        raise _unknown("secret")
    return _back()


@router.post("/settings/webhooks", dependencies=_ADMIN)
async def make_webhook(request: Request, shared: Shared, html: Html) -> Response:
    form = await read_form(request)
    given = {"url": form.get("url", "").strip(), "events": [event for event in WEBHOOK_EVENTS if event in form]}
    created = await create(shared, checked(NewWebhook, given, "Give an address and choose events."))
    return await _settings(request, shared, html, ("The new webhook's secret", created.secret))


@router.get("/settings/webhooks/{webhook_id}", dependencies=_ADMIN)
async def show_webhook(
    request: Request, webhook_id: str, shared: Shared, html: Html, cursor: str | None = None
) -> Response:
    """What a service was told, and how each try ended."""
    webhook = await find(shared, webhook_id)
    deliveries, next_cursor = await shared.webhooks.log(shared.principal.project_id, webhook_id, cursor=cursor)
    return html.page(request, "webhook.html", webhook=webhook, deliveries=deliveries, next_cursor=next_cursor)


@router.post("/settings/webhooks/{webhook_id}/enabled", dependencies=_ADMIN)
async def switch_webhook(request: Request, webhook_id: str, shared: Shared) -> Response:
    form = await read_form(request)
    await find(shared, webhook_id)
    await shared.webhooks.change(shared.principal.project_id, webhook_id, {"enabled": form.get("enabled") == "yes"})
    return _back(f"/webhooks/{webhook_id}")


@router.post("/settings/webhooks/{webhook_id}/delete", dependencies=_ADMIN)
async def delete_webhook(request: Request, webhook_id: str, shared: Shared) -> Response:
    await read_form(request)
    if not await shared.webhooks.delete(shared.principal.project_id, webhook_id):
        raise _unknown("webhook")
    return _back()


@router.post("/settings/webhooks/{webhook_id}/deliveries/{delivery_id}", dependencies=_ADMIN)
async def redeliver(request: Request, webhook_id: str, delivery_id: str, shared: Shared) -> Response:
    await read_form(request)
    await find(shared, webhook_id)
    if await shared.webhooks.redeliver(webhook_id, delivery_id) is None:
        raise _unknown("delivery")
    return _back(f"/webhooks/{webhook_id}")


@router.get("/settings/audit", dependencies=_ADMIN)
async def show_audit(request: Request, shared: Shared, html: Html, cursor: str | None = None) -> Response:
    """Who changed what in the project."""
    page = await shared.store.identities.audit(shared.principal.project_id, cursor=cursor, limit=100)
    return html.page(request, "audit.html", page=page)


async def _settings(
    request: Request, shared: Context, html: Templates, shown_once: tuple[str, str] | None = None
) -> Response:
    principal = shared.principal
    shown: dict[str, Any] = {
        "principal": principal,
        "project": await shared.store.project(principal.project_id),
        "administers": principal.may("projects:admin"),
        "shown_once": shown_once,
    }
    if shown["administers"]:
        shown |= {
            "keys": await shared.store.identities.keys(principal.project_id),
            "roles": [name for name, scopes in ROLES.items() if scopes <= principal.scopes],
            "secrets": await shared.store.identities.secrets(principal.project_id),
            "keeps_secrets": shared.secret_box is not None,
            "skills": await shared.skills.all(principal.project_id),
            "mcp_servers": await shared.mcp_servers.all(principal.project_id),
            "webhooks": await shared.webhooks.all(principal.project_id),
            "webhook_events": WEBHOOK_EVENTS,
        }
    return html.page(request, "settings.html", **shown)


def _back(place: str = "") -> Response:
    return RedirectResponse(f"/settings{place}", HTTPStatus.SEE_OTHER)


def _invalid(detail: str) -> Problem:
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, remedy="Go back and correct it.")


def _unknown(what: str) -> Problem:
    return Problem(
        HTTPStatus.NOT_FOUND, f"unknown_{what}", f"The project has no such {what}.", remedy="Look at the list."
    )
