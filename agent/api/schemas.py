"""What the API says: the shapes of its answers.

What it is told is :class:`agent.types.TaskRequest`. ``mimo run --output json`` prints a :class:`TaskView` too, made by
the same function.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agent.store.base import RunRecord, TaskRecord
from agent.types import Check, Event, Limits, ModelOptions, Status, StopReason, Usage, Verdict

LAST_EVENT = "task.finished"
"""No event of a task comes after this one."""

STREAM_NOTES = frozenset({"gap", "stream.slow", "stream.dropped"})
"""What a stream says about itself, between the events; it has no ``seq``."""


class _View(BaseModel):
    """Clients must accept members they do not know; only this side refuses them."""

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


class TaskSummary(_View):
    """A task in a list: no patch, no attempts, and the evidence without its output."""

    id: str
    status: Status
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


class TaskView(TaskSummary):
    """A task as a whole."""

    patch: str = Field(description="Unified diff against base_commit; empty until the task ended.")
    attempts: tuple[AttemptView, ...]
    checks: tuple[Check, ...]
    limits: Limits
    model: ModelOptions


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


def summarise(task: TaskRecord) -> TaskSummary:
    """A task as lists show it."""
    return TaskSummary(**_shared(task))


def show(task: TaskRecord) -> TaskView:
    """A task as ``GET /v1/tasks/{id}`` and ``mimo run --output json`` show it."""
    return TaskView(
        **_shared(task),
        patch=task.patch,
        attempts=tuple(_attempt(run, task.selected) for run in task.runs),
        checks=task.request.checks,
        limits=task.request.limits,
        model=task.request.model,
    )


def show_event(event: Event) -> EventView:
    return EventView(seq=event.seq, type=event.type, run_id=event.run_id, at=event.at, body=event.body)


def _shared(task: TaskRecord) -> dict[str, Any]:
    return {
        "id": task.id,
        "status": task.status,
        "stop_reason": task.stop_reason,
        "verdict": task.verdict,
        "steps": task.steps,
        "usage": task.usage,
        "repository": task.request.repository,
        "base_commit": task.request.base_commit,
        "problem_statement": task.request.problem_statement,
        "labels": task.request.labels,
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
