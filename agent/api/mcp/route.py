"""The address at which the Model Context Protocol is spoken."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from agent.api.audit import MCP_PATH
from agent.api.problems import Problem

router = APIRouter()


@router.post(MCP_PATH, include_in_schema=False)
async def speak(request: Request) -> Response:
    """One message of the protocol, and its answer."""
    try:
        from agent.api.mcp.server import answer
    except ImportError as error:
        raise Problem(
            HTTPStatus.NOT_IMPLEMENTED,
            "not_installed",
            f"This service does not speak the Model Context Protocol: {error}.",
            remedy="Ask the operator to install mimo-coder[mcp].",
        ) from error
    return _Answer(answer, await request.body())


class _Answer(Response):
    """Written by the protocol's own package."""

    def __init__(self, answer: Callable[[Scope, Receive, Send, bytes], Awaitable[None]], said: bytes) -> None:
        super().__init__()
        self._answer = answer
        self._said = said

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send, self._said)
