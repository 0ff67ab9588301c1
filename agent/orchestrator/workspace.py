"""The files of one run: what it starts from, kept on the host, and a copy of them inside a sandbox."""

from pathlib import Path
from typing import Self

from agent.patch import TaskRepository
from agent.repository import Base, prepare_repository
from sandbox.types import Sandbox


class Workspace:
    """Puts trees into sandboxes and takes them out again. The sandbox's own git is never believed."""

    def __init__(self, base: Base, repository: TaskRepository) -> None:
        self.base = base
        self.repository = repository

    @classmethod
    async def open(cls, path: Path, commit: str, git_dir: Path, *, uncommitted: bool = False) -> Self:
        """The files of ``commit``, in the task's git directory; made by the first run that asks.

        Raises:
            RepositoryError: the repository or the commit cannot be used; the message says what to do.
        """
        base = await prepare_repository(path, commit, git_dir, uncommitted=uncommitted)
        return cls(base, TaskRepository(git_dir))

    async def restore(self, sandbox: Sandbox, tree: str) -> None:
        """Fill the empty ``/workspace`` of a sandbox, as a repository whose one commit is the base."""
        await sandbox.upload(await self.repository.archive(tree, self.base.tree))

    async def snapshot(self, sandbox: Sandbox) -> str:
        """Git tree id of ``/workspace`` as it is now.

        Raises:
            SandboxRejected: it is too large to be kept.
        """
        return await self.repository.snapshot(await sandbox.download(), self.base.tree)

    async def patch(self, tree: str) -> str:
        """What ``tree`` changes against the base."""
        return await self.repository.patch(self.base.tree, tree)
