"""The commands of ``mimo``, their options and help. What they do is imported when one is called."""

import gc
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from agent.cli.failure import ExitCode, Failure
from agent.cli.output import Format, Input, Output

if TYPE_CHECKING:
    from agent.cli.client import Client
    from agent.cli.settings import Settings

_T = TypeVar("_T")

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
task = typer.Typer(help="Tasks of a running service.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(task, name="task")

Problem = Annotated[str | None, typer.Argument(help="What is wrong or wanted; - reads standard input.")]
Repo = Annotated[Path, typer.Option("--repo", metavar="PATH", help="A git checkout.")]
Commit = Annotated[str, typer.Option(help="Commit to start from.")]
Checks = Annotated[
    list[str] | None,
    typer.Option("--check", metavar="CMD", help="Proves the patch by exit code 0; repeatable."),
]
Attempts = Annotated[int, typer.Option(help="Independent tries; the best by the checks counts.")]
MaxSteps = Annotated[int | None, typer.Option(help="Most model calls.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens, read and written.")]
MaxCost = Annotated[float | None, typer.Option(help="Most that model calls may cost, where prices are set.")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Most wall time.")]
ModelUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="OpenAI-compatible endpoint up to /v1; also MIMO_MODEL_URL. Default: an embedded model server.",
    ),
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Served name.")]
Temperature = Annotated[float | None, typer.Option(help="0 to 2.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Thinking = Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="Reason before acting.")]
Sandbox = Annotated[
    str, typer.Option("--sandbox", metavar="NAME", help="What runs commands: local, docker or kubernetes.")
]
RequireVerified = Annotated[bool, typer.Option("--require-verified", help="Exit with 3 unless every check passes.")]
OutputAs = Annotated[Output, typer.Option("--output", "-o", help="Standard output.")]
FormatAs = Annotated[Format, typer.Option("--output", "-o", help="Standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="Also NO_COLOR.")]
Server = Annotated[
    str, typer.Option(envvar="MIMO_SERVER_URL", metavar="URL", help="Address of the service (key: MIMO_API_KEY).")
]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Id of the task.")]

_LOCAL_SERVICE = "http://127.0.0.1:8700"


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
    _complete(chat(options, os.environ))


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
    from agent.cli.run import RunOptions
    from agent.cli.run import run as execute
    from agent.cli.terminal import open_terminal

    if output_schema is not None and output is not Output.TEXT:
        raise Failure(ExitCode.USAGE, "--output-schema and --output are two forms of one answer", "give one of them")
    settings, checkpoint = arguments.endpoint(os.environ, url=model_url, name=model)
    if first_answer is not None:
        settings = settings.model_copy(update={"first_token_s": first_answer})
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
        attempts=attempts,
        output=output,
        apply=apply,
        allow_dirty=allow_dirty,
        uncommitted=uncommitted,
        require_verified=require_verified,
        form=None if output_schema is None else AnswerForm.read(output_schema),
    )
    terminal = open_terminal(quiet=quiet, no_color=no_color)
    raise typer.Exit(_complete(execute(options, home(os.environ), terminal)))


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
    _complete(execute(options, open_terminal(quiet=quiet, no_color=no_color)))


@task.command("submit")
def task_submit(
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
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it ends, and exit as it did.")] = False,
    require_verified: RequireVerified = False,
    server: Server = _LOCAL_SERVICE,
    output: FormatAs = Format.TEXT,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Queue a task; prints its id."""
    from agent.cli import arguments, task
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
    )
    terminal = open_terminal(quiet=quiet, no_color=no_color)

    async def work(client: "Client") -> int:
        if not watch:
            await task.submit(client, submission, terminal, output)
            return 0
        return await task.submit_and_watch(client, submission, terminal, output, require_verified=require_verified)

    raise typer.Exit(_with_client(server, work))


@task.command("list")
def task_list(
    status: Annotated[str | None, typer.Option(help="Only tasks in this state, such as running.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    server: Server = _LOCAL_SERVICE,
    output: FormatAs = Format.TEXT,
    no_color: NoColor = False,
) -> None:
    """List tasks, newest first."""
    from agent.cli import arguments, task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    wanted = arguments.status(status)
    _with_client(server, lambda client: task.list_tasks(client, terminal, output, wanted, limit))


@task.command("show")
def task_show(
    task_id: TaskId, server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Show one task: state, verdict with evidence, cost."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: task.show(client, task_id, terminal, output))


@task.command("watch")
def task_watch(
    task_id: TaskId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater sequence number.")] = 0,
    require_verified: RequireVerified = False,
    server: Server = _LOCAL_SERVICE,
    output: OutputAs = Output.TEXT,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Follow a task until it ends, through lost connections; exits as `mimo run` would."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(quiet=quiet, no_color=no_color)
    code = _with_client(
        server,
        lambda client: task.watch(client, task_id, terminal, output, after=after, require_verified=require_verified),
    )
    raise typer.Exit(code)


@task.command("diff")
def task_diff(
    task_id: TaskId, server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Print the patch of a task that ended; `mimo task diff TASK | git apply` applies it."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: task.diff(client, task_id, terminal, output))


@task.command("cancel")
def task_cancel(
    task_id: TaskId, server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """End a task; what it changed so far stays readable."""
    from agent.cli import task
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: task.cancel(client, task_id, terminal, output))


@task.command("pr")
def task_pr(
    task_id: TaskId,
    title: Annotated[str | None, typer.Option(help="Default: of the problem.")] = None,
    body: Annotated[str | None, typer.Option(help="Default: the problem and what the checks say.")] = None,
    base: Annotated[str | None, typer.Option(metavar="BRANCH", help="Default: the repository's.")] = None,
    draft: Annotated[bool, typer.Option("--draft")] = False,
    server: Server = _LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Open a pull request for the patch of a task that ended; prints its address."""
    from agent.api.pull_requests import PullRequestWanted
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    wanted = PullRequestWanted(title=title, body=body, base=base, draft=draft)
    _with_client(server, lambda client: repo.pull_request(client, task_id, wanted, terminal))


repos = typer.Typer(help="Repositories on git hosts.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(repos, name="repo")

RepoNamed = Annotated[str, typer.Argument(metavar="NAME", help="What tasks call it.")]


@repos.command("add")
def repo_add(
    name: RepoNamed,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://HOST/OWNER/NAME.git or ssh://git@HOST/...")],
    branch: Annotated[str | None, typer.Option(help="Where tasks start. Default: the host's.")] = None,
    credential: Annotated[str | None, typer.Option(metavar="SECRET", help="Name of its token.")] = None,
    host_key: Annotated[str | None, typer.Option(metavar="KEY", help="Of an ssh host.")] = None,
    image: Annotated[str | None, typer.Option(help="Of the sandboxes.")] = None,
    setup: Annotated[Path | None, typer.Option(metavar="FILE", help="Script run once before the agent comes.")] = None,
    check: Checks = None,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Of those allowed; repeatable.")] = None,
    forge: Annotated[str | None, typer.Option(help="github or gitlab, for pull requests.")] = None,
    forge_url: Annotated[str | None, typer.Option(metavar="URL", help="Where its API is.")] = None,
    server: Server = _LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Add a repository; the service asks its host at once."""
    from agent.cli import arguments, repo
    from agent.cli.terminal import open_terminal

    given: dict[str, object] = {
        "name": name,
        "url": url,
        "default_branch": branch,
        "credential": credential,
        "host_key": host_key,
        "image": image,
        "setup": {"script": arguments.text_of(setup)} if setup else None,
        "checks": [{"command": command} for command in check or ()],
        "allow_hosts": allow_host,
        "forge": forge,
        "forge_url": forge_url,
    }
    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: repo.add(client, terminal, given))


@repos.command("list")
def repo_list(server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the project's repositories."""
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: repo.list_repos(client, terminal, output))


@repos.command("show")
def repo_show(name: RepoNamed, server: Server = _LOCAL_SERVICE) -> None:
    """Print all of a repository as JSON."""
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal()
    _with_client(server, lambda client: repo.show(client, name, terminal))


@repos.command("remove")
def repo_remove(name: RepoNamed, server: Server = _LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget a repository; nothing on its host changes."""
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: repo.remove(client, name, terminal))


@app.command()
def push(
    problem: Annotated[str, typer.Argument(help="What is to be done there.")] = "Go on.",
    repo: Repo = Path(),
    name: Annotated[str | None, typer.Option("--as", help="The service's repository. Default: by its address.")] = None,
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="Default: the newest one here.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Push the files, and no conversation.")] = False,
    check: Checks = None,
    server: Server = _LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Hand a conversation and the files as they are, uncommitted and new ones included, to a service as a task."""
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.push import PushOptions
    from agent.cli.push import push as execute
    from agent.cli.terminal import open_terminal

    root, checks = arguments.directory(repo), tuple(check or ())
    options = PushOptions(problem, root, server, name, conversation, alone, checks)
    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: execute(client, options, home(os.environ), terminal))


@app.command()
def pull(task_id: TaskId, repo: Repo = Path(), server: Server = _LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Bring what a task changed into the checkout, and into the conversation that was pushed with it."""
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.pull import pull as execute
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    root = arguments.directory(repo)
    _with_client(server, lambda client: execute(client, task_id, root, home(os.environ), terminal))


@app.command()
def login(
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Read an API key from standard input instead of signing in.")
    ] = False,
    server: Server = _LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Sign in to a service with a browser, on this machine or another; later commands use it."""
    from agent.cli.client import ServiceProblem, ServiceUnreachable
    from agent.cli.credentials import Credentials
    from agent.cli.home import home
    from agent.cli.login import login as sign_in
    from agent.cli.task import failure
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    try:
        _complete(sign_in(server, Credentials(home(os.environ)), terminal, with_key=with_key))
    except (ServiceProblem, ServiceUnreachable) as error:
        raise failure(error) from error


@app.command()
def logout(server: Server = _LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget the login to a service."""
    from agent.cli.credentials import Credentials
    from agent.cli.home import home
    from agent.cli.login import logout as sign_out
    from agent.cli.terminal import open_terminal

    sign_out(server, Credentials(home(os.environ)), open_terminal(no_color=no_color))


@app.command()
def whoami(server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """Show whom a service takes you for, and what you may do."""
    from agent.cli.login import whoami as introduce
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: introduce(client, terminal, as_json=output is Format.JSON))


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
    raise typer.Exit(_complete(examine(asked, made_by, how, home(os.environ), os.environ, terminal)))


approvals = typer.Typer(help="Calls that wait for a word.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(approvals, name="approvals")

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id of the approval.")]


@approvals.command("list")
def approvals_list(server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the calls that wait, the oldest task first."""
    from agent.cli import approvals
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: approvals.list_approvals(client, terminal, output))


@approvals.command("show")
def approvals_show(
    approval_id: ApprovalId, server: Server = _LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Show a call whole, with its arguments."""
    from agent.cli import approvals
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _with_client(server, lambda client: approvals.show_approval(client, approval_id, terminal, output))


@approvals.command("decide")
def approvals_decide(
    approval_id: ApprovalId,
    allow: Annotated[bool, typer.Option("--allow/--deny", help="What you decide.")],
    reason: Annotated[str, typer.Option(help="The agent reads it where the call is denied.")] = "",
    for_task: Annotated[bool, typer.Option("--for-task", help="Allow the same for the rest of the task.")] = False,
    server: Server = _LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Allow a call or deny it."""
    from agent.api.schemas import Decision
    from agent.cli import approvals
    from agent.cli.terminal import open_terminal

    if for_task and not allow:
        raise Failure(ExitCode.USAGE, "--for-task goes with --allow alone", "leave it out")
    terminal = open_terminal(no_color=no_color)
    decision = Decision(
        decision="allow" if allow else "deny", scope="task" if for_task else "once", reason=reason[:2000]
    )
    _with_client(server, lambda client: approvals.decide(client, approval_id, decision, terminal))


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
    _complete(speak(asked, arguments.mode(mode), os.environ))


mcp = typer.Typer(help="Other programs whose tools the agent may call.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(mcp, name="mcp")

ServerName = Annotated[str, typer.Argument(metavar="NAME", help="As in [mcp_servers.NAME] of config.toml.")]


def _settings(repo: Path) -> "Settings":
    """What the files say; a folder's own only where the user trusts it."""
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.settings import Trust, load

    root = arguments.directory(repo).resolve()
    return load(os.environ, root if Trust(home(os.environ)).decided(root) else None).settings


@mcp.command("list")
def mcp_list(repo: Repo = Path(), no_color: NoColor = False) -> None:
    """List the servers that the configuration names."""
    from agent.cli.mcp import list_servers
    from agent.cli.terminal import open_terminal

    list_servers(_settings(repo), open_terminal(no_color=no_color))


@mcp.command("login")
def mcp_login(name: ServerName, repo: Repo = Path(), no_color: NoColor = False) -> None:
    """Sign in to a server with a browser on this machine."""
    import webbrowser

    from agent.cli.home import home
    from agent.cli.mcp import login
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    _complete(login(name, _settings(repo), home(os.environ), terminal, webbrowser.open))


@mcp.command("logout")
def mcp_logout(name: ServerName, repo: Repo = Path(), no_color: NoColor = False) -> None:
    """Forget the sign-in to a server."""
    from agent.cli.home import home
    from agent.cli.mcp import logout
    from agent.cli.terminal import open_terminal

    logout(name, _settings(repo), home(os.environ), open_terminal(no_color=no_color))


config = typer.Typer(help="What the configuration files say.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config, name="config")


@config.command("show")
def config_show(
    repo: Repo = Path(),
    origin: Annotated[bool, typer.Option("--origin", help="Also where each value comes from.")] = False,
    output: FormatAs = Format.TEXT,
) -> None:
    """Show every setting with its value, files and environment taken together."""
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.settings import Trust, listing, load

    root = arguments.directory(repo).resolve()
    trusted = Trust(home(os.environ)).decided(root)
    typer.echo(listing(load(os.environ, root if trusted else None), origin=origin, as_json=output is Format.JSON))


@app.command()
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print a script that completes commands and options; for your shell's start-up file."""
    from typer._completion_shared import get_completion_script

    if shell not in ("bash", "zsh", "fish"):
        raise Failure(ExitCode.USAGE, f"there is no completion for {shell!r}", "use one of bash, zsh, fish")
    typer.echo(get_completion_script(prog_name="mimo", complete_var=_COMPLETION, shell=shell))


def _with_client(server: str, work: "Callable[[Client], Awaitable[_T]]") -> _T:
    """Do something with a service, and say in plain words where it refuses or does not answer."""
    from agent.cli.client import Client, ServiceProblem, ServiceUnreachable
    from agent.cli.credentials import Credentials
    from agent.cli.home import home
    from agent.cli.login import credential_for
    from agent.cli.task import failure

    async def session() -> _T:
        credential = await credential_for(server, os.environ, Credentials(home(os.environ)))
        async with Client(server, api_key=credential) as client:
            return await work(client)

    try:
        return _complete(session())
    except (ServiceProblem, ServiceUnreachable) as error:
        raise failure(error) from error


def _complete(work: "Coroutine[Any, Any, _T]") -> _T:
    import asyncio

    gc.enable()
    return asyncio.run(work)


def _complain(message: str, remedy: str) -> None:
    from rich.text import Text

    from agent.cli.terminal import open_terminal, printable

    console = open_terminal().err
    console.print(Text.assemble(("error: ", "bold red"), printable(message)), soft_wrap=True, highlight=False)
    if remedy:
        console.print(Text.assemble(("  try: ", "bold"), printable(remedy)), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
