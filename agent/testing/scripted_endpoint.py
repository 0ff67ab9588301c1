"""An OpenAI-compatible endpoint on loopback that answers by script and can misbehave in the usual ways."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.errors import ModelError
from agent.testing.scripted_model import Script
from agent.testing.serving import serving
from agent.types import AssistantMessage

_PIECE_CHARS = 12
"""Texts are streamed in pieces of this size."""


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP error."""

    code: int
    body: str = '{"error": {"message": "scripted failure"}}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """The stream ends before the answer does."""

    message: AssistantMessage


@dataclass(frozen=True, slots=True)
class Stalled:
    """Nothing comes any more: before the first token, or after all of ``message`` but its end."""

    message: AssistantMessage | None = None


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that is no answer, as an event of the stream or as the whole body."""

    body: str = "data: {not json\n\n"
    content_type: str = "text/event-stream"


_STALL_S = 3600.0

Fault = Status | Cut | Stalled | Garbage


class ScriptedEndpoint:
    """Serves ``/v1/chat/completions``, ``/v1/models`` and ``/health``.

    ``faults`` are used up first, one per request; then the script answers. ``requests`` and ``headers`` hold what
    came in, in order. An exhausted script is answered with HTTP 400.
    """

    def __init__(self, script: Script, faults: Sequence[Fault] = (), name: str = "scripted") -> None:
        self.name = name
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._script = script
        self._faults = list(faults)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
            ]
        )

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """Serve in a thread, on a free port where none is given; yields the base address that ends in ``/v1``."""
        with serving(self.app, port) as port:
            yield f"http://127.0.0.1:{port}/v1"

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "script"}]})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self._faults:
            return self._misbehave(self._faults.pop(0))
        try:
            message = self._script(body["messages"])
        except ModelError as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=400)
        return _stream(self._events(message, whole=True, stalled=False))

    def _misbehave(self, fault: Fault) -> Response:
        match fault:
            case Status(code, text, headers):
                return Response(text, status_code=code, headers=headers)
            case Garbage(text, content_type):
                return Response(text, media_type=content_type)
            case Cut(message):
                return _stream(self._events(message, whole=False, stalled=False))
            case Stalled(message):
                return _stream(self._events(message, whole=False, stalled=True))

    async def _events(self, message: AssistantMessage | None, *, whole: bool, stalled: bool) -> AsyncIterator[str]:
        for delta in _deltas(message) if message else ():
            yield _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if stalled:
            await asyncio.sleep(_STALL_S)
        if whole and message:
            finish = message.finish_reason or ("tool_calls" if message.tool_calls else "stop")
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            yield _event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"


def _stream(events: AsyncIterator[str]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream")


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', **body})}\n\n"


def _deltas(message: AssistantMessage) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant"}
    if message.reasoning_content is not None:
        yield {"reasoning_content": ""}
        yield from ({"reasoning_content": piece} for piece in _pieces(message.reasoning_content))
    yield from ({"content": piece} for piece in _pieces(message.content))
    for index, call in enumerate(message.tool_calls):
        head = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield {"tool_calls": [head]}
        for piece in _pieces(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str) -> Iterator[str]:
    return (text[i : i + _PIECE_CHARS] for i in range(0, len(text), _PIECE_CHARS))
