"""``mimo config``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import FormatAs, Repo
from agent.cli.output import Format

if TYPE_CHECKING:
    from agent.cli.settings import Loaded

app = typer.Typer(
    help="What the configuration files say, and changes of yours.", no_args_is_help=True, rich_markup_mode=None
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Such as mode, or mcp_servers.NAME.timeout_s.")]


@app.command("show")
def show(
    repo: Repo = Path(),
    origin: Annotated[bool, typer.Option("--origin", help="Also where each value comes from.")] = False,
    output: FormatAs = Format.TEXT,
) -> None:
    """Show every setting with its value, files and environment taken together."""
    from agent.cli.settings import listing

    typer.echo(listing(_load(repo), origin=origin, as_json=output is Format.JSON))


@app.command("get")
def get(key: Key, repo: Repo = Path()) -> None:
    """Print one setting's value, files and environment taken together; nothing where it has none."""
    from agent.cli.config_file import value_of

    typer.echo(value_of(_load(repo).settings, key))


@app.command("set")
def put(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As TOML would have it; a bare word is a string.")],
) -> None:
    """Write a setting into your config.toml, whose comments stay."""
    from agent.cli import config_file
    from agent.cli.settings import load, user_file
    from agent.cli.terminal import open_terminal

    path = user_file(os.environ)
    config_file.put(path, key, value)
    loaded = load(os.environ)
    terminal = open_terminal()
    terminal.note(f"{key} is set in {path}.")
    if (origin := loaded.origins[key.split(".")[0]].name) != str(path):
        terminal.note(f"{origin} is set too, and wins.")


@app.command("unset")
def unset(key: Key) -> None:
    """Take a setting out of your config.toml."""
    from agent.cli import config_file
    from agent.cli.settings import user_file
    from agent.cli.terminal import open_terminal

    path = user_file(os.environ)
    gone = config_file.remove(path, key)
    open_terminal().note(f"{key} is {'no more' if gone else 'not'} in {path}.")


def _load(repo: Path) -> "Loaded":
    from agent.cli import arguments
    from agent.cli.home import home
    from agent.cli.settings import Trust, load

    root = arguments.directory(repo).resolve()
    return load(os.environ, root if Trust(home(os.environ)).decided(root) else None)
