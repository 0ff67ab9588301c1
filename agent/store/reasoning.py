"""The model's reasoning in a log: sealed while it is stored, and hidden from who may not see it.

What is sealed is the text, byte for byte, so what the model is sent again is what it wrote. A process with no key
stores it as it is; with one, what was stored before stays readable.
"""

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import SettingsError
from agent.types import Event

if TYPE_CHECKING:  # Cryptography is slow to import, and most commands seal nothing.
    from agent.store.secrets import SecretBox

BOX = "mimo_secret_box"
"""Execution option of a connection: what seals; None or missing where the process has no key."""

_FIELD = "reasoning_content"
_PURPOSE = "reasoning"


def sealed(db: AsyncConnection, event: Event) -> dict[str, Any]:
    """The body as it is stored: its reasoning bound to the task, so that put elsewhere it cannot be opened."""
    box, reasoning = _box(db), _reasoning(event.body)
    if box is None or not isinstance(reasoning, str):
        return event.body
    return _with(event.body, {"sealed": box.seal(event.task_id, _PURPOSE, reasoning).decode("ascii")})


def opened(db: AsyncConnection, task_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body as it was before it was stored.

    Raises:
        SettingsError: it was sealed, and this process has no key that opens it.
    """
    reasoning = _reasoning(body)
    if not isinstance(reasoning, dict):
        return body
    box = _box(db)
    if box is None:
        raise SettingsError(f"the reasoning of {task_id} is sealed, and this process was given no MIMO_SECRETS_KEY")
    return _with(body, box.open(task_id, _PURPOSE, reasoning["sealed"].encode("ascii")))


def hidden(event: Event) -> Event:
    """The event without the model's reasoning, as if the endpoint had sent none."""
    if _reasoning(event.body) is None:
        return event
    return event.model_copy(update={"body": _with(event.body, None)})


def _box(db: AsyncConnection) -> "SecretBox | None":
    assert db.sync_connection is not None, db
    box: SecretBox | None = db.sync_connection.get_execution_options().get(BOX)
    return box


def _reasoning(body: dict[str, Any]) -> Any:
    message = body.get("message")
    return message.get(_FIELD) if isinstance(message, dict) else None


def _with(body: dict[str, Any], reasoning: Any) -> dict[str, Any]:
    return body | {"message": body["message"] | {_FIELD: reasoning}}
