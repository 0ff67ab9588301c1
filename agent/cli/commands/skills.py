"""``mimo skill``."""

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import LOCAL_SERVICE, FormatAs, NoColor, Server
from agent.cli.output import Format
from agent.cli.session import with_client

app = typer.Typer(help="What a service's agents can read up on.", no_args_is_help=True, rich_markup_mode=None)

SkillNamed = Annotated[str, typer.Argument(metavar="NAME", help="As its SKILL.md says.")]


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A SKILL.md, or the folder that holds it.")],
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of the one of this name.")] = False,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Teach the agents of the project something, for runs that begin from now on."""
    from agent.cli import skill
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    new = skill.read_skill(file)
    with_client(server, lambda client: skill.add(client, terminal, new, replace=replace))


@app.command("list")
def list_all(server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the project's skills."""
    from agent.cli import skill
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: skill.list_skills(client, terminal, output))


@app.command("show")
def show(
    name: SkillNamed, server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False
) -> None:
    """Print a skill, as SKILL.md or as JSON."""
    from agent.cli import skill
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: skill.show(client, name, terminal, output))


@app.command("remove")
def remove(name: SkillNamed, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget a skill."""
    from agent.cli import skill
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: skill.remove(client, name, terminal))
