"""Services that a project wants told of its events, and the log of what they were told."""

from http import HTTPStatus
from typing import Annotated

import httpx
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.store.webhooks import WEBHOOK_EVENTS, DeliveryRecord, Webhook, WebhookEvent

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Url = Annotated[str, StringConstraints(pattern=r"^https?://[\x21-\x7e]+$", max_length=2000)]
Events = Annotated[tuple[WebhookEvent, ...], Field(min_length=1, max_length=len(WEBHOOK_EVENTS))]
_ADMIN = [needs("projects:admin")]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewWebhook(_Shape):
    url: Url = Field(description="Where messages are posted; plain http only where the operator allows it.")
    events: Events = WEBHOOK_EVENTS


class WebhookChange(_Shape):
    """What is left out, or null, stays."""

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = Field(None, description="A webhook that is off gets no new messages.")


class CreatedWebhook(_Shape):
    """The only answer that holds the secret."""

    webhook: Webhook
    secret: str = Field(description="Shown this once; messages are signed with it, see standardwebhooks.com.")


class WebhookList(_Shape):
    webhooks: tuple[Webhook, ...]


class DeliveryList(_Shape):
    """Messages, newest first."""

    deliveries: tuple[DeliveryRecord, ...]
    next_cursor: str | None = Field(description="Value of cursor for the next page; null at the end.")


BODIES = (NewWebhook, WebhookChange)


@router.post("", dependencies=_ADMIN, status_code=HTTPStatus.CREATED, openapi_extra=described(NewWebhook))
async def create_webhook(request: Request, response: Response, shared: Shared) -> CreatedWebhook:
    """Have a service told of the project's events from now on."""
    created = await create(shared, await read_body(request, NewWebhook))
    response.headers["Location"] = f"/v1/webhooks/{created.webhook.id}"
    return created


@router.get("", dependencies=_ADMIN)
async def list_webhooks(shared: Shared) -> WebhookList:
    """Those of the project, oldest first."""
    return WebhookList(webhooks=await shared.webhooks.all(shared.principal.project_id))


@router.get("/{webhook_id}", dependencies=_ADMIN)
async def show_webhook(webhook_id: str, shared: Shared) -> Webhook:
    return await find(shared, webhook_id)


@router.patch("/{webhook_id}", dependencies=_ADMIN, openapi_extra=described(WebhookChange))
async def change_webhook(webhook_id: str, request: Request, shared: Shared) -> Webhook:
    """Have it told elsewhere, of other events, or not at all."""
    change = await read_body(request, WebhookChange)
    if change.url is not None:
        check_url(change.url)
    await find(shared, webhook_id)
    changes = change.model_dump(exclude_none=True)
    if change.events is not None:
        changes["events"] = list(_once_each(change.events))
    await shared.webhooks.change(shared.principal.project_id, webhook_id, changes)
    return await find(shared, webhook_id)


@router.delete("/{webhook_id}", dependencies=_ADMIN, status_code=HTTPStatus.NO_CONTENT)
async def delete_webhook(webhook_id: str, shared: Shared) -> None:
    """Forget a webhook, what is still to be sent to it, and its log."""
    await find(shared, webhook_id)
    await shared.webhooks.delete(shared.principal.project_id, webhook_id)


@router.get("/{webhook_id}/deliveries", dependencies=_ADMIN)
async def list_deliveries(
    webhook_id: str,
    shared: Shared,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DeliveryList:
    """What the service was or is to be told, and how each try ended."""
    await find(shared, webhook_id)
    found, next_cursor = await shared.webhooks.log(shared.principal.project_id, webhook_id, cursor=cursor, limit=limit)
    return DeliveryList(deliveries=found, next_cursor=next_cursor)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", dependencies=_ADMIN, status_code=HTTPStatus.ACCEPTED)
async def redeliver(webhook_id: str, delivery_id: str, shared: Shared) -> DeliveryRecord:
    """Say a message again, as soon as can be, under the same id."""
    await find(shared, webhook_id)
    delivery = await shared.webhooks.redeliver(webhook_id, delivery_id)
    if delivery is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_delivery",
            f"Webhook {webhook_id} has no delivery {delivery_id[:64]}.",
            remedy="GET /v1/webhooks/{id}/deliveries lists its deliveries.",
        )
    return delivery


async def create(shared: Context, new: NewWebhook) -> CreatedWebhook:
    """
    Raises:
        Problem: 422, the address is none that messages can be posted to.
    """
    check_url(new.url)
    project, subject = shared.principal.project_id, shared.principal.subject
    webhook, secret = await shared.webhooks.create(project, new.url, _once_each(new.events), created_by=subject)
    return CreatedWebhook(webhook=webhook, secret=secret)


async def find(shared: Context, webhook_id: str) -> Webhook:
    """
    Raises:
        Problem: 404.
    """
    webhook = await shared.webhooks.get(shared.principal.project_id, webhook_id)
    if webhook is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_webhook",
            f"The project has no webhook {webhook_id[:64]}.",
            remedy="GET /v1/webhooks lists its webhooks.",
        )
    return webhook


def check_url(url: str) -> None:
    """
    Raises:
        Problem: 422, it names no host, or a password.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise rejected("/url", f"Not a URL: {error}", "Give an address such as https://HOST/PATH.") from error
    if not parsed.host or parsed.userinfo:
        raise rejected("/url", "No host, or a password in it", "Name a host; a password has no place in an address.")


def _once_each(events: tuple[WebhookEvent, ...]) -> tuple[WebhookEvent, ...]:
    return tuple(event for event in WEBHOOK_EVENTS if event in events)
