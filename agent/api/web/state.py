"""Where a task stands now, and what it waits for: the part of its page that is drawn anew while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.api.context import Context
from agent.api.messages import messages_of
from agent.api.schemas import MessageView
from agent.api.web.entry import Permission, permission
from agent.api.web.html import Templates
from agent.events import ApprovalRequested, QuestionAsked
from agent.inbox import Inbox
from agent.store.base import QueuePosition, TaskRecord
from agent.types import Event, Limits, Status, WaitingOn

_LOOK_BACK = 1000
"""A task that waits said why in its newest events; so many are searched for it."""


@dataclass(frozen=True, slots=True)
class ReachedLimit:
    """A limit that somebody may raise."""

    stop_reason: str
    """With which the run would end."""
    detail: str


@dataclass(frozen=True, slots=True)
class State:
    task: TaskRecord
    limits: Limits
    """As they are now, with what was granted since the task was submitted."""
    cost: float | None
    """Of the attempt whose usage the task shows; None where the service knows no prices."""
    queue: QueuePosition | None = None
    """None unless the task is queued."""
    permissions: tuple[Permission, ...] = ()
    """Calls that nobody decided about yet, oldest first."""
    question: QuestionAsked | None = None
    limit: ReachedLimit | None = None
    unread: tuple[MessageView, ...] = ()
    """What was said to the agent and can still be taken back."""


async def read_state(shared: Context, task: TaskRecord) -> State:
    words = await shared.store.user_events(task.id)
    inbox = Inbox(words)
    limits = inbox.raised(task.request.limits)
    cost = shared.prices.cost(task.usage) if shared.prices else None
    state = await _standing(shared, task, inbox, State(task, limits, cost))
    return replace(state, unread=await _unread(shared, task, words))


async def _standing(shared: Context, task: TaskRecord, inbox: Inbox, state: State) -> State:
    """The state with what the task waits for."""
    if task.status is Status.QUEUED:
        return replace(state, queue=await shared.tasks.queue_position(task.id))
    if task.status is not Status.WAITING:
        return state
    newest = await shared.tasks.events(task.id, after=max(0, task.last_seq - _LOOK_BACK), limit=_LOOK_BACK)
    return replace(
        state,
        permissions=_undecided(newest, inbox),
        question=_newest_question(newest) if task.waiting_on is WaitingOn.QUESTION else None,
        limit=_reached_limit(newest) if task.waiting_on is WaitingOn.BUDGET else None,
    )


def draw_state(templates: Templates, state: State) -> dict[str, str]:
    """The parts of the page, by the id of their place."""
    return {name: templates.part(f"{name}.html", state=state, task=state.task) for name in ("facts", "status")}


async def _unread(shared: Context, task: TaskRecord, words: Sequence[Event]) -> tuple[MessageView, ...]:
    if task.status.terminal or all(word.type != "message.added" for word in words):
        return ()
    return tuple(said for said in (await messages_of(shared, task.id)).values() if said.state == "queued")


def _undecided(events: tuple[Event, ...], inbox: Inbox) -> tuple[Permission, ...]:
    asked = [ApprovalRequested.model_validate(event.body) for event in events if event.type == "approval.requested"]
    decided = inbox.decisions()
    return tuple(permission(request) for request in asked if request.approval_id not in decided)


def _newest_question(events: tuple[Event, ...]) -> QuestionAsked | None:
    asked = (QuestionAsked.model_validate(event.body) for event in reversed(events) if event.type == "question.asked")
    return next(asked, None)


def _reached_limit(events: tuple[Event, ...]) -> ReachedLimit | None:
    parked = (event.body for event in reversed(events) if event.type == "run.parked")
    limits = (body for body in parked if body["waiting_on"] == WaitingOn.BUDGET)
    return next((ReachedLimit(str(body.get("stop_reason")), str(body.get("detail", ""))) for body in limits), None)
