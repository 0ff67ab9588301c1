"""Sends answers while they are generated, and stops generating when the client leaves."""

import asyncio
import time
from abc import abstractmethod
from contextlib import aclosing

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from model_server.chat.turn import Delta
from model_server.server.choices import Choices, Step
from model_server.server.errors import ApiError, internal, stopping
from model_server.server.wire import Answer, Json

_SILENCE_S = 5.0
"""A stream says that it lives after this long without a delta: calls are sent whole, and thinking before them may be
cut off by a proxy that waits for the next byte."""


class _GenerationResponse(Response):
    """Runs generations as a response. An error before the first token has its own status."""

    def __init__(self, choices: Choices, answer: Answer) -> None:
        super().__init__()
        self.choices = choices
        self.answer = answer
        self.outcome = "failed"
        """How choices ended that came to no end of their own, for the log."""
        self.started = False
        """The client has a status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._cancel_when_gone, receive, tasks.cancel_scope)
                await self._answer(scope, receive, send)
                tasks.cancel_scope.cancel()
        except asyncio.CancelledError:
            # A client that leaves is dealt with inside: this one is still there, and the server has no time left.
            self.outcome = stopping().code
            if not self.started:
                await self.answer.dialect.response(stopping())(scope, receive, send)
        finally:
            self.choices.ended(self.outcome)

    async def _cancel_when_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """The request body was read before, so the next message is the client's leaving."""
        while (await receive())["type"] != "http.disconnect":
            pass
        # An answered request is followed by the same message.
        self.outcome = "client_gone" if self.outcome == "failed" else self.outcome
        scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.respond(scope, receive, send)
        except ApiError as error:
            self.outcome = error.code
            await self.answer.dialect.response(error)(scope, receive, send)

    @abstractmethod
    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; an :class:`ApiError` may leave only before the first byte."""


class WholeAnswer(_GenerationResponse):
    """One JSON object at the end."""

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        said: list[list[Delta]] = [[] for _ in self.choices.generations]
        async with aclosing(self.choices.steps()) as steps:
            async for index, deltas in steps:
                said[index] += deltas or ()
        await JSONResponse(self.answer.whole(self.choices, said))(scope, receive, send)


class StreamedAnswer(_GenerationResponse):
    """Server-sent events, the last of them an error, or what the protocol ends a stream with."""

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        dialect = self.answer.dialect
        async with aclosing(self.choices.steps()) as steps:
            first = await anext(steps)
            self.started = True
            await send(_START)
            # Whatever goes wrong from here on, a bug included, the client must not take it for the end.
            ending = dialect.event(dialect.error(internal(self.answer.id)))
            try:
                await self._send(send, self.answer.opening(self.choices))
                last_sent = await self._send_step(send, first, time.monotonic())
                async for step in steps:
                    last_sent = await self._send_step(send, step, last_sent)
                await self._send(send, self.answer.end(self.choices))
                ending = dialect.done
            except ApiError as error:
                self.outcome = error.code
                ending = dialect.event(dialect.error(error))
            except asyncio.CancelledError:
                ending = dialect.event(dialect.error(stopping()))
                raise
            finally:
                await send({"type": "http.response.body", "body": ending, "more_body": False})

    async def _send_step(self, send: Send, step: Step, last_sent: float) -> float:
        """Send what a step added; returns when something was sent last."""
        (index, deltas), now = step, time.monotonic()
        choice = self.choices.generations[index]
        news = self.answer.closing(index, choice) if deltas is None else self.answer.step(index, choice, deltas)
        await self._send(send, news)
        if not news and now - last_sent > _SILENCE_S:
            await send(_piece(self.answer.dialect.alive))
        elif not news:
            return last_sent
        return now

    async def _send(self, send: Send, events: list[Json]) -> None:
        for body in events:
            await send(_piece(self.answer.dialect.event(body)))


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}


def _piece(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
