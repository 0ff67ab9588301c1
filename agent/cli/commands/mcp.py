"""``mimo mcp``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import NoColor, Repo
from agent.cli.session import complete

if TYPE_CHECKING:
    from agent.cli.settings import Settings

app = typer.Typer(help="Other programs whose tools the agent may call.", no_args_is_help=True, rich_markup_mode=None)

ServerName = Annotated[str, typer.Argument(metavar="NAME", help="As in [mcp_servers.NAME] of config.toml.")]


def _settings(repo: Path) -> "Settings":
    """What the files say; a folder's own only where the user trusts it."""
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.settings import Trust, load

    root = arguments.directory(repo).resolve()
    return load(os.environ, root if Trust(home(os.environ)).decided(root) else None).settings


@app.command("list")
def list_all(repo: Repo = Path(), no_color: NoColor = False) -> None:
    """List the servers that the configuration names."""
    from agent.cli.mcp import list_servers
    from agent.cli.terminal import open_terminal

    list_servers(_settings(repo), open_terminal(no_color=no_color))


@app.command("login")
def login(name: ServerName, repo: Repo = Path(), no_color: NoColor = False) -> None:
    """Sign in to a server with a browser on this machine."""
    import webbrowser

    from agent.cli.home import home
    from agent.cli.mcp import login
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    complete(login(name, _settings(repo), home(os.environ), terminal, webbrowser.open))


@app.command("logout")
def logout(name: ServerName, repo: Repo = Path(), no_color: NoColor = False) -> None:
    """Forget the sign-in to a server."""
    from agent.cli.home import home
    from agent.cli.mcp import logout
    from agent.cli.terminal import open_terminal

    logout(name, _settings(repo), home(os.environ), open_terminal(no_color=no_color))
