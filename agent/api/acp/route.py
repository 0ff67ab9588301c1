"""The address at which the Agent Client Protocol is spoken."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.api.auth import lacks
from agent.api.context import of_caller, services_of
from agent.api.problems import FieldError, Problem
from agent.identity import Principal, Scope
from agent.types import Approvals, ProfileName

router = APIRouter()

_NEEDED: tuple[Scope, ...] = ("tasks:read", "tasks:write")


class Terms(BaseModel):
    """What the address says of the tasks that are begun over a connection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: str | None = Field(None, min_length=1, max_length=4096)
    """None for that which is called like the editor's folder."""
    base_commit: str = Field("HEAD", min_length=1, max_length=256)
    profile: ProfileName = "assistant"
    approvals: Approvals = "ask"
    """Of sessions whose editor chooses no mode."""
    mcp_servers: Literal["project", "ignore"] = "project"
    """What becomes of servers of tools that an editor passes: those that are not the project's are refused, or left out
    with a word about it."""


@router.get("/acp", include_in_schema=False)
async def explain() -> None:
    """
    Raises:
        Problem: always; sockets come another way.
    """
    raise Problem(
        HTTPStatus.UPGRADE_REQUIRED,
        "upgrade_required",
        "This address speaks the Agent Client Protocol over WebSockets alone.",
        remedy="Connect to it by wss:// (or ws://) with the package of an editor; the operator's service needs "
        "mimo-coder[acp].",
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


@router.websocket("/acp")
async def speak(socket: WebSocket) -> None:
    """Sessions of one editor, until it hangs up."""
    principal = socket.scope["state"]["principal"]
    assert isinstance(principal, Principal), principal
    for scope in _NEEDED:
        if not principal.may(scope):
            raise lacks(scope)
    terms = _terms(socket)
    try:
        from agent.api.acp.agent import serve
    except ImportError as error:
        raise Problem(
            HTTPStatus.NOT_IMPLEMENTED,
            "not_installed",
            f"This service does not speak the Agent Client Protocol: {error}.",
            remedy="Ask the operator to install mimo-coder[acp].",
        ) from error
    await serve(socket, of_caller(services_of(socket.app), principal), terms)


def _terms(socket: WebSocket) -> Terms:
    try:
        return Terms.model_validate(dict(socket.query_params))
    except ValidationError as error:
        found = [FieldError(parameter=str(part["loc"][0]), detail=part["msg"]) for part in error.errors()]
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            "; ".join(f"{part.parameter}: {part.detail}" for part in found),
            remedy=f"The address takes {', '.join(Terms.model_fields)}.",
            errors=found,
        ) from error
