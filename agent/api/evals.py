"""Evaluations: tasks that are submitted together, in the background, and counted together."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.api.access import Name
from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Shared
from agent.api.once import IdempotencyKey, once
from agent.api.problems import Problem
from agent.api.repos import Origin, filled, origin, unusable
from agent.api.schemas import UsageView
from agent.api.service import usage_of_eval
from agent.api.suites import MAX_TASKS
from agent.api.tasks import check_problem
from agent.errors import RepositoryError, SettingsError
from agent.rate import Rate, rate
from agent.store.base import TaskRecord
from agent.store.evals import Evaluation, Submitted
from agent.store.idempotency import Keyed
from agent.telemetry import traceparent_of
from agent.types import ModelOptions, Status, StopReason, TaskRequest, Usage, VerdictKind

router = APIRouter(prefix="/v1", tags=["evals"])

_RESOLVED_AT_ONCE = 8
"""Repositories that are looked at at the same time."""


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewEval(_Shape):
    """Its tasks are given here, or are a suite of the service; one of the two."""

    name: Name
    tasks: tuple[TaskRequest, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_TASKS,
        description="As for POST /v1/tasks; whatever priority they name, it is background.",
    )
    suite: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = Field(
        None, description="One that GET /v1/suites names."
    )
    attempts: int | None = Field(None, ge=1, le=8, description="Of every task; null leaves each its own.")
    model: ModelOptions | None = Field(None, description="How it is asked in every task; null leaves each its own.")
    benchmark: bool | None = Field(
        None, description="Whether every task is measured, as `benchmark` of a task; null leaves each its own."
    )


class EvalReport(_Shape):
    """What the tasks came to by now, as far as they are kept."""

    resolved: Rate = Field(
        description="Of the tasks that ended, but for cancelled ones, those whose verdict is verified."
    )
    verdicts: dict[VerdictKind, int] = Field(description="Of the tasks that have one.")
    stop_reasons: dict[StopReason, int] = Field(description="Of the tasks whose agent stopped.")
    mean_steps: float = Field(description="Of the tasks that ended; 0 where none did.")
    usage: UsageView = Field(description="All attempts counted.")


class EvalTaskView(_Shape):
    """One of the tasks, as its selected attempt left it."""

    task_id: str
    labels: dict[str, str]
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    steps: int
    duration_s: float | None = Field(description="From the first claim to the end, s.")
    error: str | None


class EvalView(Evaluation):
    """An evaluation as a whole."""

    ended: bool = Field(description="Whether all of its tasks have.")
    finished_at: datetime | None = Field(description="When the last of them did; null while one has not.")
    report: EvalReport
    tasks: tuple[EvalTaskView, ...]


class EvalList(_Shape):
    """Newest first."""

    evals: tuple[Evaluation, ...]
    next_cursor: str | None = Field(description="Value of cursor for the next page; null at the end.")


class SuiteList(_Shape):
    suites: tuple[str, ...]


BODIES = (NewEval,)


@router.post(
    "/evals",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.ACCEPTED,
    response_model=EvalView,
    openapi_extra=described(NewEval),
)
async def submit_eval(request: Request, shared: Shared, idempotency_key: IdempotencyKey = None) -> Response:
    """Queue tasks in the background, all or none, and have them counted together."""
    new = await read_body(request, NewEval)

    async def do(keyed: Keyed[tuple[str, EvalView]] | None) -> tuple[str, EvalView]:
        project, subject = shared.principal.project_id, shared.principal.subject
        requests = await _tasks(shared, new)
        trace, telemetry = traceparent_of(request.headers), shared.telemetry
        with telemetry.submission(trace, "POST /v1/evals") if telemetry else nullcontext(trace) as within:
            submitted = await shared.evals.submit(
                project,
                new.name,
                requests,
                suite=new.suite,
                created_by=subject,
                trace=partial(telemetry.begin_trace, "eval", within) if telemetry and within else lambda: within,
                keyed=keyed and keyed.of(_fresh),
            )
        return submitted[1][0].id, await _view(shared, submitted[0].id)

    return await once(shared, request, idempotency_key, do, location=lambda made: f"/v1/evals/{made.id}")


@router.get("/evals", dependencies=[needs("tasks:read")])
async def list_evals(
    shared: Shared,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> EvalList:
    """Those of the project, newest first."""
    found, next_cursor = await shared.evals.all(shared.principal.project_id, cursor=cursor, limit=limit)
    return EvalList(evals=found, next_cursor=next_cursor)


@router.get("/evals/{eval_id}", dependencies=[needs("tasks:read")])
async def show_eval(eval_id: str, shared: Shared) -> EvalView:
    """An evaluation, its tasks, and what they came to."""
    return await _view(shared, eval_id)


@router.post("/evals/{eval_id}/cancel", dependencies=[needs("tasks:write")], status_code=HTTPStatus.ACCEPTED)
async def cancel_eval(eval_id: str, shared: Shared) -> EvalView:
    """Cancel the tasks that have not ended. Asking again changes nothing; where all had ended, 409."""
    before = await _view(shared, eval_id)
    if before.ended and not before.cancel_requested:
        raise Problem(
            HTTPStatus.CONFLICT,
            "eval_already_ended",
            f"All tasks of evaluation {eval_id} had ended before it could be cancelled.",
            remedy="Nothing needs to be stopped; GET /v1/evals/{id} shows what they came to.",
        )
    await shared.evals.request_cancel(shared.principal.project_id, eval_id)
    for task in before.tasks:
        if not task.status.terminal:
            await shared.tasks.cancel(task.task_id)
    return await _view(shared, eval_id)


@router.get("/suites", dependencies=[needs("tasks:read")])
async def list_suites(shared: Shared) -> SuiteList:
    """Suites that the operator of the service keeps."""
    return SuiteList(suites=await shared.suites.names())


async def _tasks(shared: Context, new: NewEval) -> Sequence[TaskRequest]:
    """Those that are to be queued.

    Raises:
        Problem: there are none, or they cannot be used.
    """
    if (new.tasks is None) == (new.suite is None):
        raise rejected("/tasks", "Either tasks or suite, not both", "Give a list of tasks, or name a suite.")
    if new.suite is not None:
        return await _suite(shared, new.suite, new)
    tasks = [_overridden(task, new) for task in new.tasks or ()]
    for number, task in enumerate(tasks):
        check_problem(task, f"/tasks/{number}")
    return await _started(shared, tasks, "/tasks", any_path=shared.principal.may("service:admin"))


async def _suite(shared: Context, name: str, new: NewEval) -> Sequence[TaskRequest]:
    try:
        tasks = await shared.suites.read(name)
    except SettingsError as error:
        raise rejected("/suite", str(error), "Ask the operator to mend the suite.") from error
    if tasks is None:
        raise rejected("/suite", f"There is no suite {name[:100]!r}", "GET /v1/suites names those there are.")
    return await _started(shared, [_overridden(task, new) for task in tasks], "/suite", any_path=True)


async def _started(shared: Context, tasks: Sequence[TaskRequest], at: str, *, any_path: bool) -> Sequence[TaskRequest]:
    """The tasks with the commits they start from; what several name is looked at once.

    Raises:
        Problem: a repository or commit cannot be used.
    """
    free = asyncio.Semaphore(_RESOLVED_AT_ONCE)
    project = shared.principal.project_id

    async def find(task: TaskRequest) -> Origin | RepositoryError:
        async with free:
            try:
                return await origin(shared, project, task, any_path=any_path)
            except RepositoryError as error:
                return error

    first = {(task.repository, task.base_commit): task for task in reversed(tasks)}
    found = dict(zip(first, await asyncio.gather(*map(find, first.values())), strict=True))
    started: list[TaskRequest] = []
    for number, task in enumerate(tasks):
        start = found[task.repository, task.base_commit]
        if isinstance(start, RepositoryError):
            raise unusable(start, f"{at}/{number}") from start
        started.append(filled(task, start))
    return started


def _overridden(task: TaskRequest, new: NewEval) -> TaskRequest:
    given = {"attempts": new.attempts, "model": new.model, "benchmark": new.benchmark}
    return task.model_copy(update={name: value for name, value in given.items() if value is not None})


async def _view(shared: Context, eval_id: str) -> EvalView:
    """
    Raises:
        Problem: 404.
    """
    project = shared.principal.project_id
    found = await shared.evals.get(project, eval_id)
    if found is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_eval",
            f"The project has no evaluation {eval_id[:64]}.",
            remedy="GET /v1/evals lists its evaluations.",
        )
    return _shown(found, await usage_of_eval(shared, eval_id))


def _fresh(submitted: Submitted) -> tuple[str, EvalView]:
    """The id of its first task, and an evaluation of which nothing has begun."""
    _, records = submitted
    num_runs = sum(len(record.runs) for record in records)
    unused = UsageView(group={}, num_tasks=len(records), num_runs=num_runs, num_steps=0, usage=Usage(), cost=None)
    return records[0].id, _shown(submitted, unused)


def _shown(found: Submitted, usage: UsageView) -> EvalView:
    evaluation, records = found
    ended = all(record.status.terminal for record in records)
    finished = [record.finished_at for record in records if record.finished_at is not None]
    return EvalView(
        **evaluation.model_dump(),
        ended=ended,
        finished_at=max(finished, default=None) if ended else None,
        report=_report(records, usage),
        tasks=tuple(map(_task, records)),
    )


def _report(records: Sequence[TaskRecord], usage: UsageView) -> EvalReport:
    ended = [record for record in records if record.status.terminal]
    verdicts = [record.verdict.kind for record in ended if record.verdict]
    stops = [record.stop_reason for record in ended if record.stop_reason]
    return EvalReport(
        resolved=rate(
            record.verdict is not None and record.verdict.kind is VerdictKind.VERIFIED
            for record in ended
            if record.status is not Status.CANCELLED
        ),
        verdicts=Counter(verdicts),
        stop_reasons=Counter(stops),
        mean_steps=round(sum(record.steps for record in ended) / len(ended), 2) if ended else 0.0,
        usage=usage,
    )


def _task(record: TaskRecord) -> EvalTaskView:
    return EvalTaskView(
        task_id=record.id,
        labels=record.labels,
        status=record.status,
        stop_reason=record.stop_reason,
        verdict=record.verdict.kind if record.verdict else None,
        steps=record.steps,
        duration_s=record.duration_s,
        error=record.error,
    )
