"""``mimo repo``."""

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import LOCAL_SERVICE, Checks, FormatAs, NoColor, Server
from agent.cli.output import Format
from agent.cli.session import with_client

app = typer.Typer(help="Repositories on git hosts.", no_args_is_help=True, rich_markup_mode=None)

RepoNamed = Annotated[str, typer.Argument(metavar="NAME", help="What tasks call it.")]


@app.command("add")
def add(
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
    server: Server = LOCAL_SERVICE,
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
    with_client(server, lambda client: repo.add(client, terminal, given))


@app.command("list")
def list_all(server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the project's repositories."""
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: repo.list_repos(client, terminal, output))


@app.command("show")
def show(name: RepoNamed, server: Server = LOCAL_SERVICE) -> None:
    """Print all of a repository as JSON."""
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal()
    with_client(server, lambda client: repo.show(client, name, terminal))


@app.command("remove")
def remove(name: RepoNamed, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget a repository; nothing on its host changes."""
    from agent.cli import repo
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: repo.remove(client, name, terminal))
