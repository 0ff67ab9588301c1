"""``mimo config``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import FormatAs, Repo
from agent.cli.output import Format

app = typer.Typer(help="What the configuration files say.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
def show(
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
