"""``mimo approvals``."""

from typing import Annotated

import typer

from agent.cli.failure import ExitCode, Failure
from agent.cli.options import LOCAL_SERVICE, FormatAs, NoColor, Server
from agent.cli.output import Format
from agent.cli.session import with_client

app = typer.Typer(help="Calls that wait for a word.", no_args_is_help=True, rich_markup_mode=None)

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id of the approval.")]


@app.command("list")
def list_all(server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the calls that wait, the oldest task first."""
    from agent.cli import approvals
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: approvals.list_approvals(client, terminal, output))


@app.command("show")
def show(
    approval_id: ApprovalId, server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Show a call whole, with its arguments."""
    from agent.cli import approvals
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: approvals.show_approval(client, approval_id, terminal, output))


@app.command("decide")
def decide(
    approval_id: ApprovalId,
    allow: Annotated[bool, typer.Option("--allow/--deny", help="What you decide.")],
    reason: Annotated[str, typer.Option(help="The agent reads it where the call is denied.")] = "",
    for_task: Annotated[bool, typer.Option("--for-task", help="Allow the same for the rest of the task.")] = False,
    edited_args: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Allow it with these arguments instead of those that show prints."),
    ] = None,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Allow a call, also with other arguments, or deny it."""
    from agent.api.schemas import Decision
    from agent.cli import approvals
    from agent.cli.terminal import open_terminal

    if for_task and not allow:
        raise Failure(ExitCode.USAGE, "--for-task goes with --allow alone", "leave it out")
    terminal = open_terminal(no_color=no_color)
    decision = Decision(
        decision="allow" if allow else "deny",
        scope="task" if for_task else "once",
        reason=reason[:2000],
        edited_args=edited_args,
    )
    with_client(server, lambda client: approvals.decide(client, approval_id, decision, terminal))
