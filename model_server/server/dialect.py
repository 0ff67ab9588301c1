"""How each of the two protocols writes an event, an error, and that a stream lives or is over."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse

from model_server.server.body import JsonObject
from model_server.server.errors import ApiError

MESSAGES_PATH = "/v1/messages"
"""Everything at and below it speaks Anthropic's protocol, its errors too."""

_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Anthropic's types of errors by status, where they have one."""

_SPELLINGS = (
    (".function.parameters", ".input_schema"),
    (".function.name", ".name"),
    ("response_format.json_schema.schema", "output_config.format.schema"),
)
"""Paths of a chat completion, and of the same fields in Anthropic's protocol."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol's spelling of what every endpoint says."""

    event: Callable[[JsonObject], bytes]
    """A server-sent event of its JSON."""
    error: Callable[[ApiError], JsonObject]
    """The JSON of an error, as a response or as an event."""
    alive: bytes
    """Keeps a silent stream open."""
    done: bytes
    """Follows the last event of a stream that came to its end."""

    def response(self, error: ApiError) -> JSONResponse:
        """An error before anything else was sent."""
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.error(error), error.status, headers)


def dialect_of(path: str) -> Dialect:
    """The protocol that is spoken at a path."""
    return ANTHROPIC if path == MESSAGES_PATH or path.startswith(f"{MESSAGES_PATH}/") else OPENAI


def _data(body: JsonObject) -> bytes:
    """In ASCII: some clients end a line at every character of Unicode that ends one, such as U+2028 or U+0085."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _openai_error(error: ApiError) -> JsonObject:
    kind = "invalid_request_error" if error.status < 500 and error.status != 429 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def _named_event(body: JsonObject) -> bytes:
    return b"event: " + str(body["type"]).encode() + b"\n" + _data(body)


def _anthropic_error(error: ApiError) -> JsonObject:
    """Anthropic's errors have no place for a path, so the message has it, in that protocol's spelling."""
    message = str(error)
    for ours, theirs in _SPELLINGS:
        message = message.replace(ours, theirs)
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


OPENAI = Dialect(event=_data, error=_openai_error, alive=b": generating\n\n", done=b"data: [DONE]\n\n")
ANTHROPIC = Dialect(
    event=_named_event, error=_anthropic_error, alive=b'event: ping\ndata: {"type":"ping"}\n\n', done=b""
)
