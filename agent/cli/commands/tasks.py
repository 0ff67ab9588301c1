"""``mimo task``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failure import ExitCode, Failure
from agent.cli.options import (
    LOCAL_SERVICE,
    Attempts,
    Checks,
    Commit,
    FormatAs,
    Images,
    MaxCost,
    MaxSteps,
    MaxTokens,
    NoColor,
    OutputAs,
    Problem,
    Quiet,
    Repo,
    RequireVerified,
    Seed,
    Server,
    TaskId,
    Temperature,
    Thinking,
    Timeout,
)
from agent.cli.output import Approvals, Delivery, Format, Output, Restored
from agent.cli.session import with_client

if TYPE_CHECKING:
    from agent.cli.client import Client

app = typer.Typer(help="Tasks of a running service.", no_args_is_help=True, rich_markup_mode=None)


@app.command("submit")
def submit(
    problem: Problem = None,
    repo: Annotated[
        Path, typer.Option("--repo", metavar="NAME|PATH", help="A repository of the project, or a git checkout here.")
    ] = Path(),
    commit: Commit = "HEAD",
    check: Checks = None,
    attempts: Attempts = 1,
    max_steps: MaxSteps = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    timeout: Timeout = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the service's.")] = None,
    temperature: Temperature = None,
    seed: Seed = None,
    thinking: Thinking = None,
    approvals: Annotated[Approvals, typer.Option(help="Which calls wait for a word.")] = Approvals.NONE,
    image: Images = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it ends, and exit as it did.")] = False,
    require_verified: RequireVerified = False,
    server: Server = LOCAL_SERVICE,
    output: FormatAs = Format.TEXT,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Queue a task; prints its id."""
    from agent.cli import arguments, images, task
    from agent.cli.terminal import open_terminal

    submission = task.Submission(
        problem=arguments.read_problem(problem),
        repository=arguments.repository(repo),
        commit=commit,
        checks=tuple(check or ()),
        limits=arguments.limits(max_steps=max_steps, max_tokens=max_tokens, max_cost=max_cost, timeout_s=timeout),
        sampling=arguments.sampling(temperature=temperature, seed=seed, thinking=thinking, model=model),
        attempts=attempts,
        labels=arguments.labels(label or []),
        approvals=approvals.value,
        images=images.read_images(image or ()),
    )
    terminal = open_terminal(quiet=quiet, no_color=no_color)

    async def work(client: "Client") -> int:
        if not watch:
            await task.submit(client, submission, terminal, output)
            return 0
        return await task.submit_and_watch(client, submission, terminal, output, require_verified=require_verified)

    raise typer.Exit(with_client(server, work))


@app.command("list")
def list_all(
    status: Annotated[str | None, typer.Option(help="Only tasks in this state, such as running.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    server: Server = LOCAL_SERVICE,
    output: FormatAs = Format.TEXT,
    no_color: NoColor = False,
) -> None:
    """List tasks, newest first."""
    from agent.cli import arguments, task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    wanted = arguments.status(status)
    with_client(server, lambda client: task.list_tasks(client, terminal, output, wanted, limit))


@app.command("show")
def show(
    task_id: TaskId, server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Show one task: state, verdict with evidence, cost."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: task.show(client, task_id, terminal, output))


@app.command("watch")
def watch(
    task_id: TaskId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater sequence number.")] = 0,
    deltas: Annotated[
        bool, typer.Option("--deltas", help="With stream-json: also what the model is writing, piece by piece.")
    ] = False,
    require_verified: RequireVerified = False,
    server: Server = LOCAL_SERVICE,
    output: OutputAs = Output.TEXT,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Follow a task until it ends, through lost connections; exits as `mimo run` would."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    if deltas and output is not Output.STREAM_JSON:
        raise Failure(ExitCode.USAGE, "--deltas goes with --output stream-json alone", "leave it out, or add that")
    terminal = open_terminal(quiet=quiet, no_color=no_color)
    code = with_client(
        server,
        lambda client: task.watch(
            client, task_id, terminal, output, after=after, deltas=deltas, require_verified=require_verified
        ),
    )
    raise typer.Exit(code)


@app.command("diff")
def diff(
    task_id: TaskId, server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Print the patch of a task that ended."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: task.diff(client, task_id, terminal, output))


@app.command("apply")
def apply(task_id: TaskId, repo: Repo = Path(), server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Bring the patch of a task that ended into a checkout, whole or not at all.

    Files with uncommitted changes are not touched; commits since the task's are merged with it.
    """
    from agent.cli import arguments, task
    from agent.cli.terminal import open_terminal

    root, terminal = arguments.directory(repo), open_terminal(no_color=no_color)
    with_client(server, lambda client: task.apply(client, task_id, root, terminal))


@app.command("logs")
def logs(
    task_id: TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the task ends.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Thoughts, and what calls gave back, in full.")] = False,
    server: Server = LOCAL_SERVICE,
    output: FormatAs = Format.TEXT,
    no_color: NoColor = False,
) -> None:
    """Print what the agent said and did so far; as JSON, one event a line."""
    from agent.cli import task_log
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: task_log.logs(client, task_id, terminal, output, follow=follow, whole=full))


@app.command("attempts")
def attempts(
    task_id: TaskId, server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """List a task's attempts: how each ended, what its checks proved, the size of its patch, which was chosen."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: task.attempts(client, task_id, terminal, output))


@app.command("cancel")
def cancel(
    task_id: TaskId, server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """End a task; what it changed so far stays readable."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: task.cancel(client, task_id, terminal, output))


@app.command("message")
def message(
    task_id: TaskId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the agent shall know or do.")],
    delivery: Annotated[
        Delivery,
        typer.Option(help="steer: before its next answer; queue: once it has finished; interrupt: at once."),
    ] = Delivery.STEER,
    image: Images = None,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Say something to the agent while it works, or answer its question; prints the message's id."""
    from agent.cli import arguments, images, steering
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    said = arguments.said(text, delivery, images.read_images(image or ()))
    with_client(server, lambda client: steering.say(client, task_id, said, terminal))


@app.command("pause")
def pause(task_id: TaskId, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Let the agent stop after the step that it is in."""
    from agent.cli import steering
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: steering.pause(client, task_id, terminal))


@app.command("resume")
def resume(task_id: TaskId, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Let a paused task go on, or one that waits for a quota or for capacity try again at once."""
    from agent.cli import steering
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: steering.resume(client, task_id, terminal))


@app.command("rewind")
def rewind(
    task_id: TaskId,
    to_step: Annotated[
        int | None,
        typer.Argument(min=0, max=10_000, help="The last step that stands; 0 for none. Without it: print the steps."),
    ] = None,
    restore: Annotated[Restored, typer.Option(help="What goes back to how it was then.")] = Restored.BOTH,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Which attempt, where several work.")] = None,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Take steps of a paused or waiting task back; `mimo task message` and `resume` then let it go on otherwise."""
    from agent.api.schemas import RewindPoint
    from agent.cli import steering
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    if to_step is None:
        with_client(server, lambda client: steering.checkpoints(client, task_id, terminal))
        return
    point = RewindPoint(to_step=to_step, restore=restore.value, run_id=run)
    with_client(server, lambda client: steering.rewind(client, task_id, point, terminal))


@app.command("pr")
def pr(
    task_id: TaskId,
    title: Annotated[str | None, typer.Option(help="Default: of the problem.")] = None,
    body: Annotated[str | None, typer.Option(help="Default: the problem and what the checks say.")] = None,
    base: Annotated[str | None, typer.Option(metavar="BRANCH", help="Default: the repository's.")] = None,
    draft: Annotated[bool, typer.Option("--draft")] = False,
    onto: Annotated[
        str | None, typer.Option(metavar="TASK", help="Add the patch to this task's pull request instead.")
    ] = None,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Open a pull request for the patch of a task that ended; prints its address."""
    from agent.api.pull_requests import PullRequestWanted
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    wanted = PullRequestWanted(title=title, body=body, base=base, draft=draft, onto=onto)
    with_client(server, lambda client: repo.pull_request(client, task_id, wanted, terminal))
