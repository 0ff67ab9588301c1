"""What the API says: the shapes of its answers.

What it is told is :class:`agent.types.TaskRequest`. ``mimo run --output json`` prints a :class:`TaskView` too, made by
the same function.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.config import Prices
from agent.events import ApprovalDecided, ApprovalRequested, BudgetGranted, MediaType, Restore, TaskUpdated
from agent.mining import Mining
from agent.store.accounts import Group
from agent.store.artifacts import Artifact
from agent.store.base import RunRecord, TaskRecord
from agent.store.drafts import DraftPiece
from agent.types import (
    Check,
    Event,
    Limits,
    ModelOptions,
    Priority,
    Status,
    StopReason,
    TaskRequest,
    Usage,
    Verdict,
    WaitingOn,
)

LAST_EVENT = "task.finished"
"""No event of a task comes after this one."""

STREAM_NOTES = frozenset({"gap", "stream.slow", "stream.dropped"})
"""What a stream says about itself, between the events; it has no ``seq``."""

DRAFT: Literal["item.delta"] = "item.delta"
"""Between the events of a stream, where it was asked for: a piece of what the model is writing, without ``seq``."""

Delivery = Literal["steer", "queue", "interrupt"]
"""Before the next model call; once the agent has finished; or at once, for which a model call is given up."""

MessageState = Literal["queued", "taken", "removed"]
"""``queued``: the agent has not read it; ``taken``: it has; ``removed``: the user took it back before."""

Kept = Literal["all", "tracked", "base"]
"""Which files go back to how they were after a step: ``all`` of the work tree, where the worker that goes on still has
them, else as ``tracked``; those that a patch would hold; or, where no call was made yet, those of the ``base``."""


class _View(BaseModel):
    """Clients must accept members they do not know; only this side refuses them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Told(BaseModel):
    """What a caller sends: read strictly, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AttemptView(_View):
    """One run of a task."""

    run_id: str
    attempt: int = Field(description="From 1.")
    status: Status
    stop_reason: StopReason | None
    verdict: Verdict | None
    steps: int
    usage: Usage
    selected: bool = Field(description="Whether the task's patch and verdict are this run's.")
    error: str | None


class RunView(AttemptView):
    """An attempt by itself."""

    waiting_on: WaitingOn | None
    started_at: datetime | None
    finished_at: datetime | None


class TaskSummary(_View):
    """A task in a list: no patch, no attempts, and the evidence without its output."""

    id: str
    project: str
    created_by: str = Field(description="Subject of the caller that submitted it.")
    title: str | None
    priority: Priority
    status: Status
    waiting_on: WaitingOn | None = Field(description="What it waits for while its status is waiting.")
    stop_reason: StopReason | None = Field(description="Why the agent stopped; null while it works.")
    verdict: Verdict | None = Field(description="What the checks proved about the patch; null until they ran.")
    steps: int = Field(description="Model calls of the selected attempt, or of the one that is furthest.")
    usage: Usage = Field(description="Tokens of the same attempt.")
    repository: str
    base_commit: str
    problem_statement: str
    labels: dict[str, str]
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: float | None = Field(description="From the first claim to the end, s.")
    error: str | None = Field(description="What went wrong and what to do, where something did.")
    cancel_requested: bool


class QueuePlace(_View):
    """Where a task stands, and why it is not served yet."""

    position: int | None = Field(description="From 1; null where none of its runs is queued.")
    reason: str


class UsageView(_View):
    """What some tasks used, all attempts counted."""

    group: dict[Group, str | None] = Field(description="What they have in common; empty for one sum of all.")
    num_tasks: int
    num_runs: int
    num_steps: int
    usage: Usage
    cost: float | None = Field(description="By the service's prices; null where it has none.")


class TaskView(TaskSummary):
    """A task as a whole."""

    patch: str = Field(description="Unified diff against base_commit; empty until the task ended.")
    attempts: tuple[AttemptView, ...]
    checks: tuple[Check, ...]
    limits: Limits = Field(description="With what was granted since it was submitted.")
    model: ModelOptions
    profile: str
    queue: QueuePlace | None = Field(description="Null unless it is queued.")
    artifacts: tuple[Artifact, ...] | None = Field(None, description="With expand=artifacts.")
    runs: tuple[RunView, ...] | None = Field(None, description="With expand=runs.")
    total: UsageView | None = Field(None, description="Of all attempts, with expand=usage.")
    mining: Mining | None = Field(
        None, description="With expand=mining, what the selected attempt of a benchmark's task looked at; else null."
    )


class TaskList(_View):
    """Tasks, newest first."""

    tasks: tuple[TaskSummary, ...]
    next_cursor: str | None = Field(description="Value of cursor for the next page; null at the end.")


class EventView(_View):
    """One entry of a task's log."""

    seq: int = Field(description="Position in the task's log, from 1, without holes; the id of a server-sent event.")
    type: str
    run_id: str | None
    at: datetime
    body: dict[str, Any]


class DraftView(DraftPiece):
    """A piece of an answer that is being written; the event ``step.message`` has all of it."""

    type: Literal["item.delta"] = DRAFT


class EventPage(_View):
    events: tuple[EventView, ...]
    next_after: int = Field(description="Value of after for the next page.")
    ended: bool = Field(description="Whether the log is complete: no event comes after next_after.")


class FileChange(_View):
    """One file of a patch."""

    path: str
    added: int = Field(description="Lines added.")
    removed: int = Field(description="Lines removed.")
    binary: bool = False


class DiffView(_View):
    patch: str
    files: tuple[FileChange, ...]


class ArtifactList(_View):
    artifacts: tuple[Artifact, ...]


class UsageList(_View):
    project: str = Field(description="The caller's; its usage, unless that of every project was asked for.")
    usage: tuple[UsageView, ...]


class QueueView(_View):
    """Tasks of the project that are not over."""

    num_queued: int
    num_working: int
    num_waiting: int = Field(description="For a user, a budget or a quota.")
    num_paused: int
    oldest_queued_s: float = Field(
        description="How long the oldest queued one that is not in the background has waited, s; 0: none."
    )


class LimitsView(_View):
    requests_per_minute: int | None = Field(description="Of one caller, at one process; null is no limit.")
    streams_per_caller: int = Field(
        description="Most event streams, editors and answers to chat programs of one caller at once, at one process."
    )
    streams_per_project: int = Field(description="The same of the project.")
    max_body_bytes: int
    max_running: int | None = Field(description="Most runs of the project at once; null is no limit.")
    max_running_per_user: int | None
    daily_tokens: int | None = Field(description="Of the runs that worked today (UTC); null is no limit.")
    daily_tokens_per_user: int | None
    daily_cost: float | None = Field(description="The same in money.")
    daily_cost_per_user: float | None
    monthly_cost: float | None = Field(description="Of the runs that worked this month (UTC).")
    monthly_cost_per_user: float | None
    weight: float = Field(description="The project's share of worker time where others wait too.")
    retention_days: int | None = Field(description="Tasks are deleted so long after their end; null keeps them.")
    task_defaults: Limits


class ModelView(_View):
    name: str
    default: bool = Field(description="Whether tasks get it that name none.")
    prices: Prices | None = Field(description="Of a million tokens; null where nothing has a price.")


class ChatModel(_View):
    """A model, as OpenAI's API lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="Not known: 0.")
    owned_by: Literal["mimo-coder"] = "mimo-coder"


class ModelList(_View):
    models: tuple[ModelView, ...]
    object: Literal["list"] = "list"
    data: tuple[ChatModel, ...] = Field(description="Profiles and repositories, as chat programs name them.")


class RunList(_View):
    runs: tuple[RunView, ...]


class TaskChange(TaskUpdated):
    """What can be changed of a task after it was submitted. Null, or left out: it stays."""

    limits: BudgetGranted | None = Field(None, description="Higher limits; a wait for budget then ends.")


MAX_IMAGES = 4
"""Of a message."""

MAX_IMAGE_CHARS = 2_000_000
"""Of one, in base 64."""


class Image(_Told):
    """A picture in a message."""

    media_type: MediaType
    data: Annotated[str, StringConstraints(min_length=1, max_length=MAX_IMAGE_CHARS)] = Field(description="In base 64.")


Images = Annotated[
    tuple[Image, ...],
    Field(
        max_length=MAX_IMAGES, description="Refused (`images_not_taken`) where the service's model takes text alone."
    ),
]


class NewTask(TaskRequest):
    """A task to queue, with what its problem looks like."""

    images: Images = ()


class MessageText(_Told):
    """A message to a task."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    images: Images = ()
    delivery: Delivery = "steer"
    expected_run_id: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Refuse the message where another attempt is shown by now."
    )


class ForkPoint(_Told):
    """Where another task goes on."""

    at_event: int = Field(
        ge=1, le=2**31 - 1, description="seq of an event; the fork begins after the last step complete by then."
    )
    message: Annotated[str, StringConstraints(min_length=1, max_length=100_000)] | None = Field(
        None, description="The agent reads it before it goes on, also where it had finished."
    )
    images: Images = Field((), description="Of the message.")
    limits: Limits | None = Field(None, description="Of the new task; null: those that this one has by then.")


class RewindPoint(_Told):
    """What to take back."""

    to_step: int = Field(ge=0, le=10_000, description="The last step that stands; 0 for none.")
    restore: Restore = Field("both", description="What goes back to how it was after that step.")
    run_id: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Which attempt, where several have not ended."
    )


class Checkpoint(_View):
    """A complete step."""

    run_id: str
    step: int = Field(description="What rewind takes as to_step.")
    seq: int = Field(description="Of the event that completed it; what fork takes as at_event.")
    at: datetime
    did: str = Field(description="Its calls in a line; what the agent said, where it made none.")
    files: Kept


class CheckpointList(_View):
    checkpoints: tuple[Checkpoint, ...]


class MessageView(_View):
    """A message, and whether the agent has read it."""

    id: str
    text: str
    images: tuple[str, ...] = Field((), description="Names of the artifacts that keep them.")
    delivery: Delivery
    state: MessageState
    seq: int = Field(description="Of its event message.added.")
    at: datetime


class MessageList(_View):
    messages: tuple[MessageView, ...]


class Decision(_Told):
    """A user's word on a call."""

    decision: Literal["allow", "deny"]
    scope: Literal["once", "task"] = Field(
        "once", description="task: what was asked for is allowed for the rest of the task."
    )
    reason: Annotated[str, StringConstraints(max_length=2000)] = Field(
        "", description="The model reads it where the call is denied."
    )
    edited_args: Annotated[str, StringConstraints(max_length=100_000)] | None = Field(
        None,
        description="Allow the call with these arguments instead, in JSON as those of the approval are; once. The model"
        " is told.",
    )


class ApprovalView(_View):
    """A call that a run wants to make."""

    id: str
    task_id: str
    run_id: str
    step: int
    tool: str
    arguments: str = Field(description="As the model wrote them.")
    parts: tuple[str, ...] = Field(description="What of the call needs the user's word.")
    requested_at: datetime
    decision: Literal["allow", "deny"] | None = Field(description="Null while it waits.")
    scope: Literal["once", "task"] | None
    reason: str | None
    edited_args: str | None = Field(description="With what it was allowed instead of arguments.")


class ApprovalList(_View):
    approvals: tuple[ApprovalView, ...]


def summarise(task: TaskRecord) -> TaskSummary:
    """A task as lists show it."""
    return TaskSummary(**_shared(task))


def show(task: TaskRecord, limits: Limits | None = None, queue: QueuePlace | None = None) -> TaskView:
    """A task as ``GET /v1/tasks/{id}`` and ``mimo run --output json`` show it.

    Args:
        limits: those it has now; None for those of the request.
        queue: where it stands; None where it does not wait, or nobody asked.
    """
    return TaskView(
        **_shared(task),
        patch=task.patch,
        attempts=tuple(_attempt(run, task.selected) for run in task.runs),
        checks=task.request.checks,
        limits=limits or task.request.limits,
        model=task.request.model,
        profile=task.request.profile,
        queue=queue,
    )


def show_run(run: RunRecord, task: TaskRecord) -> RunView:
    attempt = _attempt(run, task.selected).model_dump()
    return RunView(**attempt, waiting_on=run.waiting_on, started_at=run.started_at, finished_at=run.finished_at)


def show_approval(event: Event, decided: Mapping[str, ApprovalDecided]) -> ApprovalView:
    """
    Args:
        event: an ``approval.requested``.
        decided: the task's decisions, by the run's own id of the request.
    """
    request = ApprovalRequested.model_validate(event.body)
    decision = decided.get(request.approval_id)
    assert event.run_id is not None, event
    return ApprovalView(
        id=f"{event.task_id}.{request.approval_id}",
        task_id=event.task_id,
        run_id=event.run_id,
        step=request.step,
        tool=request.call.name,
        arguments=request.call.arguments,
        parts=request.parts,
        requested_at=event.at,
        decision=decision.decision if decision else None,
        scope=decision.scope if decision else None,
        reason=decision.reason if decision else None,
        edited_args=decision.edited_args if decision else None,
    )


def show_event(event: Event) -> EventView:
    return EventView(seq=event.seq, type=event.type, run_id=event.run_id, at=event.at, body=event.body)


def _shared(task: TaskRecord) -> dict[str, Any]:
    return {
        "id": task.id,
        "project": task.project_id,
        "created_by": task.created_by,
        "title": task.title,
        "priority": task.priority,
        "status": task.status,
        "waiting_on": task.waiting_on,
        "stop_reason": task.stop_reason,
        "verdict": task.verdict,
        "steps": task.steps,
        "usage": task.usage,
        "repository": task.request.repository,
        "base_commit": task.request.base_commit,
        "problem_statement": task.request.problem_statement,
        "labels": task.labels,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "duration_s": task.duration_s,
        "error": task.error,
        "cancel_requested": task.cancel_requested,
    }


def _attempt(run: RunRecord, selected: RunRecord | None) -> AttemptView:
    return AttemptView(
        run_id=run.run_id,
        attempt=run.attempt,
        status=run.status,
        stop_reason=run.stop_reason,
        verdict=run.verdict,
        steps=run.steps,
        usage=run.usage,
        selected=selected is not None and selected.run_id == run.run_id,
        error=run.error,
    )
