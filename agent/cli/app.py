"""The program ``mimo``: its commands, their options and help. What they do is imported when one is called."""

import gc
import os
import sys
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from agent.cli.commands import approvals, config, mcp, mcp_servers, repositories, schedules, skills, tasks
from agent.cli.commands.account import login, logout, whoami
from agent.cli.commands.handing import pull, push
from agent.cli.failure import ExitCode, Failure
from agent.cli.options import (
    Attempts,
    Checks,
    Commit,
    Images,
    MaxCost,
    MaxSteps,
    MaxTokens,
    ModelName,
    ModelUrl,
    NoColor,
    OutputAs,
    Problem,
    Quiet,
    Repo,
    RequireVerified,
    Sandbox,
    Seed,
    Temperature,
    Thinking,
    Timeout,
)
from agent.cli.output import Input, Output
from agent.cli.session import complete

_COMPLETION = "_MIMO_COMPLETE"
"""Set by the shell where it wants to know what may follow."""

PLUGINS = "mimo.commands"
"""Entry point group: packages above this one add their commands here, each a ``typer.Typer``."""


def main() -> None:
    """The program."""
    # What is imported stays: looking through it for garbage again and again takes a fifth of the start.
    gc.disable()
    if _COMPLETION in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        app(prog_name="mimo")
    except Failure as failure:
        _complain(failure.message, failure.remedy)
        sys.exit(failure.code)
    finally:
        gc.enable()


class _Commands(TyperGroup):
    """Our commands and those of the entry points, which are loaded only when called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(point.name for point in entry_points(group=PLUGINS))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = next(iter(entry_points(group=PLUGINS, name=cmd_name)), None)
        return None if found is None else _plugin(found)


def _plugin(point: EntryPoint) -> Any:
    """The command of an entry point; one that cannot be loaded says so when called, and spoils no other."""
    try:
        return typer.main.get_command(point.load())
    except ImportError as error:
        reason = str(error)

    def unavailable() -> None:
        raise Failure(ExitCode.FAILED, f"mimo {point.name} cannot be loaded: {reason}", "install what it names")

    return TyperCommand(point.name, callback=unavailable, help=f"Not available: {reason}.")


app = typer.Typer(
    name="mimo",
    cls=_Commands,
    help="Coding tasks for an agent that works in a sandbox and shows what its patch proves.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 unverified, 4 limit, 5 needs input, 75 try again later, "
    "130 interrupted.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich takes longer to import than the rest of --help together.
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _group in (
    ("task", tasks),
    ("repo", repositories),
    ("skill", skills),
    ("mcp-server", mcp_servers),
    ("schedule", schedules),
    ("approvals", approvals),
    ("mcp", mcp),
    ("config", config),
):
    app.add_typer(_group.app, name=_name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mimo {version('mimo-coder')}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
    repo: Annotated[Path, typer.Option("--repo", metavar="PATH", help="Folder to talk about.")] = Path(),
    continued: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the newest conversation about the folder.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with this conversation; 'list' asks which.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="plan, ask, edits or auto.")] = None,
    no_sandbox: Annotated[
        bool, typer.Option("--no-sandbox", help="Run commands on this machine itself, with nothing around them.")
    ] = False,
    model_url: ModelUrl = None,
    model: ModelName = None,
    no_color: NoColor = False,
) -> None:
    """Without a command: talk about a folder's files and have them changed, here in the terminal."""
    if context.invoked_subcommand is not None:
        return
    from agent.cli import arguments
    from agent.cli.chat.start import ChatOptions, chat

    options = ChatOptions(
        root=arguments.directory(repo).resolve(),
        resume=resume,
        continued=continued,
        no_sandbox=no_sandbox,
        model_url=model_url,
        model=model,
        mode=arguments.mode(mode),
        no_color=no_color,
    )
    complete(chat(options, os.environ))


@app.command()
def run(
    problem: Problem = None,
    repo: Repo = Path(),
    commit: Commit = "HEAD",
    check: Checks = None,
    attempts: Attempts = 1,
    max_steps: MaxSteps = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    timeout: Timeout = None,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Start from the commit, without uncommitted changes.")
    ] = False,
    uncommitted: Annotated[
        bool, typer.Option("--uncommitted", help="Start from the files as they are, changes included.")
    ] = False,
    model_url: ModelUrl = None,
    model: ModelName = None,
    temperature: Temperature = None,
    seed: Seed = None,
    thinking: Thinking = None,
    image: Images = None,
    sandbox: Sandbox = "local",
    first_answer: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Longest wait for a model call's first token. Default: 300."),
    ] = None,
    input: Annotated[  # noqa: A002 - the option's name
        Input,
        typer.Option("--input", help="stream-json: a message per line of standard input; the first is the problem."),
    ] = Input.TEXT,
    apply: Annotated[bool, typer.Option("--apply", help="Apply the patch to the checkout.")] = False,
    require_verified: RequireVerified = False,
    output: OutputAs = Output.TEXT,
    output_schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Print not the patch, but an answer: JSON of this schema, or exit with 1."),
    ] = None,
    heartbeat: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Without a terminal: longest silence of the progress.")
    ] = 30.0,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Work on a problem here and now; print the patch, or apply it.

    The agent works on a copy in a sandbox without network. Without --check, `python -m pytest -q` is run where the
    commit has tests.
    """
    from agent.cli import arguments
    from agent.cli.answer import AnswerForm
    from agent.cli.home import home
    from agent.cli.images import few, no_sight, read_image
    from agent.cli.run import RunOptions
    from agent.cli.run import run as execute
    from agent.cli.terminal import open_terminal

    if output_schema is not None and output is not Output.TEXT:
        raise Failure(ExitCode.USAGE, "--output-schema and --output are two forms of one answer", "give one of them")
    settings, checkpoint = arguments.endpoint(os.environ, url=model_url, name=model)
    if first_answer is not None:
        settings = settings.model_copy(update={"first_token_s": first_answer})
    if image and (checkpoint or not settings.images):
        raise no_sight(settings.name)
    streamed = input is Input.STREAM_JSON
    options = RunOptions(
        problem=arguments.read_message() if streamed else arguments.read_problem(problem),
        listen=streamed,
        repository=arguments.directory(repo),
        commit=commit,
        model=settings,
        checkpoint=checkpoint,
        backend=arguments.backend(sandbox),
        sandbox=arguments.sandbox(os.environ),
        checks=tuple(check or ()),
        limits=arguments.limits(max_steps=max_steps, max_tokens=max_tokens, max_cost=max_cost, timeout_s=timeout),
        sampling=arguments.sampling(temperature=temperature, seed=seed, thinking=thinking, model=None),
        images=tuple(map(read_image, few(image or ()))),
        attempts=attempts,
        output=output,
        apply=apply,
        allow_dirty=allow_dirty,
        uncommitted=uncommitted,
        require_verified=require_verified,
        heartbeat_s=heartbeat,
        form=None if output_schema is None else AnswerForm.read(output_schema),
    )
    terminal = open_terminal(quiet=quiet, no_color=no_color)
    raise typer.Exit(complete(execute(options, home(os.environ), terminal)))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback, MIMO_API_KEY is needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8700,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Tasks worked on at once.")] = 1,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tasks and logs. Default: MIMO_HOME or the state directory.")
    ] = None,
    model_url: ModelUrl = None,
    model: ModelName = None,
    sandbox: Sandbox = "local",
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Start the service on this machine.

    REST API, workers and, without --model-url, an embedded model server.

    One Ctrl-C ends all of it. Unfinished runs go on at the next start.
    """
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.serve import ServeOptions, sealing, trusted_issuers
    from agent.cli.serve import serve as execute
    from agent.cli.terminal import open_terminal

    settings, checkpoint = arguments.endpoint(os.environ, url=model_url, name=model)
    options = ServeOptions(
        host=host,
        port=port,
        model=settings,
        checkpoint=checkpoint,
        num_workers=workers,
        backend=arguments.backend(sandbox),
        data=arguments.directory(data) if data else home(os.environ),
        api_key=os.environ.get("MIMO_API_KEY") or None,
        identity=trusted_issuers(os.environ),
        secret_box=sealing(os.environ),
    )
    complete(execute(options, open_terminal(quiet=quiet, no_color=no_color)))


for _command in (push, pull, login, logout, whoami):
    app.command()(_command)


@app.command()
def doctor(
    model_url: ModelUrl = None,
    model: ModelName = None,
    sandbox: Sandbox = "local",
    no_color: NoColor = False,
) -> None:
    """Look at everything that has to work, and say what to do where it does not."""
    from agent.cli import arguments
    from agent.cli.doctor import doctor as examine
    from agent.cli.home import home
    from agent.cli.terminal import open_terminal

    settings, checkpoint = arguments.endpoint(os.environ, url=model_url, name=model)
    terminal = open_terminal(no_color=no_color)
    asked = None if checkpoint else settings
    made_by, how = arguments.backend(sandbox), arguments.sandbox(os.environ)
    raise typer.Exit(complete(examine(asked, made_by, how, home(os.environ), os.environ, terminal)))


@app.command()
def acp(
    mode: Annotated[str | None, typer.Option(help="plan, ask, edits or auto.")] = None,
    no_sandbox: Annotated[
        bool, typer.Option("--no-sandbox", help="Run commands on this machine itself, with nothing around them.")
    ] = False,
    model_url: ModelUrl = None,
    model: ModelName = None,
) -> None:
    """Serve an editor on the standard streams, by the Agent Client Protocol."""
    from agent.cli import arguments

    try:
        from agent.cli.acp.start import serve as speak
    except ImportError as error:
        raise Failure(ExitCode.FAILED, f"mimo acp cannot be loaded: {error}", "install mimo-coder[acp]") from error
    from agent.cli.chat.setting import Asked

    asked = Asked(model_url, model, sandboxed=not no_sandbox)
    complete(speak(asked, arguments.mode(mode), os.environ))


@app.command()
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print a script that completes commands and options; for your shell's start-up file."""
    from typer._completion_shared import get_completion_script

    if shell not in ("bash", "zsh", "fish"):
        raise Failure(ExitCode.USAGE, f"there is no completion for {shell!r}", "use one of bash, zsh, fish")
    typer.echo(get_completion_script(prog_name="mimo", complete_var=_COMPLETION, shell=shell))


def _complain(message: str, remedy: str) -> None:
    from rich.text import Text

    from agent.cli.terminal import open_terminal, printable

    console = open_terminal().err
    console.print(Text.assemble(("error: ", "bold red"), printable(message)), soft_wrap=True, highlight=False)
    if remedy:
        console.print(Text.assemble(("  try: ", "bold"), printable(remedy)), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
