"""A suite as a service keeps it: repositories in a folder, and a file that says its tasks.

The file is what ``agent.api.suites`` reads. Hidden tests and solutions stay here: what the service says of such an
evaluation are verdicts of the visible tests, and :func:`report` grades its patches by the hidden ones.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.api.evals import EvalTaskView, EvalView
from agent.api.suites import SuiteFile
from agent.cli.client import Client
from agent.cli.failure import ExitCode, Failure
from agent.types import TaskRequest
from evals.grading import grade
from evals.report import Report, TaskResult, summarise
from evals.repository import write_repository
from evals.runner import Sampling, request_of, result_of
from evals.types import EvalTask
from sandbox.types import Backend

LABEL = "eval_task"
"""Of a prepared task: which one of the suite it is."""


async def prepare(suite: str, tasks: Sequence[EvalTask], folder: Path, sampling: Sampling) -> Path:
    """Write repositories and file; returns the file.

    Args:
        folder: absolute; the service's workers must see it at the same path.

    Raises:
        Failure: the folder has the suite already.
        GitError: git is not installed, or the disk is full.
    """
    repositories = folder / "repositories" / suite
    if repositories.exists():
        raise Failure(ExitCode.USAGE, f"{repositories} exists", "choose another folder, or remove that one")
    requests = [await _prepared(task, repositories / task.id, sampling) for task in tasks]
    file = folder / f"{suite}.json"
    file.write_text(SuiteFile(tasks=tuple(requests)).model_dump_json(indent=1), "utf-8")
    return file


async def report(
    client: Client, evaluation: EvalView, tasks: Mapping[str, EvalTask], backend: Backend, *, concurrency: int = 4
) -> Report:
    """What an ended evaluation of a prepared suite came to, by the hidden tests.

    Args:
        tasks: of the suite, by id.

    Raises:
        Failure: it has not ended, or its tasks are none of the suite.
        ServiceProblem, ServiceUnreachable: the service refused or went away.
        SandboxError: no sandbox for grading.
    """
    if not evaluation.ended:
        num_left = sum(not task.status.terminal for task in evaluation.tasks)
        raise Failure(ExitCode.RETRYABLE, f"{num_left} tasks of it have not ended", f"mimo eval show {evaluation.id}")
    free = asyncio.Semaphore(concurrency)

    async def graded(task: EvalTaskView) -> TaskResult:
        exercise = tasks.get(task.labels.get(LABEL, ""))
        if exercise is None:
            raise Failure(ExitCode.USAGE, f"task {task.task_id} is none of the suite", "name its suite with --suite")
        async with free:
            shown = await client.show(task.task_id)
            return result_of(exercise, shown, await grade(backend, exercise, shown.patch))

    running = [asyncio.ensure_future(graded(task)) for task in evaluation.tasks]
    try:
        results = await asyncio.gather(*running)
    finally:
        for unfinished in running:
            unfinished.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    some = await client.show(evaluation.tasks[0].task_id)
    return summarise(
        evaluation.suite or evaluation.name,
        some.model.name or "the service's model",
        len(some.attempts),
        some.model.temperature,
        results,
    )


async def _prepared(task: EvalTask, root: Path, sampling: Sampling) -> TaskRequest:
    commit = await write_repository(task, root)
    labels = {LABEL: task.id, "split": task.split, "kind": task.kind}
    request = request_of(task, root, sampling, None)
    return request.model_copy(update={"base_commit": commit, "labels": labels})
