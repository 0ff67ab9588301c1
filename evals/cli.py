"""``mimo eval``: how good is a model, and how good is no model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failure import ExitCode, Failure
from agent.cli.options import LOCAL_SERVICE, Server
from agent.cli.output import Format

if TYPE_CHECKING:
    from agent.api.evals import NewEval
    from evals.baseline import BaselineSplit
    from evals.measurement import Measurement
    from evals.suite import ExamTask

app = typer.Typer(
    help="Measure the agent on suites of tasks.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

Suite = Annotated[str, typer.Option(metavar="NAME", help="Which tasks.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N tasks of each split.")]
Splits = Annotated[list[str] | None, typer.Option("--split", metavar="NAME", help="Only this split; repeatable.")]
EvalId = Annotated[str, typer.Argument(metavar="EVALUATION", help="Its id.")]
OutputAs = Annotated[Format, typer.Option("--output", "-o", help="Standard output.")]

_SUITE = "nano-heldout"


@app.command()
def run(
    suite: Suite = _SUITE,
    limit: Limit = None,
    split: Splits = None,
    attempts: Annotated[int, typer.Option(min=1, max=8, help="Runs of a task; the visible tests select one.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes sampling repeatable.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Tasks at once.")] = 4,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A running service on this machine. Default: one for this run.")
    ] = None,
    model_url: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint. Default: an embedded model server.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Served name.")] = None,
    output: OutputAs = Format.TEXT,
) -> None:
    """Run a suite through the REST API of a service, and grade each patch by hidden tests in a fresh sandbox."""
    from agent.cli import arguments
    from agent.cli.home import home
    from evals.measurement import Measurement
    from evals.runner import Sampling
    from evals.suite import eval_task

    if server and model_url:
        raise Failure(ExitCode.USAGE, "--server decides which endpoint is asked, not --model-url", "give one of them")
    settings, checkpoint = arguments.endpoint(os.environ, url=model_url, name=model)
    measurement = Measurement(
        suite=suite,
        tasks=tuple(eval_task(task) for tasks in _tasks(suite, split, limit).values() for task in tasks),
        sampling=Sampling(attempts=attempts, temperature=temperature, seed=seed),
        concurrency=concurrency,
        server=server,
        model=settings,
        checkpoint=checkpoint,
        served_name=model,
        home=home(os.environ),
    )
    _measure(measurement, output)


@app.command()
def submit(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Tasks as JSON, as prepare writes them; - is standard input."),
    ] = None,
    suite: Annotated[str | None, typer.Option(metavar="NAME", help="A suite that the service keeps.")] = None,
    name: Annotated[str | None, typer.Option(help="What it is called. Default: the suite or file.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, max=8, help="Runs of every task.")] = None,
    benchmark: Annotated[
        bool | None,
        typer.Option(
            "--benchmark/--no-benchmark",
            help="Keep the agents from where answers stand, and look who went there. Default: as each task says.",
        ),
    ] = None,
    server: Server = LOCAL_SERVICE,
    output: OutputAs = Format.TEXT,
) -> None:
    """Have a service run tasks in the background and count what comes of them; its verdicts are those of the checks."""
    from agent.cli.session import with_client
    from agent.cli.terminal import open_terminal
    from evals import evaluation

    new = _new_eval(file, suite, name, attempts).model_copy(update={"benchmark": benchmark})
    terminal = open_terminal()
    with_client(server, lambda client: evaluation.submit(client, new, terminal, output))


@app.command("list")
def list_evals(server: Server = LOCAL_SERVICE, output: OutputAs = Format.TEXT) -> None:
    """List the evaluations of a service, newest first."""
    from agent.cli.session import with_client
    from agent.cli.terminal import open_terminal
    from evals import evaluation

    terminal = open_terminal()
    with_client(server, lambda client: evaluation.list_evals(client, terminal, output))


@app.command()
def suites(server: Server = LOCAL_SERVICE, output: OutputAs = Format.TEXT) -> None:
    """List the suites that a service keeps."""
    from agent.cli.session import with_client
    from agent.cli.terminal import open_terminal
    from evals import evaluation

    terminal = open_terminal()
    with_client(server, lambda client: evaluation.list_suites(client, terminal, output))


@app.command()
def show(eval_id: EvalId, server: Server = LOCAL_SERVICE, output: OutputAs = Format.TEXT) -> None:
    """Show how far an evaluation is, and what it came to by the checks."""
    from agent.cli.session import with_client
    from agent.cli.terminal import open_terminal
    from evals import evaluation

    terminal = open_terminal()
    with_client(server, lambda client: evaluation.show(client, eval_id, terminal, output))


@app.command()
def cancel(eval_id: EvalId, server: Server = LOCAL_SERVICE) -> None:
    """Cancel the tasks of an evaluation that have not ended."""
    from agent.cli.session import with_client
    from agent.cli.terminal import open_terminal
    from evals import evaluation

    terminal = open_terminal()
    with_client(server, lambda client: evaluation.cancel(client, eval_id, terminal))


@app.command()
def report(
    eval_id: EvalId, suite: Suite = _SUITE, server: Server = LOCAL_SERVICE, output: OutputAs = Format.TEXT
) -> None:
    """Grade the patches of a prepared suite's evaluation by its hidden tests, in fresh sandboxes here."""
    from agent.api.evals import EvalView
    from agent.cli.client import Client
    from agent.cli.session import with_client
    from agent.cli.terminal import open_terminal
    from evals import prepared
    from evals.report import Report
    from evals.report import show as show_report
    from evals.suite import eval_task
    from sandbox.backends import open_backend
    from sandbox.config import SandboxSettings
    from sandbox.errors import SandboxError

    exam = {task.id: eval_task(task) for tasks in _tasks(suite, None, None).values() for task in tasks}

    async def graded(client: Client) -> Report:
        evaluation = await client.ask(EvalView, "GET", f"/v1/evals/{eval_id}")
        backend = open_backend("local", SandboxSettings())
        try:
            return await prepared.report(client, evaluation, exam, backend)
        finally:
            await backend.close()

    terminal = open_terminal()
    try:
        found = with_client(server, graded)
    except SandboxError as error:
        raise Failure(ExitCode.FAILED, f"no sandbox to grade in: {error}") from error
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
    else:
        show_report(found, terminal.out)


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="Where; workers of the service must see it at the same path.")],
    suite: Suite = _SUITE,
    limit: Limit = None,
    split: Splits = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes sampling repeatable.")] = None,
) -> None:
    """Write a suite for a service, whose operator names the folder in MIMO_EVAL_SUITES."""
    from agent.cli.session import complete
    from agent.cli.terminal import open_terminal
    from evals import prepared
    from evals.runner import Sampling
    from evals.suite import eval_task

    tasks = [eval_task(task) for tasks in _tasks(suite, split, limit).values() for task in tasks]
    sampling = Sampling(temperature=temperature, seed=seed)
    file = complete(prepared.prepare(suite, tasks, folder.absolute(), sampling))
    terminal = open_terminal()
    terminal.note(f"{len(tasks)} tasks; start the service with MIMO_EVAL_SUITES={folder.absolute()}")
    terminal.result(str(file))


@app.command()
def baseline(suite: Suite = _SUITE, limit: Limit = None, split: Splits = None, output: OutputAs = Format.TEXT) -> None:
    """What a program without a model reaches: single-place edits, tried until the visible tests pass."""
    from evals.baseline import measure

    _print_baseline(suite, {name: measure(tasks) for name, tasks in _tasks(suite, split, limit).items()}, output)


def _new_eval(file: Path | None, suite: str | None, name: str | None, attempts: int | None) -> "NewEval":
    import sys

    from pydantic import ValidationError

    from agent.api.evals import NewEval
    from agent.api.suites import SuiteFile
    from agent.cli.arguments import invalid

    if (file is None) == (suite is None):
        raise Failure(ExitCode.USAGE, "either a file of tasks or --suite, and not both", "give one of them")
    try:
        tasks = None
        if file is not None:
            text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
            tasks = SuiteFile.model_validate_json(text).tasks
        return NewEval(name=name or suite or str(file), tasks=tasks, suite=suite, attempts=attempts)
    except (OSError, UnicodeError) as error:
        raise Failure(ExitCode.USAGE, f"{file} cannot be read: {error}", "give a file of tasks") from error
    except ValidationError as error:
        raise invalid(error) from error


def _tasks(suite: str, splits: list[str] | None, limit: int | None) -> "dict[str, tuple[ExamTask, ...]]":
    from evals.suite import SPLITS, SUITES, nano_heldout

    if suite not in SUITES:
        raise Failure(ExitCode.USAGE, f"there is no suite {suite!r}", f"use one of {', '.join(SUITES)}")
    unknown = [name for name in splits or () if name not in SPLITS]
    if unknown:
        raise Failure(ExitCode.USAGE, f"{suite} has no split {unknown[0]!r}", f"use one of {', '.join(SPLITS)}")
    return {name: nano_heldout(name, limit) for name in dict.fromkeys(splits or SPLITS)}


def _measure(measurement: "Measurement", output: Format) -> None:
    import asyncio

    from agent.cli.client import ServiceProblem, ServiceUnreachable
    from agent.cli.task import failure
    from agent.cli.terminal import open_terminal
    from evals.report import show
    from sandbox.errors import SandboxError

    terminal = open_terminal()
    try:
        report = asyncio.run(measurement.run(terminal))
    except (ServiceProblem, ServiceUnreachable) as error:
        raise failure(error) from error
    except SandboxError as error:
        raise Failure(ExitCode.FAILED, f"no sandbox to grade in: {error}") from error
    if output is Format.JSON:
        terminal.result(report.model_dump_json(indent=2))
    else:
        show(report, terminal.out)


def _print_baseline(suite: str, splits: "dict[str, BaselineSplit]", output: Format) -> None:
    import json

    from agent.cli.terminal import open_terminal
    from evals.baseline import show

    terminal = open_terminal()
    if output is Format.JSON:
        plain = {name: split.model_dump(mode="json") for name, split in splits.items()}
        terminal.result(json.dumps({"suite": suite, "splits": plain}, indent=2))
    else:
        show(splits, terminal.out)
