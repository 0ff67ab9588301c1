"""``mimo push``: what is here, uncommitted changes and the conversation included, becomes a task of a service."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agent.api.repos import RepoList
from agent.cli.arguments import invalid
from agent.cli.chat.folders import list_conversations
from agent.cli.chat.record import said_in
from agent.cli.checkout import default_checks, excludes_of, top_directory
from agent.cli.client import Client
from agent.cli.failure import ExitCode, Failure
from agent.cli.handed import Handed, HandedOver, git_dir_of
from agent.cli.terminal import Terminal
from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.integrations.remote import place_of
from agent.patch import TaskRepository
from agent.repository import prepare_repository
from agent.types import Check, TaskRequest


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The command line of ``mimo push``."""

    text: str
    root: Path
    server: str
    repository: str | None
    """Name of the service's repository; None finds it by the checkout's remotes."""
    conversation: str | None
    """Id; None is the newest about the checkout."""
    alone: bool
    """Push no conversation."""
    checks: tuple[str, ...]


async def push(client: Client, options: PushOptions, home: Path, terminal: Terminal) -> None:
    """Submit the task; its id goes to standard output.

    Raises:
        Failure: the checkout, or the conversation, cannot be handed over.
    """
    handed_over = HandedOver(home / "pushed")
    folder = handed_over.new()
    try:
        handed = await _push(client, options, home, folder, terminal)
        handed_over.keep(folder, handed)
    except (RepositoryError, GitError) as error:
        raise Failure(ExitCode.USAGE, str(error), "call mimo push in a git checkout with a commit") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    terminal.note(f"Handed over as {handed.task_id}. Bring it back with: mimo pull {handed.task_id}")
    terminal.result(handed.task_id)


async def _push(client: Client, options: PushOptions, home: Path, folder: Path, terminal: Terminal) -> Handed:
    root = await top_directory(options.root)
    name = options.repository or await _known_as(client, root)
    commit = await _newest_on_host(root) if name else "HEAD"
    base = await prepare_repository(root, commit, git_dir_of(folder))
    files = TaskRepository(git_dir_of(folder))
    tree = await files.tree_of(root, base.tree, await excludes_of(root))
    conversation = None if options.alone else _conversation(home, root, options.conversation)
    said = await said_in(conversation) if conversation else []
    checks = options.checks or (() if name else await default_checks(root, base.commit))
    try:
        request = TaskRequest(
            repository=name or str(root),
            base_commit=base.commit,
            changes=await files.patch(base.tree, tree),
            problem_statement=options.text,
            conversation=tuple(said),
            checks=tuple(Check(command=command) for command in checks),
        )
    except ValidationError as error:
        raise invalid(error) from error
    changed = len(await files.names(base.tree, tree))
    terminal.note(f"{name or root} at {base.commit[:12]}, {changed} changed or new files, {len(said)} messages.")
    task = await client.submit(request)
    return Handed(
        task_id=task.id,
        server=options.server,
        root=root,
        base=base.tree,
        tree=tree,
        conversation=conversation.name if conversation else None,
        text=options.text,
    )


def _conversation(home: Path, root: Path, wanted: str | None) -> Path | None:
    """The folder of the conversation; None where nothing was said yet."""
    found = list_conversations(home / "conversations", None if wanted else root)
    if wanted is None:
        return found[0].folder if found else None
    for listed in found:
        if listed.folder.name == wanted:
            return listed.folder
    raise Failure(ExitCode.USAGE, f"there is no conversation {wanted}", "mimo --resume list shows those there are")


async def _known_as(client: Client, root: Path) -> str | None:
    """What the service calls the checkout's repository; None where it has none of the checkout's remotes."""
    try:
        listing = await git("config", "--get-regexp", r"^remote\..*\.url$", cwd=root)
    except GitError:
        return None  # No remotes.
    mine = {place_of(line.partition(" ")[2]) for line in listing.decode("utf-8", "replace").splitlines()} - {None}
    repos = (await client.ask(RepoList, "GET", "/v1/repos")).repos
    return next((repo.name for repo in repos if place_of(repo.url) in mine), None)


async def _newest_on_host(root: Path) -> str:
    """The newest commit behind HEAD that a remote has, as far as is known here."""
    mine = (await git("rev-list", "--boundary", "HEAD", "--not", "--remotes", cwd=root)).decode().split()
    if not mine:
        return "HEAD"
    there = [line.removeprefix("-") for line in mine if line.startswith("-")]
    if not there:
        raise RepositoryError("no commit of this checkout is known to be on its host. Push one with git, or git fetch")
    return there[0]
