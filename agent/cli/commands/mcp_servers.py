"""``mimo mcp-server``."""

from typing import Annotated

import typer

from agent.cli.options import LOCAL_SERVICE, FormatAs, NoColor, Server
from agent.cli.output import Format
from agent.cli.session import with_client

app = typer.Typer(
    help="Other programs whose tools a service's agents may call.", no_args_is_help=True, rich_markup_mode=None
)

ServerNamed = Annotated[str, typer.Argument(metavar="NAME", help="What agents call it.")]


@app.command("add")
def add(
    name: ServerNamed,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it speaks HTTP.")],
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="Sent with every request; ${SECRET} names a secret. Repeatable."),
    ] = None,
    tool: Annotated[list[str] | None, typer.Option(help="One that agents may call; repeatable. Default: all.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest wait for one answer.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of the one of this name.")] = False,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Let the agents of the project call a server's tools, in runs that begin from now on."""
    from agent.cli import mcp_server
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    new = mcp_server.described(name, url, header or (), tool, timeout)
    with_client(server, lambda client: mcp_server.add(client, terminal, new, replace=replace))


@app.command("list")
def list_all(server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the project's servers."""
    from agent.cli import mcp_server
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: mcp_server.list_servers(client, terminal, output))


@app.command("show")
def show(name: ServerNamed, server: Server = LOCAL_SERVICE) -> None:
    """Print all of a server as JSON."""
    from agent.cli import mcp_server
    from agent.cli.terminal import open_terminal

    terminal = open_terminal()
    with_client(server, lambda client: mcp_server.show(client, name, terminal))


@app.command("remove")
def remove(name: ServerNamed, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget a server."""
    from agent.cli import mcp_server
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: mcp_server.remove(client, name, terminal))
