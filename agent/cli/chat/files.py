"""What the files of a folder were, in a git directory outside it: undone without touching the user's own git.

What git ignores there is neither kept nor ever changed.
"""

import asyncio
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.patch import TaskRepository
from agent.repository import fetch

_GONE = "0" * 40


@dataclass(frozen=True, slots=True)
class Change:
    """A file that differs between two trees."""

    path: str
    mode: str
    """Git's mode afterwards; ``000000`` where the file is gone."""
    blob: str

    @property
    def gone(self) -> bool:
        return self.mode == "000000"


class FileHistory:
    """States of one folder, each a git tree. Use :meth:`open`."""

    def __init__(self, root: Path, git_dir: Path) -> None:
        self.root = root
        self.git_dir = git_dir
        self.trees = TaskRepository(git_dir)
        """The same objects, for who wants archives and patches of them."""
        self._index = asyncio.Lock()
        """Git's index is changed by one at a time."""

    @classmethod
    async def open(cls, root: Path, git_dir: Path) -> "FileHistory":
        """The history of ``root`` in ``git_dir``, which is made where it is missing.

        Raises:
            GitError: there is no git, or the directory cannot be written.
        """
        history = cls(root, git_dir)
        history._unlock()
        if not await anyio.Path(git_dir).exists():
            await TaskRepository.create(git_dir)
        return history

    async def keep(self) -> str:
        """The folder as it is now; the id of its tree. Costs a look at each file, and the bytes of changed ones.

        Raises:
            GitError: a file cannot be read, or the disk is full.
        """
        async with self._index:
            return await self._keep()

    async def put_back(self, tree: str) -> str:
        """Make the folder what it was; the id of what it was until now, so that this too can be undone."""
        async with self._index:
            now = await self._keep()
            await self._git("read-tree", "-u", "--reset", tree)
            return now

    async def bring(self, old: str, new: str) -> tuple[str, ...]:
        """Change the folder as ``old`` was changed to ``new``. Files that the user changed meanwhile stay the user's.

        Returns:
            Those that were changed on both sides, and differently.
        """
        async with self._index:
            now = await self._keep()
            if now == old:
                await self._git("read-tree", "-u", "--reset", new)
                return ()
            mine = {change.path: change for change in await self.changes(old, now)}
            theirs = await self.changes(old, new)
            merged = await self._with(now, [change for change in theirs if change.path not in mine])
            await self._git("read-tree", "-u", "--reset", merged)
        return tuple(change.path for change in theirs if change.path in mine and mine[change.path] != change)

    async def changes(self, old: str, new: str) -> tuple[Change, ...]:
        listing = await self._git("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new)
        fields = listing.split(b"\0")[:-1]
        found = []
        for head, path in zip(fields[::2], fields[1::2], strict=True):
            _, mode, _, blob, _ = head.decode("ascii").split(" ")
            found.append(Change(os.fsdecode(path), mode, blob))
        return tuple(found)

    async def patch(self, old: str, new: str) -> str:
        """Unified diff between two states."""
        return await self.trees.patch(old, new)

    async def _keep(self) -> str:
        self._unlock()
        if not await anyio.Path(self.git_dir, "index").exists():
            await self._take_over()
            await self._add_what_is_tracked()
        await self._git("add", "--all")
        return (await self._git("write-tree")).decode().strip()

    def _unlock(self) -> None:
        """A git that was ended in the middle of something leaves its lock behind. The index is ours alone."""
        (self.git_dir / "index.lock").unlink(missing_ok=True)

    async def _with(self, tree: str, changes: list[Change]) -> str:
        lines = b"".join(
            f"{'0' if change.gone else change.mode} {_GONE if change.gone else change.blob}\t".encode()
            + os.fsencode(change.path)
            + b"\0"
            for change in changes
        )
        with tempfile.TemporaryDirectory(dir=self.git_dir, prefix="merge-") as scratch:
            index = Path(scratch, "index")
            await self._git("read-tree", tree, index=index)
            await self._git("update-index", "--replace", "--add", "-z", "--index-info", stdin=lines, index=index)
            return (await self._git("write-tree", index=index)).decode().strip()

    async def _take_over(self) -> None:
        """What the newest commit has comes as one pack: with 100,000 files, far quicker than a new file for each."""
        wanted = ("--path-format=absolute", "--git-path", "objects", "HEAD:./")
        with suppress(GitError, RepositoryError):  # No repository, no commit, or an incomplete one: all is read here.
            objects, tree = os.fsdecode(await git("rev-parse", *wanted, cwd=self.root)).splitlines()
            await fetch(objects, tree, self.git_dir)

    async def _add_what_is_tracked(self) -> None:
        """Files that the user's git has although it ignores them are as good as the others."""
        try:
            names = await git("ls-files", "-z", "--cached", "--ignored", "--exclude-standard", cwd=self.root)
        except GitError:
            return  # no repository: nothing is tracked
        present = b"\0".join(name for name in names.split(b"\0")[:-1] if self._is_there(name))
        if present:
            await self._git("add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=present)

    def _is_there(self, name: bytes) -> bool:
        return os.path.lexists(self.root / os.fsdecode(name))

    async def _git(self, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> bytes:
        places = {
            "GIT_DIR": str(self.git_dir),
            "GIT_WORK_TREE": str(self.root),
            "GIT_INDEX_FILE": str(index or self.git_dir / "index"),
        }
        quiet = {"advice.addEmbeddedRepo": "false", "index.threads": "1"}
        try:
            return await git(*arguments, cwd=self.root, environment=places, configuration=quiet, stdin=stdin)
        except asyncio.CancelledError:
            self._unlock()
            raise
