"""``mimo login``, ``mimo logout`` and ``mimo whoami``."""

import os
from typing import Annotated

import typer

from agent.cli.options import LOCAL_SERVICE, FormatAs, NoColor, Server
from agent.cli.output import Format
from agent.cli.session import complete, with_client


def login(
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Read an API key from standard input instead of signing in.")
    ] = False,
    server: Server = LOCAL_SERVICE,
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
        complete(sign_in(server, Credentials(home(os.environ)), terminal, with_key=with_key))
    except (ServiceProblem, ServiceUnreachable) as error:
        raise failure(error) from error


def logout(server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget the login to a service."""
    from agent.cli.credentials import Credentials
    from agent.cli.home import home
    from agent.cli.login import logout as sign_out
    from agent.cli.terminal import open_terminal

    sign_out(server, Credentials(home(os.environ)), open_terminal(no_color=no_color))


def whoami(server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """Show whom a service takes you for, and what you may do."""
    from agent.cli.login import whoami as introduce
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: introduce(client, terminal, as_json=output is Format.JSON))
