"""Sends an answer while it is generated, and stops generating when the client leaves."""

import time
from abc import abstractmethod
from contextlib import aclosing

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from model_server.chat.turn import Delta, assemble
from model_server.server.errors import ApiError, internal
from model_server.server.generation import Generation
from model_server.server.wire import DONE, Answer, Json, event

_SILENCE_S = 5.0
"""A stream says that it lives after this long without a delta: calls are sent whole, and thinking before them may be
cut off by a proxy that waits for the next byte."""


class _GenerationResponse(Response):
    """Runs a generation as a response. An error before the first token has its own status."""

    def __init__(self, generation: Generation, answer: Answer) -> None:
        super().__init__()
        self.generation = generation
        self.answer = answer
        self.outcome: str | None = None
        """How the request ended, for the log; None until it has."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._cancel_when_gone, receive, tasks.cancel_scope)
                self.outcome = await self._answered(scope, receive, send)
                tasks.cancel_scope.cancel()
        finally:
            self.generation.ended(self.outcome or "failed")

    async def _cancel_when_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """The request body was read before, so the next message is the client's leaving."""
        while (await receive())["type"] != "http.disconnect":
            pass
        # An answered request is followed by the same message.
        self.outcome = self.outcome or "client_gone"
        scope.cancel()

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> str:
        try:
            await self.respond(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return error.code
        return str(self.generation.ending)

    @abstractmethod
    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; an :class:`ApiError` may leave only before the first byte."""


class WholeAnswer(_GenerationResponse):
    """One JSON object at the end."""

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        deltas: list[Delta] = []
        async with aclosing(self.generation.steps()) as steps:
            async for step in steps:
                deltas += step
        turn = assemble(deltas, self.generation.parser)
        body = self.answer.whole(
            turn,
            str(self.generation.ending),
            self.generation.usage,
            self.generation.take_sampled(),
            self.generation.experts,
        )
        await JSONResponse(body)(scope, receive, send)


class StreamedAnswer(_GenerationResponse):
    """Server-sent events, the last of them ``[DONE]`` or an error."""

    def __init__(self, generation: Generation, answer: Answer, *, include_usage: bool) -> None:
        super().__init__(generation, answer)
        self.include_usage = include_usage

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.generation.steps()) as steps:
            first = await anext(steps)
            await send(_START)
            # Whatever goes wrong from here on, a bug included, the client must not take it for the end.
            ending = event(internal(self.answer.id).body())
            try:
                await _send(send, event(self.answer.opening(self.generation.parser.enable_thinking)))
                last_sent = await self._send_deltas(send, first, time.monotonic())
                async for step in steps:
                    last_sent = await self._send_deltas(send, step, last_sent)
                for body in self._closing():
                    await _send(send, event(body))
                ending = DONE
            except ApiError as error:
                ending = event(error.body())
            finally:
                await send({"type": "http.response.body", "body": ending, "more_body": False})

    async def _send_deltas(self, send: Send, deltas: list[Delta], last_sent: float) -> float:
        """Send what a step added; returns when something was sent last."""
        now = time.monotonic()
        for delta in deltas:
            await _send(send, event(self.answer.delta(delta, self.generation.take_sampled())))
        if not deltas and now - last_sent > _SILENCE_S:
            await _send(send, b": generating\n\n")
        elif not deltas:
            return last_sent
        return now

    def _closing(self) -> list[Json]:
        rest = self.generation.take_sampled()
        closing = [
            self.answer.closing(
                str(self.generation.ending), self.generation.parser.flags, rest, self.generation.experts
            )
        ]
        return [*closing, self.answer.usage(self.generation.usage)] if self.include_usage else closing


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
