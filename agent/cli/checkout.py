"""The user's checkout, before a task is made of it."""

from pathlib import Path

import anyio

from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.patch import is_test

DEFAULT_CHECK = "python -m pytest -q"
"""Runs where no check is given and the commit has test files."""

NOTHING_PROVES = "No --check is given and the commit has no tests: nothing will prove the patch."


async def top_directory(path: Path) -> Path:
    """The checkout's top directory, also where a directory inside it is given; otherwise ``path`` itself.

    Raises:
        RepositoryError: it is no directory.
    """
    if not await anyio.Path(path).is_dir():
        raise RepositoryError(f"{path} is not a directory. Give the path of a git repository with --repo")
    try:
        root = (await git("rev-parse", "--show-toplevel", cwd=path)).decode(errors="surrogateescape").strip("\n")
    except GitError:
        return path  # Bare, or no repository at all: the next check knows and says.
    return Path(root)


async def excludes_of(root: Path) -> Path:
    """The file with what git ignores in this checkout alone."""
    answer = await git("rev-parse", "--path-format=absolute", "--git-path", "info/exclude", cwd=root)
    return Path(answer.decode(errors="surrogateescape").strip("\n"))


async def default_checks(root: Path, commit: str) -> tuple[str, ...]:
    """What proves a patch where the user does not say: the commit's tests, if it has any."""
    try:
        names = await git("ls-tree", "-r", "-z", "--name-only", "--full-tree", "--end-of-options", commit, cwd=root)
    except GitError:
        return ()  # Whoever uses the commit will say what is wrong with it.
    return (DEFAULT_CHECK,) if any(map(is_test, names.split(b"\0")[:-1])) else ()
