"""Sends tasks through the production path - the REST API of a service - and grades what comes back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.api.schemas import TaskView
from agent.cli.client import Client
from agent.types import ModelOptions, TaskRequest
from evals.grading import grade
from evals.report import TaskResult
from evals.repository import write_repository
from evals.types import EvalTask, Grade
from sandbox.types import Backend

_MAX_ANSWER_TOKENS = 1024
"""An answer of a repair is about a hundred tokens long; a model that rambles is cut before it fills its context."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every task is tried."""

    attempts: int = 1
    """Independent runs of a task; the service selects one by the visible tests."""
    temperature: float = 0.0
    seed: int | None = None

    def options(self, model: str | None) -> ModelOptions:
        return ModelOptions(name=model, temperature=self.temperature, seed=self.seed, max_tokens=_MAX_ANSWER_TOKENS)


async def run_tasks(
    tasks: Sequence[EvalTask],
    client: Client,
    backend: Backend,
    folder: Path,
    *,
    sampling: Sampling,
    model: str | None = None,
    concurrency: int = 4,
    on_result: Callable[[TaskResult], None] = lambda result: None,
) -> list[TaskResult]:
    """Results in the order of ``tasks``.

    Args:
        folder: for the repositories; the service must see it at the same path.
        model: served name to ask for; None takes the service's default.
        concurrency: tasks in the service at once.

    Raises:
        ServiceProblem, ServiceUnreachable: the service refused a task or went away.
        SandboxError: no sandbox for grading.
    """
    free = asyncio.Semaphore(concurrency)

    async def work(task: EvalTask) -> TaskResult:
        async with free:
            root = folder / task.id
            await write_repository(task, root)
            shown = await submit_and_wait(client, request_of(task, root, sampling, model))
            result = result_of(task, shown, await grade(backend, task, shown.patch))
            on_result(result)
            return result

    running = [asyncio.ensure_future(work(task)) for task in tasks]
    try:
        return await asyncio.gather(*running)
    finally:
        for unfinished in running:
            unfinished.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def request_of(task: EvalTask, root: Path, sampling: Sampling, model: str | None) -> TaskRequest:
    """What the service is told: the visible part of the task, and nothing of its answers."""
    return TaskRequest(
        repository=str(root),
        problem_statement=task.problem_statement,
        checks=task.checks,
        limits=task.limits,
        model=sampling.options(model),
        attempts=sampling.attempts,
        benchmark=True,
    )


async def submit_and_wait(client: Client, request: TaskRequest) -> TaskView:
    task = await client.submit(request)
    async for _ in client.watch(task.id):
        pass
    return await client.show(task.id)


def result_of(task: EvalTask, shown: TaskView, graded: Grade) -> TaskResult:
    return TaskResult(
        id=task.id,
        split=task.split,
        kind=task.kind,
        resolved=graded.resolved,
        failing=graded.failing,
        detail=graded.detail,
        task_id=shown.id,
        status=shown.status,
        stop_reason=shown.stop_reason,
        verdict=shown.verdict.kind if shown.verdict else None,
        steps=shown.steps,
        usage=shown.usage,
        duration_s=shown.duration_s,
        error=shown.error,
        mining=shown.mining,
    )
