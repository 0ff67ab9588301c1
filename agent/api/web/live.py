"""The stream a task's page follows: entries as HTML, made by the same templates as the page itself.

It differs from the REST stream in two ways. Many events travel in one message, so that ten thousand of them are a few
hundred insertions. And a message of its own says that nothing more comes, because a browser cannot tell an answer
without content from a broken one.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from agent.api.context import Context
from agent.api.schemas import LAST_EVENT
from agent.api.web.entry import entries
from agent.api.web.html import Templates
from agent.api.web.state import draw_state, read_state
from agent.store.base import TaskRecord
from agent.types import Event

BATCH = 50
"""Most events of one message."""


async def messages(
    shared: Context, templates: Templates, task_id: str, after: int, run_id: str | None
) -> AsyncGenerator[bytes, None]:
    """Server-sent messages from after an event to the task's end.

    ``entries`` {last, html}, where ``last`` is the sequence number to come back with; ``state`` {facts, status} after
    all that is known; ``item.delta`` as in the REST stream; ``beat`` in silence; ``end``.
    """
    task, num_pieces, stale = await shared.tasks.get(task_id), 0, False
    async with shared.watching.tail(shared.tasks, task_id, task.last_seq, shared.store.drafts) as tail:
        while not (task.status.terminal and after >= task.last_seq):
            news = tail.since(after) != ()
            events = await shared.tasks.events(task_id, after=after, limit=BATCH) if news else ()
            task = await shared.tasks.get(task_id)
            num_events, ended = len(events), bool(events) and events[-1].type == LAST_EVENT
            if events:
                after, stale = events[-1].seq, True
                message = {"last": after, "html": draw_entries(templates, task, events, run_id)}
                del events  # The reader may take its time.
                yield _message("entries", message)
            if stale and (ended or num_events < BATCH):
                stale = False
                yield _message("state", draw_state(templates, await read_state(shared, task)))
            if ended:
                break
            if pieces := tail.drafts_since(num_pieces):
                num_pieces = pieces[-1].number
                yield b"".join(frame.text for frame in pieces if run_id in (None, frame.piece.run_id))
            elif not num_events:
                await tail.wait(shared.heartbeat_s, drafts=True)
                if tail.since(after) == () and not tail.drafts_since(num_pieces):
                    yield _message("beat", {})
    yield _message("end", {})


def draw_entries(templates: Templates, task: TaskRecord, events: Sequence[Event], run_id: str | None) -> str:
    """Events as HTML; with a run only what concerns it."""
    wanted = events if run_id is None else [event for event in events if event.run_id in (None, run_id)]
    attempts = {run.run_id: run.attempt for run in task.runs}
    return templates.part("entries.html", entries=entries(wanted, attempts), task=task)


def _message(name: str, body: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(body)}\n\n".encode()
