"""Follows a task until it is over or needs its user, and says where it goes on then."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from agent.api.context import Context
from agent.api.tasks import limits_of
from agent.budget import counted_tokens
from agent.store.base import TaskRecord
from agent.store.drafts import DraftPiece
from agent.types import Event, Limits, Status, StopReason, WaitingOn

_FOR_THE_USER = frozenset({WaitingOn.APPROVAL, WaitingOn.QUESTION, WaitingOn.BUDGET})
_MOST_STEPS = 1000
_BATCH = 50
"""Events that are held for a reader who takes its time."""


async def follow(shared: Context, task_id: str, after: int) -> AsyncGenerator[Event | DraftPiece | None, None]:
    """What comes after an event, with drafts of it; None after a while in which nothing came."""
    num_drafts = 0
    head = (await shared.tasks.get(task_id)).last_seq
    async with shared.watching.tail(shared.tasks, task_id, head, shared.store.drafts) as tail:
        while True:
            task = await shared.tasks.get(task_id)
            events = await shared.tasks.events(task_id, after=after, limit=_BATCH) if task.last_seq > after else ()
            for event in events:
                after = event.seq
                yield event
            if rests(task) and after >= task.last_seq:
                return
            for draft in tail.drafts_since(num_drafts):
                num_drafts = draft.number
                yield draft.piece
            if tail.since(after) == () and not tail.drafts_since(num_drafts):
                await tail.wait(shared.heartbeat_s, drafts=True)
                if tail.since(after) == () and not tail.drafts_since(num_drafts):
                    yield None


def rests(task: TaskRecord) -> bool:
    """Nothing more comes before somebody says something."""
    return task.status.terminal or task.status is Status.PAUSED or task.waiting_on in _FOR_THE_USER


@dataclass(frozen=True, slots=True)
class Sequel:
    """Where a task that is over goes on, in a new one."""

    at_event: int
    limits: Limits


async def sequel(shared: Context, task: TaskRecord) -> Sequel:
    """With all of the task's files and conversation."""
    ends = await shared.tasks.events(task.id, types={"run.finished"})
    end = next(event.seq for event in ends if event.run_id == task.shown.run_id)
    return Sequel(end, _renewed(await limits_of(shared, task), task))


def _renewed(limits: Limits, task: TaskRecord) -> Limits:
    """Whoever may submit another task may as well have the steps and tokens of one for this."""
    new = Limits()
    errors = new.max_error_steps if task.stop_reason is StopReason.ERROR_LIMIT else 0
    steps, tokens = task.steps + new.max_steps, counted_tokens(task.usage) + new.max_tokens
    return limits.model_copy(
        update={
            "max_steps": min(max(limits.max_steps, steps), _MOST_STEPS),
            "max_tokens": max(limits.max_tokens, tokens),
            "max_error_steps": min(limits.max_error_steps + errors, _MOST_STEPS),
        }
    )
