"""Does a request once, however often it is sent: ``Idempotency-Key``.

After the IETF's draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header): the same
key and request give the stored answer, another request under the same key is refused.
"""

import hashlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Header, Request, Response
from pydantic import BaseModel

from agent.api.context import Context
from agent.store.idempotency import Answer, Keyed

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of yours, new for every request. Sent again with the same body, it gives the first "
        "answer, with the header Idempotent-Replay: true. It is kept as long as the task.",
    ),
]

_T = TypeVar("_T", bound=BaseModel)


async def once(
    shared: Context,
    request: Request,
    key: str | None,
    do: Callable[[Keyed[tuple[str, _T]] | None], Awaitable[tuple[str, _T]]],
    *,
    location: Callable[[_T], str] | None = None,
) -> Response:
    """202 with what ``do`` returns, or with what it returned when this request first came.

    Args:
        do: does the request; returns the id of the task it is about, and the answer. What it makes is made with the
            answer that it hands over: as far as that can be known then.
        location: where the new thing is to be found.
    """

    def told(made: tuple[str, _T]) -> Answer:
        return _answer(*made, location)

    async def answer(keyed: Keyed[Answer] | None) -> Answer:
        return told(await do(keyed and keyed.of(told)))

    given, is_replay = await first_answer(shared, request, key, answer)
    return _response(given, replay=is_replay)


async def first_answer(
    shared: Context, request: Request, key: str | None, do: Callable[[Keyed[Answer] | None], Awaitable[Answer]]
) -> tuple[Answer, bool]:
    """What ``do`` answers, or what it answered when this request first came; and whether it is that."""
    if key is None:
        return await do(None), False
    project = shared.principal.project_id
    fingerprint = await _fingerprint(request)
    given = await shared.idempotency.begin(project, key, fingerprint)
    if given is not None:
        return given, True
    try:
        answer = await do(Keyed(key, lambda answer: answer))
    except BaseException:
        await shared.idempotency.forget(project, key)
        raise
    await shared.idempotency.finish(project, key, answer)
    return answer, False


async def _fingerprint(request: Request) -> str:
    said = f"{request.method} {request.url.path}\n".encode() + await request.body()
    return hashlib.sha256(said).hexdigest()


def _answer(task_id: str, view: _T, location: Callable[[_T], str] | None) -> Answer:
    return Answer(
        task_id=task_id,
        status=HTTPStatus.ACCEPTED,
        location=location(view) if location else None,
        body=view.model_dump_json(),
    )


def _response(answer: Answer, *, replay: bool = False) -> Response:
    headers = {"Idempotent-Replay": "true"} if replay else {}
    if answer.location is not None:
        headers["Location"] = answer.location
    return Response(answer.body, answer.status, headers, "application/json")
