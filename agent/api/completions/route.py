"""Where chat programs ask: OpenAI's chat completions. https://platform.openai.com/docs/api-reference/chat"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from agent.api.auth import needs
from agent.api.body import described, read_body
from agent.api.completions.answer import Answer
from agent.api.completions.conversation import Turn, begin
from agent.api.completions.shapes import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatRequest,
    ChunkChoice,
    usage_of,
)
from agent.api.completions.telling import Kind, Piece
from agent.api.context import Context, Shared
from agent.api.events import HEARTBEAT, EventStream
from agent.api.lasting import lasts
from agent.api.once import IdempotencyKey, first_answer
from agent.api.problems import CHAT_PATHS, request_id
from agent.api.web.session import address
from agent.store.idempotency import Answer as Begun
from agent.store.idempotency import Keyed

router = APIRouter(prefix=CHAT_PATHS, tags=["chat"])

_TURN = TypeAdapter(Turn)
"""What is kept under a caller's key: the answer is told anew, out of the task's log."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatChunk"}}}}
}


@router.post(
    "/completions",
    dependencies=[needs("tasks:read"), needs("tasks:write"), lasts("chat")],
    response_model=ChatCompletion,
    responses=_ANSWERS,
    openapi_extra=described(ChatRequest),
)
async def complete_chat(request: Request, shared: Shared, idempotency_key: IdempotencyKey = None) -> Response:
    """Have the last message done as a task, or told to the task of the conversation. Streamed, the answer grows as the
    agent works; else it comes when the task is over or needs you, or when the wait is over."""
    asked = await read_body(request, ChatRequest)

    async def do(keyed: Keyed[Begun] | None) -> Begun:
        return _begun(await begin(shared, request.headers, asked, keyed and keyed.of(_begun)))

    begun, is_replay = await first_answer(shared, request, idempotency_key, do)
    turn = _TURN.validate_json(begun.body)
    if is_replay:  # Whoever asked first says again what the task had not read.
        turn = replace(turn, told=None)
    answer = Answer(shared, turn, address(request))
    name = {"id": f"chatcmpl-{request_id(request.scope)}", "created": int(time.time()), "model": asked.model}
    response: Response
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        response = EventStream(_chunks(answer, name, usage=usage))
    else:
        response = JSONResponse((await _whole(shared, answer, name)).model_dump(mode="json"))
    response.headers["Location"] = f"/v1/tasks/{turn.task_id}"
    if is_replay:
        response.headers["Idempotent-Replay"] = "true"
    return response


def _begun(turn: Turn) -> Begun:
    return Begun(task_id=turn.task_id, status=HTTPStatus.OK, location=None, body=_TURN.dump_json(turn).decode("utf-8"))


async def _whole(shared: Context, answer: Answer, name: dict[str, Any]) -> ChatCompletion:
    texts: dict[Kind, str] = {"content": "", "reasoning": ""}
    in_time = False
    async with aclosing(answer.pieces()) as pieces:
        with suppress(TimeoutError):
            async with asyncio.timeout(shared.answer_wait_s):
                async for piece in pieces:
                    if piece is not None:
                        texts[piece.kind] += piece.text
                in_time = True
    for piece in await answer.closing():
        texts[piece.kind] += piece.text
    said = ChatAnswer(content=texts["content"], reasoning_content=texts["reasoning"])
    choice = ChatChoice(message=said, finish_reason="stop" if in_time else "length")
    usage = usage_of((await answer.task()).usage)
    return ChatCompletion(**name, choices=(choice,), usage=usage, mimo=await answer.outcome())


async def _chunks(answer: Answer, name: dict[str, Any], *, usage: bool) -> AsyncGenerator[bytes, None]:
    yield _data(ChatChunk(**name, choices=(ChunkChoice(delta=ChatDelta(role="assistant", content="")),)))
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            yield HEARTBEAT if piece is None else _data(_chunk(name, piece))
    for piece in await answer.closing():
        yield _data(_chunk(name, piece))
    last = ChunkChoice(delta=ChatDelta(), finish_reason="stop")
    yield _data(ChatChunk(**name, choices=(last,), mimo=await answer.outcome()))
    if usage:
        yield _data(ChatChunk(**name, choices=(), usage=usage_of((await answer.task()).usage)))
    yield b"data: [DONE]\n\n"


def _chunk(name: dict[str, Any], piece: Piece) -> ChatChunk:
    if piece.kind == "content":
        return ChatChunk(**name, choices=(ChunkChoice(delta=ChatDelta(content=piece.text)),))
    return ChatChunk(**name, choices=(ChunkChoice(delta=ChatDelta(reasoning_content=piece.text)),))


def _data(chunk: ChatChunk) -> bytes:
    return f"data: {chunk.model_dump_json()}\n\n".encode()
