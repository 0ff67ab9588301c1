"""``mimo repo``: the repositories on git hosts that a project works on; and ``mimo task pr``."""

from pydantic import ValidationError
from rich.table import Table

from agent.api.pull_requests import PullRequestView, PullRequestWanted
from agent.api.repos import NewRepo, RepoList
from agent.cli.arguments import invalid
from agent.cli.client import Client
from agent.cli.output import Format
from agent.cli.terminal import Terminal, one_line
from agent.store.repos import Repo


async def add(client: Client, terminal: Terminal, given: dict[str, object]) -> None:
    """Add one; ``given`` are fields of ``NewRepo``, None where the user says nothing."""
    try:
        new = NewRepo.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise invalid(error, {"default_branch": "--branch"}) from error
    repo = await client.ask(Repo, "POST", "/v1/repos", new)
    terminal.note(f"Added {repo.name}: {repo.url}, branch {repo.default_branch}.")


async def list_repos(client: Client, terminal: Terminal, output: Format) -> None:
    found = await client.ask(RepoList, "GET", "/v1/repos")
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
        return
    if not found.repos:
        terminal.note("No repositories; add one with mimo repo add NAME URL.")
        return
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "branch", "address"):
        rows.add_column(heading, no_wrap=True)
    for repo in found.repos:
        rows.add_row(repo.name, repo.default_branch, one_line(repo.url, 100))
    terminal.out.print(rows)


async def show(client: Client, name: str, terminal: Terminal) -> None:
    repo = await client.ask(Repo, "GET", f"/v1/repos/{name}")
    terminal.result(repo.model_dump_json(indent=2))


async def remove(client: Client, name: str, terminal: Terminal) -> None:
    await client.ask(None, "DELETE", f"/v1/repos/{name}")
    terminal.note(f"Removed {name}.")


async def pull_request(client: Client, task_id: str, wanted: PullRequestWanted, terminal: Terminal) -> None:
    """Open a pull request for a task's patch; its address goes to standard output."""
    made = await client.ask(PullRequestView, "POST", f"/v1/tasks/{task_id}/pull_request", wanted)
    terminal.note(f"{'Opened' if made.created else 'There is'} #{made.number}, from {made.branch}.")
    terminal.result(made.url)
