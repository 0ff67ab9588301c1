"""A task's log, as pages or as a stream that a lost connection takes up again without a hole."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from agent.api.auth import needs
from agent.api.context import Context, Shared
from agent.api.drafts import DraftFrame
from agent.api.lasting import Lasting, lasts
from agent.api.problems import Problem, invalid_parameter
from agent.api.schemas import LAST_EVENT, EventPage, EventView, show_event
from agent.api.watching import FIRST_PART, PART, Frame, Tail, fitting, frame

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/tasks", tags=["events"])

_RETRY_MS = 2000
_STUCK_S = 60.0
"""A reader who takes nothing for so long is gone; what it had buffered is all it cost."""
PAGE_BYTES = 4 * 1024 * 1024
"""Of the events of a page, unless a single one has more: what one request costs is known."""
HEARTBEAT = b": heartbeat\n\n"
_WARN = 0.75
"""How far a reader falls behind before it is warned, as a share of what is kept for it."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "Stream only: the task ended, and the caller has seen its last event."},
}


def _wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


@router.get(
    "/{task_id}/events",
    dependencies=[needs("tasks:read"), lasts("events", _wants_stream)],
    response_model=EventPage,
    responses=_ANSWERS,
)
async def read_events(
    task_id: str,
    request: Request,
    shared: Shared,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events with a greater sequence number.")] = 0,
    limit: Annotated[
        int,
        Query(
            ge=1,
            le=1000,
            description="Most events of a page, which has fewer where they are large; a stream has no limit.",
        ),
    ] = 100,
    types: Annotated[
        str, Query(max_length=1000, description="Only these, with commas between. A stream's last event comes always.")
    ] = "",
    deltas: Annotated[
        bool, Query(description="Stream only: say too what the model is writing, as item.delta, without id.")
    ] = False,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53, description="Stream only: wins over after.")] = None,
) -> EventPage | Response:
    """A page of the log, or with ``Accept: text/event-stream`` the log from there on as it grows."""
    wanted = frozenset(filter(None, types.replace("\0", "").split(",")))
    if _wants_stream(request):
        reader = _Reader(after if last_event_id is None else last_event_id, wanted, drafts=deltas)
        return await _stream(shared, task_id, reader, last_event_id)
    record = await shared.tasks.get(task_id)
    events, is_whole = await _page(shared, task_id, after, limit, wanted)
    seen = events[-1].seq if events else after
    if is_whole:  # What was not wanted lies behind the reader, too.
        seen = max(seen, record.last_seq)
    return EventPage(
        events=tuple(events),
        next_after=seen,
        ended=(bool(events) and events[-1].type == LAST_EVENT) or (record.status.terminal and seen >= record.last_seq),
    )


async def _page(
    shared: Context, task_id: str, after: int, limit: int, types: Collection[str]
) -> tuple[list[EventView], bool]:
    """At most so many events, and at least one where there is one, as far as they fit; whether these are the last."""
    page: list[EventView] = []
    num_bytes, most = 0, FIRST_PART
    while len(page) < limit:
        most = min(most, limit - len(page))
        found = await shared.tasks.events(task_id, after=after, limit=most, types=types)
        for event in map(show_event, found):
            num_bytes += len(event.model_dump_json())
            if page and num_bytes > PAGE_BYTES:
                return page, False
            page.append(event)
        if len(found) < most:
            return page, True
        after, most = found[-1].seq, min(2 * most, PART)
    return page, False


async def _stream(shared: Context, task_id: str, reader: "_Reader", last_event_id: int | None) -> Response:
    record = await shared.tasks.get(task_id)
    if record.status.terminal and reader.after >= record.last_seq:
        # The one answer after which a browser's EventSource does not come back.
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if reader.after > record.last_seq:  # It would hear nothing, not even the end.
        name = "after" if last_event_id is None else "Last-Event-ID"
        raise invalid_parameter(name, f"the log ends with {record.last_seq} so far; leave it out for the whole log")
    return EventStream(_chunks(shared, task_id, reader, record.last_seq))


class EventStream(StreamingResponse):
    """Ends its generator when the reader goes, and goes itself when the reader takes nothing more, or may not be there
    any more."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        # Neither caches nor a proxy's buffer may hold events back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = Lasting(scope)

        async def bounded(message: Message) -> None:
            await caller.check()
            async with asyncio.timeout(_STUCK_S):
                await send(message)

        async with aclosing(self._chunks):
            try:
                await super().__call__(scope, receive, bounded)
            except TimeoutError:
                logger.info("action=drop_reader path=%s reason=stuck", scope["path"])
            except Problem as problem:
                logger.info("action=drop_reader path=%s reason=%s", scope["path"], problem.code)
                await send({"type": "http.response.body", "body": b""})


async def _chunks(shared: Context, task_id: str, reader: "_Reader", head: int) -> AsyncGenerator[bytes, None]:
    """What was comes out of the store, what is new out of the log's tail, which reaches back to where that ended."""
    yield f"retry: {_RETRY_MS}\n\n".encode()
    drafts = shared.store.drafts if reader.drafts else None
    most = FIRST_PART
    async with shared.watching.tail(shared.tasks, task_id, head, drafts) as tail:
        while not reader.ended:
            frames = tail.since(reader.after)
            if frames is None and reader.live:
                yield reader.drop(tail)
                return
            if frames is None:
                frames = tuple(map(frame, await shared.tasks.events(task_id, after=reader.after, limit=most)))
            else:
                reader.live = True
            if frames:
                part = fitting(frames)
                most = min(2 * len(part), PART)  # What did not fit is read again.
                chunk = reader.take(part, tail)
                del frames, part  # The reader may take its time.
                yield chunk
            elif written := reader.unread(tail):
                yield reader.take_drafts(written)
            else:
                await tail.wait(shared.heartbeat_s, drafts=reader.drafts)
                if not tail.since(reader.after) and not reader.unread(tail):
                    yield HEARTBEAT


class _Reader:
    """How far one reader is."""

    def __init__(self, after: int, types: Collection[str] = (), *, drafts: bool = False) -> None:
        """
        Args:
            types: of the events that are sent beside the last one; empty: all.
            drafts: wants them too.
        """
        self.after = after
        self.drafts = drafts
        self._types = types
        self._read = 0
        """Pieces of drafts."""
        self.live = False
        """Has caught up once: from then on it must keep up."""
        self.ended = False
        self._warned = False

    def take(self, frames: Sequence[Frame], tail: Tail) -> bytes:
        """The next events as they are sent, with a word about those that are missing."""
        chunk = [] if frames[0].seq == self.after + 1 else [_gap(self.after + 1, frames[0].seq - 1)]
        chunk += [event.text for event in frames if not self._types or event.last or event.type in self._types]
        self.after, self.ended = frames[-1].seq, frames[-1].last
        return b"".join(chunk) + self._warning(tail) or HEARTBEAT

    def unread(self, tail: Tail) -> Sequence[DraftFrame]:
        """The pieces of drafts that it has not had."""
        return tail.drafts_since(self._read) if self.drafts else ()

    def take_drafts(self, frames: Sequence[DraftFrame]) -> bytes:
        self._read = frames[-1].number
        return b"".join(frame.text for frame in frames)

    def drop(self, tail: Tail) -> bytes:
        logger.info("action=drop_reader reason=slow lag=%d", tail.lag(self.after))
        return _note("stream.dropped", lag=tail.lag(self.after), after=self.after)

    def _warning(self, tail: Tail) -> bytes:
        """Once each time the reader falls far behind."""
        lag = tail.lag(self.after)
        slow = self.live and tail.share_behind(self.after) >= _WARN
        warn, self._warned = slow and not self._warned, slow
        return _note("stream.slow", lag=lag, dropped_at=tail.size) if warn else b""


def _gap(first: int, last: int) -> bytes:
    """Events that were deleted before the reader came."""
    return _note("gap", first=first, last=last)


def _note(kind: str, **body: int) -> bytes:
    """A word about the stream itself. It has no id: a reader who comes back names the last event of the log."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | body)}\n\n".encode()
