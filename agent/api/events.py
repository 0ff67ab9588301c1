"""A task's log, as pages or as a stream that a lost connection takes up again without a hole."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from agent.api.context import Context, Shared
from agent.api.schemas import LAST_EVENT, EventPage, EventView, show_event
from agent.types import Event

router = APIRouter(prefix="/v1/tasks", tags=["events"])

_RETRY_MS = 2000
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "Stream only: the task ended, and the caller has seen its last event."},
}


@router.get("/{task_id}/events", response_model=EventPage, responses=_ANSWERS)
async def read_events(
    task_id: str,
    request: Request,
    shared: Shared,
    after: Annotated[int, Query(ge=0, description="Only events with a greater sequence number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most events of a page; a stream has no limit.")] = 100,
    last_event_id: Annotated[int | None, Header(ge=0, description="Stream only: wins over after.")] = None,
) -> EventPage | Response:
    """A page of the log, or with ``Accept: text/event-stream`` the log from there on as it grows."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return await _stream(shared, task_id, after if last_event_id is None else last_event_id)
    events = await shared.store.events(task_id, after=after, limit=limit)
    return EventPage(
        events=tuple(map(show_event, events)),
        next_after=events[-1].seq if events else after,
        ended=(bool(events) and events[-1].type == LAST_EVENT) or await _has_seen_all(shared, task_id, after),
    )


async def _stream(shared: Context, task_id: str, after: int) -> Response:
    if await _has_seen_all(shared, task_id, after):
        # The one answer after which a browser's EventSource does not come back.
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return StreamingResponse(
        _frames(shared, task_id, after),
        media_type="text/event-stream",
        # Neither caches nor a proxy's buffer may hold events back.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _frames(shared: Context, task_id: str, after: int) -> AsyncIterator[str]:
    """Everything comes out of the store, what was there before and what is new, so nothing falls between the two."""
    yield f"retry: {_RETRY_MS}\n\n"
    while True:
        events = await shared.store.wait_for_events(task_id, after=after, timeout_s=shared.heartbeat_s)
        if not events:
            yield ": heartbeat\n\n"
        for event in events:
            yield _frame(event)
            after = event.seq
            if event.type == LAST_EVENT:
                return


def _frame(event: Event) -> str:
    view: EventView = show_event(event)
    return f"id: {event.seq}\nevent: {event.type}\ndata: {view.model_dump_json()}\n\n"


async def _has_seen_all(shared: Context, task_id: str, after: int) -> bool:
    record = await shared.store.get(task_id)
    return record.status.terminal and after >= record.last_seq
