"""Sandboxes whose work tree can be kept outside them and put back."""

from typing import Protocol, runtime_checkable

from sandbox.checkpoints.store import CheckpointStore
from sandbox.types import Sandbox


@runtime_checkable
class Rewindable(Sandbox, Protocol):
    """A sandbox of a backend with :attr:`~sandbox.types.Capability.CHECKPOINTS`.

    A checkpoint holds folders, regular files and symbolic links with their modes and times, also ``.git`` and what git
    ignores. Sockets, pipes and devices are left out, and two names of one file become two files. It says nothing of
    processes: whoever wants one state of the tree lets nothing write to it meanwhile.
    """

    async def checkpoint(self, store: CheckpointStore, path: str = "/workspace", max_bytes: int = 2**30) -> str:
        """Keep the tree as it is now; the checkpoint's id. Only what the store lacks is fetched.

        Raises:
            SandboxRejected: its files are larger than ``max_bytes`` together, they are too many, or they change while
                they are read.
        """

    async def restore(self, store: CheckpointStore, checkpoint: str, path: str = "/workspace") -> None:
        """Make the tree what it was then; what was added since is removed. Only what the sandbox lacks is sent.

        Whatever is raised in the middle, no command runs in this sandbox and no checkpoint is taken of it until a tree
        was restored to its end.

        Raises:
            UnknownCheckpoint, CheckpointDamaged: the store does not have it, or not whole.
            OSError: with ``ENOSPC`` where the disk bound is reached.
        """
