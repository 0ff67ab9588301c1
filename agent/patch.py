"""What changed since the base commit, computed by git on the host, in a git directory of ours."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Base(BaseModel):
    """What a task starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    """Full id in the user's repository."""
    tree: str
    """Git tree id of the starting files, in the task's git directory."""
    dirty: bool
    """The checkout had changes that are in no commit; they are part of ``tree`` only where asked for."""


async def prepare_repository(path: Path, commit: str, git_dir: Path, *, uncommitted: bool = False) -> Base:
    """Copy one commit's files into a new bare git directory of the task. A second call returns the first's answer.

    Args:
        uncommitted: start from the checkout as it is (``commit`` must then be HEAD) instead of from the commit.

    Raises:
        RepositoryError: the repository or the commit cannot be used; the message says what to do.
    """
    raise NotImplementedError


class TaskRepository:
    """The git directory of one task, made by :func:`prepare_repository`."""

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir

    async def archive(self, tree: str, base_tree: str | None = None) -> bytes:
        """A tar archive of ``tree``. With ``base_tree`` it has a ``.git`` whose only commit holds that tree."""
        raise NotImplementedError

    async def snapshot(self, archive: bytes, base_tree: str) -> str:
        """Git tree id of a work tree that came out of a sandbox (``Sandbox.download``).

        Raises:
            SandboxRejected: the archive breaks a rule, such as its size.
        """
        raise NotImplementedError

    async def patch(self, base_tree: str, tree: str) -> str:
        """Unified diff, binary-safe, always valid text; empty where the trees are equal."""
        raise NotImplementedError

    async def with_base_tests(self, tree: str, base_tree: str) -> str:
        """``tree`` with every test file that ``base_tree`` has, as it was there."""
        raise NotImplementedError
