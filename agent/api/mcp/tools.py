"""What other agents can do with tasks."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, cast

import anyio
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.api.schemas import LAST_EVENT, MessageText
from agent.client import operations
from agent.client.operations import EventView, Operations, Send
from agent.tools.finish import summary_of
from agent.types import Status, StopReason, TaskRequest, ToolCall, WaitingOn

INSTRUCTIONS = (
    "A coding agent works on each task in a sandbox, for minutes. submit_task answers at once with an id. Ask "
    "task_status with wait_s until the status is succeeded, failed, cancelled or expired; then task_patch gives the "
    "change as a diff against the base commit. The verdict says what the checks proved, whatever the status is. A task "
    "that waits on a question goes on once message_task has answered it."
)

MAX_WAIT_S = 50
"""Clients give a call up after a minute."""

_Given = TypeVar("_Given", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Tool(Generic[_Given]):
    name: str
    description: str
    arguments: type[_Given]
    run: Callable[["Api", _Given], Awaitable[Mapping[str, Any] | str]]
    """Returns an object, or a text for the reader alone."""
    reads_only: bool = False


class Api(Operations):
    """The REST API, as the caller has it."""

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self._sending = send

    async def wait_for_end(self, task_id: str, timeout_s: float) -> None:
        """Return when the task is over, at the latest after ``timeout_s``."""
        stream = self._sending("GET", f"/v1/tasks/{task_id}/events", {"types": LAST_EVENT}, _STREAM, None)
        with suppress(TimeoutError):
            with anyio.fail_after(timeout_s):
                await stream

    async def events(self, task_id: str, kind: str) -> AsyncIterator[EventView]:
        """Those of the log that are of this kind."""
        after = 0
        while events := (page := await self.read_events(task_id, after=after, limit=1000, types=kind))["events"]:
            for event in events:
                yield event
            after = page["next_after"]


_STREAM = {"Accept": "text/event-stream"}

_TaskId = Annotated[str, StringConstraints(pattern=r"^task_[0-9a-f]+$", max_length=64)]
_Key = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$")]
_KEY = Field(None, description="Any text, new for every call that is meant: a call sent again with it is done once.")


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SubmitTask(TaskRequest):
    repository: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="Name of a repository of the project, or the absolute path of one on the service's machine."
    )
    problem_statement: Annotated[str, StringConstraints(min_length=1, max_length=100_000)] = Field(
        description="What is wrong or wanted."
    )
    idempotency_key: _Key | None = _KEY


class TaskStatus(_Arguments):
    task_id: _TaskId
    wait_s: float = Field(0, ge=0, le=MAX_WAIT_S, description="Wait so long for its end before answering, s.")


class MessageTask(MessageText):
    task_id: _TaskId
    idempotency_key: _Key | None = _KEY


class OneTask(_Arguments):
    task_id: _TaskId


class ListTasks(_Arguments):
    status: Status | None = None
    repository: Annotated[str, StringConstraints(max_length=4096)] | None = None
    q: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="Stands in the title or the problem."
    )
    cursor: str | None = Field(None, description="next_cursor of the page before.")
    limit: int = Field(20, ge=1, le=100)


_SUMMARY = ("id", "title", "repository", "status", "waiting_on", "stop_reason", "steps", "error", "created_at")
_STATUS = (*_SUMMARY, "base_commit", "verdict", "usage", "queue", "finished_at", "cancel_requested")


async def _submit(api: Api, given: SubmitTask) -> Mapping[str, Any]:
    body = given.model_dump(mode="json", exclude={"idempotency_key"}, exclude_unset=True)
    task = await api.submit(cast(operations.NewTask, body), idempotency_key=given.idempotency_key)
    return _part(task, _STATUS)


async def _status(api: Api, given: TaskStatus) -> Mapping[str, Any]:
    """With what the agent asks, and what it said at its end."""
    if given.wait_s:
        await api.wait_for_end(given.task_id, given.wait_s)
    task = await api.show_task(given.task_id)
    said: dict[str, Any] = {}
    if task["waiting_on"] == WaitingOn.QUESTION.value:
        async for event in api.events(given.task_id, "question.asked"):
            said["question"] = {name: event["body"][name] for name in ("text", "options")}
    elif task["stop_reason"] == StopReason.FINISHED.value:
        selected = [attempt["run_id"] for attempt in task["attempts"] if attempt["selected"]]
        async for event in api.events(given.task_id, "tool.intent"):
            call = ToolCall.model_validate(event["body"]["call"])
            if call.name == "finish" and event["run_id"] in selected:
                said["answer"] = summary_of(call)
    return {**_part(task, _STATUS), **said}


async def _message(api: Api, given: MessageTask) -> Mapping[str, Any]:
    body = given.model_dump(mode="json", include=set(MessageText.model_fields), exclude_unset=True)
    key = given.idempotency_key
    return {**await api.say(given.task_id, cast(operations.MessageText, body), idempotency_key=key)}


async def _patch(api: Api, given: OneTask) -> str:
    return (await api.show_diff(given.task_id))["patch"] or "The task changed nothing."


async def _cancel(api: Api, given: OneTask) -> Mapping[str, Any]:
    return _part(await api.cancel(given.task_id), _STATUS)


async def _list(api: Api, given: ListTasks) -> Mapping[str, Any]:
    page = await api.list_tasks(
        status=given.status.value if given.status else None,
        repository=given.repository,
        q=given.q,
        cursor=given.cursor,
        limit=given.limit,
    )
    return {"tasks": [_part(task, _SUMMARY) for task in page["tasks"]], "next_cursor": page["next_cursor"]}


def _part(task: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What is worth its place in a model's context."""
    return {name: task[name] for name in names if task[name] is not None}


TOOLS: tuple[Tool[Any], ...] = (
    Tool("submit_task", "Have a coding agent work on a repository; answers at once.", SubmitTask, _submit),
    Tool(
        "task_status",
        "How far a task is, what its agent asks or said at its end, and what the checks proved.",
        TaskStatus,
        _status,
        reads_only=True,
    ),
    Tool("message_task", "Say something to the agent of a task, or answer its question.", MessageTask, _message),
    Tool("task_patch", "What an ended task changed, as a unified diff.", OneTask, _patch, reads_only=True),
    Tool("cancel_task", "End a task. What it changed so far stays readable.", OneTask, _cancel),
    Tool("list_tasks", "The project's tasks, newest first.", ListTasks, _list, reads_only=True),
)


def arguments_of(tool: Tool[_Given], given: Mapping[str, Any] | None) -> _Given:
    """
    Raises:
        ValidationError: they are not what the tool takes.
    """
    return tool.arguments.model_validate_json(json.dumps(given or {}), strict=True)
