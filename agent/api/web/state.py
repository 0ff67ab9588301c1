"""Where a task stands now, and what it waits for: the part of its page that is drawn anew while it runs."""

from dataclasses import dataclass

from agent.api.context import Context
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


async def read_state(shared: Context, task: TaskRecord) -> State:
    inbox = Inbox(await shared.store.user_events(task.id))
    limits = inbox.raised(task.request.limits)
    cost = shared.prices.cost(task.usage) if shared.prices else None
    if task.status is Status.QUEUED:
        return State(task, limits, cost, queue=await shared.tasks.queue_position(task.id))
    if task.status is not Status.WAITING:
        return State(task, limits, cost)
    newest = await shared.tasks.events(task.id, after=max(0, task.last_seq - _LOOK_BACK), limit=_LOOK_BACK)
    return State(
        task,
        limits,
        cost,
        permissions=_undecided(newest, inbox),
        question=_newest_question(newest) if task.waiting_on is WaitingOn.QUESTION else None,
        limit=_reached_limit(newest) if task.waiting_on is WaitingOn.BUDGET else None,
    )


def draw_state(templates: Templates, state: State) -> dict[str, str]:
    """The parts of the page, by the id of their place."""
    return {name: templates.part(f"{name}.html", state=state, task=state.task) for name in ("facts", "status")}


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
