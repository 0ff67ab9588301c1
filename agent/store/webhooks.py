"""Who wants to be told of events, and what is still to be said, in the same database as the tasks.

A delivery is written in the transaction of the event it tells of, so none is forgotten; it stays when it is done, as
the log that its project reads.
"""

import base64
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict
from sqlalchemy import RowMapping, Select, delete, func, insert, select, update

from agent.errors import SettingsError
from agent.store.cursors import page_of
from agent.store.database import Database, Transaction, whole
from agent.store.secrets import KEY_VARIABLE, SecretBox
from agent.store.tables import webhook_deliveries as deliveries
from agent.store.tables import webhooks
from agent.types import Event

WebhookEvent = Literal["task.submitted", "run.parked", "approval.requested", "run.finished", "task.finished"]
"""What can be told. Steps are not: whoever wants them reads the event stream."""

WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)

GIVE_UP_AFTER = timedelta(days=3)
"""So long after the event it is tried again; from then on only by hand."""

_KEY_BYTES = 32
_MAX_TRIES_KEPT = 30


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Webhook(_Record):
    """A service that is told of a project's events."""

    id: str
    url: str
    events: tuple[WebhookEvent, ...]
    enabled: bool
    """False once the service said that it is gone (410), or a user switched it off; nothing new is written then."""
    created_by: str
    created_at: datetime


class Outcome(_Record):
    """How one try to deliver ended."""

    status: int | None
    """HTTP status of the answer; None where there was none."""
    error: str | None
    """Why there was no answer."""
    duration_s: float

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The service wants to hear nothing more (Standard Webhooks, "Responding to webhooks": 410)."""
        return self.status == 410


class Try(Outcome):
    at: datetime


class DeliveryRecord(_Record):
    """One message to one service, and what became of it."""

    id: str
    type: WebhookEvent
    body: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    """``failed``: given up after three days, or because the service is gone."""
    created_at: datetime
    due: datetime | None
    """When it is tried next; None when it is not."""
    tries: tuple[Try, ...]
    """The newest ones."""


class Delivery(_Record):
    """A message that a sender has taken on."""

    id: str
    webhook_id: str
    url: str
    project_id: str
    secret: bytes
    """As it is stored, see :meth:`Webhooks.secret_of`."""
    sealed: bool
    body: dict[str, Any]
    num_tries: int
    """Before this one."""


class Webhooks:
    """Of all projects; every call of a user names his."""

    def __init__(self, database: Database, box: SecretBox | None = None) -> None:
        """
        Args:
            box: seals the services' secrets; None keeps new ones as they are.
        """
        self.database = database
        self._box = box

    # What users ask.

    @whole
    async def create(
        self, project_id: str, url: str, events: tuple[WebhookEvent, ...], *, created_by: str
    ) -> tuple[Webhook, str]:
        """The webhook, and the secret its messages are signed with, which nobody can be told again."""
        webhook_id = f"hook_{secrets.token_hex(12)}"
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"
        kept = secret.encode() if self._box is None else self._box.seal(project_id, webhook_id, secret)
        async with self.database.writing() as transaction:
            webhook = Webhook(
                id=webhook_id,
                url=url,
                events=events,
                enabled=True,
                created_by=created_by,
                created_at=transaction.now,
            )
            values = webhook.model_dump(exclude={"id"}) | {
                "webhook_id": webhook_id,
                "project_id": project_id,
                "events": list(events),
                "secret": kept,
                "sealed": self._box is not None,
            }
            await transaction.db.execute(insert(webhooks).values(values))
        return webhook, secret

    @whole
    async def all(self, project_id: str) -> tuple[Webhook, ...]:
        """Those of a project, oldest first."""
        query = select(webhooks).where(webhooks.c.project_id == project_id).order_by(webhooks.c.created_at)
        async with self.database.reading() as db:
            return tuple(map(_webhook, (await db.execute(query)).mappings()))

    @whole
    async def get(self, project_id: str, webhook_id: str) -> Webhook | None:
        query = select(webhooks).where(webhooks.c.project_id == project_id, webhooks.c.webhook_id == webhook_id)
        async with self.database.reading() as db:
            row = (await db.execute(query)).mappings().first()
        return None if row is None else _webhook(row)

    @whole
    async def change(self, project_id: str, webhook_id: str, changes: dict[str, Any]) -> Webhook | None:
        """Set some of ``url``, ``events`` and ``enabled``; None where the project has no such webhook."""
        its = (webhooks.c.project_id == project_id, webhooks.c.webhook_id == webhook_id)
        if changes:
            async with self.database.writing() as transaction:
                await transaction.db.execute(update(webhooks).where(*its).values(changes))
        return await self.get(project_id, webhook_id)

    @whole
    async def delete(self, project_id: str, webhook_id: str) -> bool:
        """Forget a webhook and its log; whether there was one."""
        its = (webhooks.c.project_id == project_id, webhooks.c.webhook_id == webhook_id)
        async with self.database.writing() as transaction:
            if (await transaction.db.execute(select(webhooks.c.webhook_id).where(*its))).first() is None:
                return False
            await transaction.db.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            await transaction.db.execute(delete(webhooks).where(*its))
        return True

    @whole
    async def log(
        self, project_id: str, webhook_id: str, *, cursor: str | None = None, limit: int = 20
    ) -> tuple[tuple[DeliveryRecord, ...], str | None]:
        """What was or is to be said, newest first, and the cursor of the next page; None at the end.

        Raises:
            InvalidCursor: no page of deliveries ended in it.
        """
        query = select(deliveries).where(deliveries.c.webhook_id == webhook_id)
        page, next_cursor = await page_of(self.database, project_id, query, deliveries.c.position, cursor, limit)
        return tuple(map(_delivery, page)), next_cursor

    @whole
    async def redeliver(self, webhook_id: str, delivery_id: str) -> DeliveryRecord | None:
        """Say it again, as soon as can be; None where there is no such delivery."""
        its = (deliveries.c.webhook_id == webhook_id, deliveries.c.delivery_id == delivery_id)
        async with self.database.writing() as transaction:
            await transaction.db.execute(update(deliveries).where(*its).values(status="pending", due=transaction.now))
            row = (await transaction.db.execute(select(deliveries).where(*its))).mappings().first()
        return None if row is None else _delivery(row)

    # What senders do.

    @whole
    async def take_due(self, most: int, lease: timedelta, *, besides: Collection[str] = ()) -> tuple[Delivery, ...]:
        """Messages whose time has come; nobody else gets them for as long as the lease is.

        Args:
            besides: webhooks whose messages are left.
        """
        others = deliveries.c.webhook_id.not_in(besides)
        async with self.database.reading() as db:
            if (await db.execute(_due(await self.database.now(db)).where(others).limit(1))).first() is None:
                return ()
        async with self.database.writing() as transaction:
            now, due = transaction.now, _due(transaction.now).where(others).limit(most)
            taken = (await transaction.db.execute(due.with_for_update(skip_locked=True))).scalars().all()
            its = deliveries.c.position.in_(taken)
            await transaction.db.execute(
                update(deliveries).where(its).values(due=now + lease, num_tries=deliveries.c.num_tries + 1)
            )
            joined = select(deliveries, webhooks.c.url, webhooks.c.secret, webhooks.c.sealed, webhooks.c.project_id)
            rows = (
                await transaction.db.execute(joined.join(webhooks).where(its).order_by(deliveries.c.position))
            ).mappings()
            return tuple(map(_to_send, rows))

    @whole
    async def record(self, delivery: Delivery, outcome: Outcome, *, retry_in: timedelta) -> None:
        """Write down how a try ended, and when the next one is, if any."""
        its = deliveries.c.delivery_id == delivery.id
        async with self.database.writing() as transaction:
            now = transaction.now
            row = (await transaction.db.execute(select(deliveries).where(its).with_for_update())).mappings().first()
            if row is None:  # The webhook was deleted meanwhile.
                return
            again = not (outcome.accepted or outcome.gone) and now + retry_in <= row["created_at"] + GIVE_UP_AFTER
            tried = Try(**outcome.model_dump(), at=now).model_dump(mode="json")
            values = {
                "status": "delivered" if outcome.accepted else "pending" if again else "failed",
                "due": now + retry_in if again else None,
                "tries": [*row["tries"], tried][-_MAX_TRIES_KEPT:],
            }
            await transaction.db.execute(update(deliveries).where(its).values(values))
            if outcome.gone:
                gone = webhooks.c.webhook_id == delivery.webhook_id
                await transaction.db.execute(update(webhooks).where(gone).values(enabled=False))

    @whole
    async def num_pending(self) -> int:
        """Of all projects."""
        query = select(func.count()).select_from(deliveries).where(deliveries.c.due.is_not(None))
        async with self.database.reading() as db:
            return int((await db.execute(query)).scalar_one())

    def secret_of(self, delivery: Delivery) -> str:
        """What the message is signed with.

        Raises:
            SettingsError: it was sealed, and this process has no key that opens it.
        """
        if not delivery.sealed:
            return delivery.secret.decode()
        if self._box is None:
            raise SettingsError(f"the secret of webhook {delivery.webhook_id} is sealed; set {KEY_VARIABLE}")
        return self._box.open(delivery.project_id, delivery.webhook_id, delivery.secret)


async def announce(transaction: Transaction, project_id: str, event: Event) -> None:
    """Part of the transaction that stores ``event``: one delivery for each of the project's webhooks that want it."""
    if event.type not in WEBHOOK_EVENTS:
        return
    wanted = select(webhooks.c.webhook_id, webhooks.c.events).where(
        webhooks.c.project_id == project_id, webhooks.c.enabled
    )
    rows = [row.webhook_id for row in await transaction.db.execute(wanted) if event.type in row.events]
    if rows:
        await transaction.db.execute(
            insert(deliveries), [_message(webhook_id, project_id, event) for webhook_id in rows]
        )


def _due(now: datetime) -> Select[tuple[int]]:
    return select(deliveries.c.position).where(deliveries.c.due <= now).order_by(deliveries.c.due)


def _to_send(row: RowMapping) -> Delivery:
    return Delivery(
        id=row["delivery_id"],
        webhook_id=row["webhook_id"],
        url=row["url"],
        project_id=row["project_id"],
        secret=row["secret"],
        sealed=row["sealed"],
        body=row["body"],
        num_tries=row["num_tries"] - 1,
    )


def _message(webhook_id: str, project_id: str, event: Event) -> dict[str, Any]:
    """Thin: what happened to which task. Whoever wants more asks for it, with a key."""
    body = {
        "type": event.type,
        "timestamp": event.at.isoformat(),
        "data": {"project_id": project_id, "task_id": event.task_id, "run_id": event.run_id, "seq": event.seq},
    }
    return {
        "delivery_id": f"msg_{secrets.token_hex(12)}",
        "webhook_id": webhook_id,
        "type": event.type,
        "body": body,
        "status": "pending",
        "created_at": event.at,
        "due": event.at,
        "num_tries": 0,
        "tries": [],
    }


def _webhook(row: RowMapping) -> Webhook:
    shown = {name: row[name] for name in Webhook.model_fields if name != "id"}
    return Webhook.model_validate(shown | {"id": row["webhook_id"], "events": tuple(row["events"])})


def _delivery(row: RowMapping) -> DeliveryRecord:
    shown = {name: row[name] for name in DeliveryRecord.model_fields if name != "id"}
    return DeliveryRecord.model_validate(shown | {"id": row["delivery_id"], "tries": tuple(row["tries"])})
