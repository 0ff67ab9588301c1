"""Writes down who changed what, whatever route did it."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Scope

from agent.api.problems import request_id
from agent.identity import Deed, Principal
from agent.store.identity import Identities

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_FORBIDDEN = 403
_MAX_CHARS = 1000

MCP_PATH = "/mcp"
"""What is done there is done by requests of their own, which are noted."""


async def note(identities: Identities, scope: Scope, start: Message) -> None:
    """Add a request to the audit log, by the beginning of its answer.

    Reading is not noted, nor is what was refused before it did anything; an attempt at what is forbidden is.
    """
    principal = scope["state"].get("principal")
    status = start["status"]
    refused = 400 <= status < 500 and status != _FORBIDDEN
    if principal is None or scope["method"] in _READING or refused or "route" not in scope:
        return
    if scope["path"] == MCP_PATH:
        return
    await identities.record(_deed(principal, scope, start))


def _deed(principal: Principal, scope: Scope, start: Message) -> Deed:
    parameters: dict[str, Any] = scope.get("path_params", {})
    made = Headers(raw=start.get("headers", [])).get("location")
    return Deed(
        project_id=parameters.get("project_id", principal.project_id),
        subject=principal.subject,
        kind=principal.kind,
        action=f"{scope['method']} {scope['route'].path}",
        # As it was sent: percent-encoded, so that no character of it can spoil a log or a database.
        target=(made or scope["raw_path"].decode("ascii", "backslashreplace"))[:_MAX_CHARS],
        status=start["status"],
        request_id=request_id(scope),
    )
