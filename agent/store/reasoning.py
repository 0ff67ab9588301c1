"""The model's reasoning in a log: sealed while it is stored, and hidden from who may not see it.

What is sealed is the text, byte for byte, so what the model is sent again is what it wrote. A process with no key
stores it as it is; with one, what was stored before stays readable.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import SettingsError
from agent.types import Event, TaskRequest

if TYPE_CHECKING:  # Cryptography is slow to import, and most commands seal nothing.
    from agent.store.secrets import SecretBox

BOX = "mimo_secret_box"
"""Execution option of a connection: what seals; None or missing where the process has no key."""

_FIELD = "reasoning_content"
_PURPOSE = "reasoning"


def sealed(db: AsyncConnection, task_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body of an event as it is stored: its reasoning bound to the task, so that put elsewhere it cannot be
    opened."""
    box = _box(db)
    if box is None:
        return body
    return _changed(body, lambda text: {"sealed": box.seal(task_id, _PURPOSE, text).decode("ascii")})


def opened(db: AsyncConnection, task_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body as it was before it was stored.

    Raises:
        SettingsError: it was sealed, and this process has no key that opens it.
    """

    def text_of(kept: Any) -> Any:
        if not isinstance(kept, dict):
            return kept
        box = _box(db)
        if box is None:
            raise SettingsError(f"the reasoning of {task_id} is sealed, and this process was given no MIMO_SECRETS_KEY")
        return box.open(task_id, _PURPOSE, kept["sealed"].encode("ascii"))

    return _changed(body, text_of)


def hidden(event: Event) -> Event:
    """The event without the model's reasoning, as if the endpoint had sent none."""
    return event.model_copy(update={"body": _changed(event.body, lambda text: None)})


def beside_log(db: AsyncConnection, request: TaskRequest) -> TaskRequest:
    """What the row of a task has of what was asked: where reasoning is sealed, the log alone has that."""
    return request if _box(db) is None else hidden_request(request)


def hidden_request(request: TaskRequest) -> TaskRequest:
    """Without what was thought in the conversation before."""
    said = tuple(message.model_copy(update={_FIELD: None}) for message in request.conversation)
    return request.model_copy(update={"conversation": said})


_MESSAGE = "message"
"""Where the model's answer stands in the body of an event."""
_REQUEST = "request"
"""Where what was asked does."""


def _changed(body: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The body with each reasoning in it changed; where there is none, it is never asked."""
    message, request = body.get(_MESSAGE), body.get(_REQUEST)
    if isinstance(message, dict) and message.get(_FIELD) is not None:
        return body | {_MESSAGE: message | {_FIELD: change(message[_FIELD])}}
    if isinstance(request, dict) and any(said.get(_FIELD) is not None for said in request.get("conversation", ())):
        conversation = [
            said if said.get(_FIELD) is None else said | {_FIELD: change(said[_FIELD])}
            for said in request["conversation"]
        ]
        return body | {_REQUEST: request | {"conversation": conversation}}
    return body


def _box(db: AsyncConnection) -> "SecretBox | None":
    assert db.sync_connection is not None, db
    box: SecretBox | None = db.sync_connection.get_execution_options().get(BOX)
    return box
