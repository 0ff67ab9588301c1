"""The files of one run: what it starts from, kept on the host, and a copy of them inside a sandbox."""

import asyncio
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from agent.patch import TaskRepository
from agent.repository import Base, prepare_repository
from agent.types import Snapshot
from sandbox.checkpoints.rewindable import Rewindable
from sandbox.checkpoints.store import CheckpointStore
from sandbox.errors import CheckpointDamaged, SandboxRejected, UnknownCheckpoint
from sandbox.types import Sandbox

_MAX_BYTES = 512 * 1024 * 1024


class Workspace:
    """Puts trees into sandboxes and takes them out again. The sandbox's own git is never believed."""

    def __init__(self, base: Base, repository: TaskRepository, checkpoints: Path) -> None:
        """
        Args:
            checkpoints: folder for whole work trees, of this run alone: whoever may add to it can read from it.
        """
        self.base = base
        self.repository = repository
        self._folder = checkpoints

    @classmethod
    async def open(
        cls, path: Path, commit: str, git_dir: Path, checkpoints: Path, *, uncommitted: bool = False, changes: str = ""
    ) -> Self:
        """The files of ``commit``, with a patch, in the task's git directory; made by the first run that asks.

        Raises:
            RepositoryError: the repository or the commit cannot be used; the message says what to do.
        """
        base = await prepare_repository(path, commit, git_dir, uncommitted=uncommitted, changes=changes)
        return cls(base, TaskRepository(git_dir), checkpoints)

    async def restore(self, sandbox: Sandbox, kept: Snapshot) -> bool:
        """Fill the empty ``/workspace`` of a sandbox with what it held then.

        False where the checkpoint is not here, such as on another machine: then it is what a patch would hold, as a
        repository whose one commit is the base.
        """
        if kept.checkpoint is not None and isinstance(sandbox, Rewindable):
            with suppress(UnknownCheckpoint, CheckpointDamaged):  # raised before anything changes
                await sandbox.restore(self._checkpoints(), kept.checkpoint)
                return True
        await sandbox.upload(await self.repository.archive(kept.tree, self.base.tree))
        return False

    async def snapshot(self, sandbox: Sandbox) -> Snapshot:
        """Keep ``/workspace`` as it is now.

        Raises:
            SandboxRejected: it is too large to be kept.
        """
        if isinstance(sandbox, Rewindable):
            with suppress(SandboxRejected):  # something writes to it all the time; an archive is made all the same
                store = self._checkpoints()
                checkpoint = await sandbox.checkpoint(store, max_bytes=_MAX_BYTES)
                unpack = partial(store.export, checkpoint)
                return Snapshot(await self.repository.snapshot_of(unpack, self.base.tree), checkpoint)
        archive = await sandbox.download(max_bytes=_MAX_BYTES)
        return Snapshot(await self.repository.snapshot(archive, self.base.tree))

    async def patch(self, tree: str) -> str:
        """What ``tree`` changes against the base."""
        return await self.repository.patch(self.base.tree, tree)

    async def text(self, tree: str, path: str) -> str | None:
        """What a text file below ``/workspace`` holds in ``tree``; None where there is no such file."""
        return await self.repository.text(tree, path.removeprefix("/workspace/"))

    async def forget(self) -> None:
        """The run has ended: its whole work trees are of no more use."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self._folder)
