"""A task as a plain git repository, as a user would have it."""

import asyncio
from pathlib import Path

from agent.git import git
from evals.types import EvalTask

_SOMEBODY = {
    "GIT_AUTHOR_NAME": "Somebody",
    "GIT_AUTHOR_EMAIL": "somebody@localhost",
    "GIT_AUTHOR_DATE": "2025-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "Somebody",
    "GIT_COMMITTER_EMAIL": "somebody@localhost",
    "GIT_COMMITTER_DATE": "2025-01-01T00:00:00Z",
}
"""Fixed, so that a task has the same commit everywhere."""


async def write_repository(task: EvalTask, root: Path) -> str:
    """Make a checkout with one commit at ``root``, which does not exist yet; returns the commit's id.

    It holds what the agent may see, and nothing else.

    Raises:
        GitError: git is not installed, or the disk is full.
    """
    await asyncio.to_thread(_write, task.files, root)
    await git("init", "--quiet", "--template=", "--initial-branch=main", cwd=root)
    await git("add", "--all", cwd=root)
    await git("commit", "--quiet", "--message", "Everything so far", cwd=root, environment=_SOMEBODY)
    return (await git("rev-parse", "HEAD", cwd=root)).decode().strip()


def _write(files: dict[str, str], root: Path) -> None:
    root.mkdir(parents=True)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
