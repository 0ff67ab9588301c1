"""``python -m evals.demo``: five repositories the model has never seen, repaired over REST before your eyes."""

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.api.schemas import EventView, TaskView
from agent.cli import arguments
from agent.cli.client import Client, ServiceProblem, ServiceUnreachable
from agent.cli.failure import ExitCode, Failure
from agent.cli.progress import describe
from agent.cli.task import failure
from agent.cli.terminal import Terminal, one_line, open_terminal, printable
from agent.events import ToolCompleted, ToolIntent
from agent.types import StopReason, TaskRequest, Verdict, VerdictKind
from evals.repository import write_repository
from evals.runner import Sampling, request_of
from evals.service import ServiceOptions, api_key, running_service
from evals.suite import eval_task, nano_heldout
from evals.types import EvalTask

_NUM_TASKS = 5
_NUM_WORKERS = 2
"""As many as the smallest machine has cores."""
_REMEDY = 'make demo ARGS="--model-url http://127.0.0.1:8000/v1 --model NAME"'


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo was told."""

    service: ServiceOptions
    folder: Path
    """For the repositories; emptied first. The result goes beside it."""


def main(given: Sequence[str] | None = None) -> int:
    """0 where every run ended by itself, whatever the tests said; 1 where one could not."""
    parser = argparse.ArgumentParser(prog="python -m evals.demo", description=__doc__)
    parser.add_argument("--model-url", metavar="URL", help="OpenAI-compatible endpoint up to /v1; default: nano")
    parser.add_argument("--model", metavar="NAME", help="served name")
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder for what the demo writes")
    parsed = parser.parse_args(given)
    terminal = open_terminal()
    try:
        model, checkpoint = arguments.endpoint(os.environ, url=parsed.model_url, name=parsed.model)
        folder = arguments.directory(parsed.build) / "demo"
        service = ServiceOptions(model, checkpoint, num_workers=_NUM_WORKERS, data=folder / "service")
        tasks = asyncio.run(_demo(DemoOptions(service, folder), terminal))
    except (ServiceProblem, ServiceUnreachable) as error:
        return _fail(failure(error), terminal)
    except Failure as error:
        return _fail(error, terminal)
    return 0 if all(_ended_cleanly(task) for task in tasks) else 1


async def _demo(options: DemoOptions, terminal: Terminal) -> list[TaskView]:
    exercises = [eval_task(task) for task in nano_heldout("heldout_names", _NUM_TASKS)]
    if options.folder.exists():
        shutil.rmtree(options.folder)
    for exercise in exercises:
        await write_repository(exercise, options.folder / exercise.id)
    terminal.note(f"{_NUM_TASKS} git repositories with a failing test each: {options.folder}")
    terminal.note(f"Starting the service with {options.service.model_name} ...")
    async with running_service(options.service) as url, Client(url, api_key=api_key()) as client:
        terminal.note(f"The service answers at {url}.\n")
        requests = [_request(exercise, options.folder) for exercise in exercises]
        views = [await client.submit(request) for request in requests]
        rows = [_Row(exercise.id, view.problem_statement) for exercise, view in zip(exercises, views, strict=True)]
        with _board(rows, terminal) as board:
            followed = zip(rows, views, strict=True)
            tasks = await asyncio.gather(*(_follow(client, view.id, row, board) for row, view in followed))
    result = options.folder.with_suffix(".json")
    result.write_bytes(TypeAdapter(list[TaskView]).dump_json(list(tasks), indent=2) + b"\n")
    _conclude(list(tasks), rows, result, terminal)
    return list(tasks)


def _request(exercise: EvalTask, folder: Path) -> TaskRequest:
    return request_of(exercise, folder / exercise.id, Sampling(), None)


@dataclass(slots=True)
class _Row:
    """One task on the board."""

    name: str
    problem: str
    state: str = "queued"
    step: int = 0
    action: str = ""
    verdict: VerdictKind | None = None

    def take(self, event: EventView) -> str | None:
        """What an event changes; the line that tells it, if it is worth one."""
        match event.type:
            case "run.claimed":
                self.state = "preparing"
            case "step.started":
                self.state, self.step = "running", int(event.body["step"])
            case "tool.intent":
                self.action = describe(ToolIntent.model_validate(event.body).call, 56)
                return self.action
            case "tool.completed" if ToolCompleted.model_validate(event.body).intent_id is None:
                self.action = "unusable answer"
                return self.action
            case "run.stopped":
                self.state = "checking"
                return f"stopped: {event.body['stop_reason']}; running the tests in a fresh sandbox"
            case "verdict.reached":
                self.verdict = Verdict.model_validate(event.body["verdict"]).kind
                return f"verdict: {self.verdict}"
            case "task.finished":
                self.state = str(event.body["status"])
        return None


class _Board:
    """What is shown while the tasks run: a table that changes, or a line per event where there is no terminal."""

    def __init__(self, rows: list[_Row], terminal: Terminal, live: Live | None) -> None:
        self._rows = rows
        self._terminal = terminal
        self._live = live

    def tell(self, row: _Row, event: EventView) -> None:
        line = row.take(event)
        if self._live:
            self._live.update(_progress_table(self._rows))
        elif line:
            self._terminal.note(f"{row.name}  step {row.step}  {line}")


@contextmanager
def _board(rows: list[_Row], terminal: Terminal) -> Iterator[_Board]:
    if not terminal.err.is_terminal:
        yield _Board(rows, terminal, None)
        return
    with Live(_progress_table(rows), console=terminal.err, refresh_per_second=8) as live:
        yield _Board(rows, terminal, live)


def _progress_table(rows: list[_Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, width in (("task", 17), ("status", 10), ("step", 4), ("last action", None)):
        table.add_column(heading, min_width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        status = Text(row.verdict, _STYLES[row.verdict]) if row.verdict else Text(row.state, "yellow")
        table.add_row(row.name, status, str(row.step or ""), Text(row.action, "dim"))
    return table


async def _follow(client: Client, task_id: str, row: _Row, board: _Board) -> TaskView:
    async for event in client.watch(task_id):
        board.tell(row, event)
    return await client.show(task_id)


def _conclude(tasks: list[TaskView], rows: list[_Row], result: Path, terminal: Terminal) -> None:
    """Everything that came of it, the failures as plainly as the successes."""
    out = terminal.out
    for task, row in zip(tasks, rows, strict=True):
        out.print()
        out.print(Text.assemble((row.name, "bold"), "  ", _outcome(task)), soft_wrap=True, highlight=False)
        out.print(Text(one_line(task.problem_statement, 200), "dim"), soft_wrap=True, highlight=False)
        if task.patch:
            terminal.patch(task.patch)
        else:
            out.print(Text("no patch", "dim"))
        if task.error:
            out.print(Text(printable(task.error), "red"), soft_wrap=True, highlight=False)
    out.print()
    out.print(_final_table(tasks, rows))
    verified = sum(_kind(task) is VerdictKind.VERIFIED for task in tasks)
    out.print(f"\n{verified} of {len(tasks)} repairs are proved by the repositories' tests.", highlight=False)
    out.print(f"The tasks as the API shows them: {result}", soft_wrap=True, highlight=False)
    out.print(f"The same with your model: {_REMEDY}", soft_wrap=True, highlight=False, markup=False)


def _final_table(tasks: list[TaskView], rows: list[_Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("task", "verdict", "steps", "tokens", "seconds"):
        table.add_column(heading, justify="left" if heading in ("task", "verdict") else "right", no_wrap=True)
    for task, row in zip(tasks, rows, strict=True):
        tokens = f"{task.usage.prompt_tokens + task.usage.completion_tokens:,}"
        seconds = "" if task.duration_s is None else f"{task.duration_s:.1f}"
        table.add_row(row.name, _outcome(task), str(task.steps), tokens, seconds)
    return table


def _outcome(task: TaskView) -> Text:
    kind = _kind(task)
    said = Text(kind, _STYLES[kind]) if kind else Text("no verdict", "bold red")
    if task.stop_reason is not StopReason.FINISHED:
        said.append(f" ({task.stop_reason or task.status})", "red")
    return said


def _kind(task: TaskView) -> VerdictKind | None:
    return task.verdict.kind if task.verdict else None


_STYLES = {
    VerdictKind.VERIFIED: "bold green",
    VerdictKind.PARTLY_VERIFIED: "bold yellow",
    VerdictKind.UNVERIFIED: "bold yellow",
    VerdictKind.NO_CHANGE: "bold red",
    VerdictKind.REGRESSED: "bold red",
}

_MACHINES = (StopReason.MODEL_ERROR, StopReason.SANDBOX_LOST, StopReason.CANCELLED)


def _ended_cleanly(task: TaskView) -> bool:
    """Whether the agent ended it, by itself or at a limit, and the checks were run."""
    return task.stop_reason is not None and task.stop_reason not in _MACHINES and task.verdict is not None


def _fail(problem: Failure, terminal: Terminal) -> int:
    terminal.note(Text(f"error: {printable(problem.message)}", "bold red"))
    if problem.remedy:
        terminal.note(f"  try: {printable(problem.remedy)}")
    return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
