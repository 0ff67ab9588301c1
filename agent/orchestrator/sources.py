"""Where the files of a task come from: a path of this machine, a git host, or the task it was forked from."""

import asyncio
from pathlib import Path

from agent.errors import RepositoryError
from agent.integrations.remotes import RemoteCache
from agent.repository import inherit_repository, is_prepared
from agent.store.base import Claim


class Sources:
    """Of the tasks of one folder."""

    def __init__(self, folder: Path, remotes: RemoteCache | None) -> None:
        """
        Args:
            folder: has the git directory of each task.
            remotes: fetches what tasks name of git hosts; None where they name paths only.
        """
        self._folder = folder
        self._remotes = remotes

    def git_dir(self, task_id: str) -> Path:
        """The task's own; prepared from its source by the first worker that has it."""
        return self._folder / f"{task_id}.git"

    async def find(self, claim: Claim) -> Path:
        """The git directory, or checkout, that holds the commit of the claimed task.

        Raises:
            RepositoryError: it cannot be had.
        """
        own, name = self.git_dir(claim.task.id), claim.task.request.repository
        for event in claim.events:
            if event.type == "run.forked":
                await asyncio.to_thread(inherit_repository, self.git_dir(event.body["task_id"]), own)
        if is_prepared(own):
            return own
        if not name.startswith("/"):
            if self._remotes is None:
                raise RepositoryError(f"{name!r} is no path, and repositories of git hosts are not known here")
            return await self._remotes.fetch(claim.task.project_id, name, claim.task.request.base_commit)
        if self._is_ours(Path(name)):
            raise RepositoryError(f"{name} belongs to the service, which keeps the files of all projects there")
        return Path(name)

    def _is_ours(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._folder.resolve())
