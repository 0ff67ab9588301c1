"""``mimo task``: submit, list, show, watch, apply and cancel tasks of a running service."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agent.api.schemas import AttemptView, DraftView, Image, NewTask, TaskView
from agent.cli.arguments import invalid
from agent.cli.checkout import NOTHING_PROVES, default_checks, top_directory
from agent.cli.client import Client, ServiceProblem, ServiceUnreachable
from agent.cli.exits import exit_code
from agent.cli.failure import ExitCode, Failure
from agent.cli.landing import PatchRefused, land
from agent.cli.output import Format, Output
from agent.cli.progress import Progress
from agent.cli.report import AttemptSize, details, report, table
from agent.cli.report import attempts as report_attempts
from agent.cli.terminal import Terminal
from agent.errors import RepositoryError
from agent.types import Approvals, Check, Limits, ModelOptions, Status


@dataclass(frozen=True, slots=True)
class Submission:
    """The command line of ``mimo task submit``."""

    problem: str
    repository: Path | str
    """A path, absolute: the service has another current directory; or the name of one that the service has."""
    commit: str
    checks: tuple[str, ...]
    limits: Limits
    sampling: ModelOptions
    attempts: int
    labels: dict[str, str]
    approvals: Approvals
    images: tuple[Image, ...] = ()


async def submit(client: Client, submission: Submission, terminal: Terminal, output: Format) -> None:
    """Queue a task; its id, or all of it as JSON, goes to standard output."""
    task = await _submit(client, submission, terminal)
    terminal.result(task.model_dump_json(indent=2) if output is Format.JSON else task.id)


async def submit_and_watch(
    client: Client, submission: Submission, terminal: Terminal, output: Format, *, require_verified: bool
) -> ExitCode:
    """Queue a task and stay until it ends; only its result goes to standard output."""
    task = await _submit(client, submission, terminal)
    terminal.note(f"Submitted as {task.id}; Ctrl-C leaves it running.")
    return await watch(client, task.id, terminal, Output(output), require_verified=require_verified)


async def list_tasks(client: Client, terminal: Terminal, output: Format, status: Status | None, limit: int) -> None:
    page = await client.list(status=status, limit=limit)
    if output is Format.JSON:
        terminal.result(page.model_dump_json(indent=2))
    elif page.tasks:
        table(terminal, page)
    else:
        terminal.note("No tasks.")


async def show(client: Client, task_id: str, terminal: Terminal, output: Format) -> None:
    task = await client.show(task_id)
    if output is Format.JSON:
        terminal.result(task.model_dump_json(indent=2))
    else:
        details(terminal, task)


async def watch(
    client: Client,
    task_id: str,
    terminal: Terminal,
    output: Output,
    *,
    after: int = 0,
    deltas: bool = False,
    require_verified: bool = False,
) -> ExitCode:
    """Show a task until it ends, then its result; the exit code tells how it ended.

    Args:
        deltas: print what the model is writing between the events, too.
    """
    with Progress(terminal) as progress:

        def on_draft(piece: DraftView) -> None:
            progress.draft(piece)
            if deltas:
                terminal.result(piece.model_dump_json())

        going_on = asyncio.ensure_future(progress.keep_on())
        try:
            async for event in client.watch(task_id, after=after, on_draft=on_draft):
                progress.event(event)
                if output is Output.STREAM_JSON:
                    terminal.result(event.model_dump_json())
        finally:
            going_on.cancel()
            await asyncio.wait({going_on})
    task = await client.show(task_id)
    report(terminal, task)
    match output:
        case Output.JSON:
            terminal.result(task.model_dump_json(indent=2))
        case Output.STREAM_JSON:
            terminal.result(f'{{"type":"result","task":{task.model_dump_json()}}}')
        case Output.TEXT:
            terminal.patch(task.patch)
    return exit_code(task, require_verified=require_verified)


async def diff(client: Client, task_id: str, terminal: Terminal, output: Format) -> None:
    answer = await client.diff(task_id)
    if output is Format.JSON:
        terminal.result(answer.model_dump_json(indent=2))
    else:
        terminal.patch(answer.patch)


async def apply(client: Client, task_id: str, root: Path, terminal: Terminal) -> None:
    """Bring the task's patch into the checkout.

    Raises:
        Failure: it does not fit, or what is not committed stands in its way; nothing was changed.
    """
    patch = (await client.diff(task_id)).patch
    if not patch:
        terminal.note("The task changed nothing.")
        return
    try:
        root = await top_directory(root)
        landed = await land(patch.encode(), root)
    except (PatchRefused, RepositoryError) as error:
        remedy = error.remedy if isinstance(error, PatchRefused) else ""
        raise Failure(ExitCode.FAILED, str(error), remedy) from error
    if not landed.files:
        terminal.note(f"{root} has all of it already.")
        return
    merged = ", merged with what was committed since" if landed.merged else ""
    terminal.note(f"Applied to {root}{merged}:")
    for name in landed.files:
        terminal.note(f"  {name}")


async def attempts(client: Client, task_id: str, terminal: Terminal, output: Format) -> None:
    """Every attempt, with the size of its patch."""
    task = await client.show(task_id)
    lines = [await _sized(client, task_id, attempt) for attempt in task.attempts]
    if output is Format.JSON:
        terminal.result(json.dumps([line.model_dump(mode="json") for line in lines], indent=2))
    else:
        report_attempts(terminal, lines)


async def _sized(client: Client, task_id: str, attempt: AttemptView) -> AttemptSize:
    files = (await client.run_diff(task_id, attempt.run_id)).files if attempt.status.terminal else None
    return AttemptSize(
        **attempt.model_dump(),
        num_files=None if files is None else len(files),
        added=None if files is None else sum(file.added for file in files),
        removed=None if files is None else sum(file.removed for file in files),
    )


async def cancel(client: Client, task_id: str, terminal: Terminal, output: Format) -> None:
    task = await client.cancel(task_id)
    if output is Format.JSON:
        terminal.result(task.model_dump_json(indent=2))
    else:
        running = "Cancel requested: its worker ends it within a second, unless it is just finishing."
        terminal.note("Cancelled." if task.status.terminal else running)


def failure(error: ServiceUnreachable | ServiceProblem) -> Failure:
    """What the service answered, or that it did not, as the end of a command."""
    if isinstance(error, ServiceUnreachable):
        return Failure(ExitCode.RETRYABLE, str(error), error.remedy)
    code = ExitCode.RETRYABLE if error.retryable else ExitCode.USAGE
    return Failure(code, error.detail, error.remedy)


async def _submit(client: Client, submission: Submission, terminal: Terminal) -> TaskView:
    checks = submission.checks
    if isinstance(submission.repository, str):
        root: Path | str = submission.repository
    else:
        root = await _top_directory(submission.repository)
        checks = checks or await default_checks(root, submission.commit)
    if not checks and isinstance(root, Path):
        terminal.note(NOTHING_PROVES)
    try:
        request = NewTask(
            repository=str(root),
            base_commit=submission.commit,
            problem_statement=submission.problem,
            checks=tuple(Check(command=command) for command in checks),
            limits=submission.limits,
            model=submission.sampling,
            attempts=submission.attempts,
            labels=submission.labels,
            approvals=submission.approvals,
            images=submission.images,
        )
    except ValidationError as error:
        raise invalid(error) from error
    return await client.submit(request)


async def _top_directory(path: Path) -> Path:
    try:
        return await top_directory(path)
    except RepositoryError:
        return path  # The service judges: it may see more of the machine than its caller.
