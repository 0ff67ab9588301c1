"""``mimo eval``: how good is a model, and how good is no model."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failure import ExitCode, Failure
from agent.cli.output import Format

if TYPE_CHECKING:
    from evals.baseline import BaselineSplit
    from evals.measurement import Measurement
    from evals.suite import ExamTask

app = typer.Typer(
    help="Measure the agent on suites of tasks.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

Suite = Annotated[str, typer.Option(metavar="NAME", help="Which tasks.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N tasks of each split.")]
Splits = Annotated[list[str] | None, typer.Option("--split", metavar="NAME", help="Only this split; repeatable.")]
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
def baseline(suite: Suite = _SUITE, limit: Limit = None, split: Splits = None, output: OutputAs = Format.TEXT) -> None:
    """What a program without a model reaches: single-place edits, tried until the visible tests pass."""
    from evals.baseline import measure

    _print_baseline(suite, {name: measure(tasks) for name, tasks in _tasks(suite, split, limit).items()}, output)


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
