"""``mimo push`` and ``mimo pull``: from here to a service, and back."""

import os
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import LOCAL_SERVICE, Checks, NoColor, Repo, Server
from agent.cli.session import with_client


def push(
    problem: Annotated[str, typer.Argument(help="What is to be done there.")] = "Go on.",
    repo: Repo = Path(),
    name: Annotated[str | None, typer.Option("--as", help="The service's repository. Default: by its address.")] = None,
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="Default: the newest one here.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Push the files, and no conversation.")] = False,
    check: Checks = None,
    server: Server = LOCAL_SERVICE,
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
    with_client(server, lambda client: execute(client, options, home(os.environ), terminal))


def pull(
    task_id: Annotated[str | None, typer.Argument(metavar="TASK", help="Default: the newest push.")] = None,
    repo: Repo = Path(),
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="The newest push of this one.")] = None,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Bring what a task changed into the checkout, and into the conversation that was pushed with it."""
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.pull import pull as execute
    from agent.cli.pull import pushed_from
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    root = arguments.directory(repo)
    wanted = task_id or pushed_from(conversation, home(os.environ))
    with_client(server, lambda client: execute(client, wanted, root, home(os.environ), terminal))
