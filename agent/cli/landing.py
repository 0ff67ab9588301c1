"""A task's patch comes into a checkout: whole or not at all, and never over what its user has not committed."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agent.errors import GitError
from agent.git import git

_APPLY = ("apply", "--whitespace=nowarn")


class PatchRefused(Exception):
    """The files were left as they were; says why, and what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of a patch."""

    files: tuple[str, ...]
    """Those that were changed; none where they held the patch already."""
    merged: bool = False
    """The files were not those the patch was made for."""


async def land(patch: bytes, root: Path) -> Landed:
    """Apply a patch to the files of the checkout ``root``; its index and commits stay as they are.

    Raises:
        PatchRefused: files of the patch have uncommitted changes, or it does not fit, or this is no checkout.
    """
    try:
        files = await _files(patch, root)
        changed = await _changed(root)
    except GitError as error:
        raise PatchRefused(
            f"{root} takes no patch ({error})", "call it in a git checkout, or name one with --repo"
        ) from error
    if mine := sorted(changed.intersection(files)):
        if await _fits(patch, root, "--reverse"):
            return Landed(())
        some = ", ".join(mine[:3]) + (f" and {len(mine) - 3} more" if len(mine) > 3 else "")
        raise PatchRefused(
            f"the patch changes what is not committed here: {some}; nothing was applied",
            "commit these changes or put them aside (git stash), then apply again",
        )
    if await _fits(patch, root):
        await _apply(patch, root)
        return Landed(files)
    merged = await _merged(patch, root)
    if merged:
        files = await _files(merged, root)
        await _apply(merged, root)
    return Landed(files if merged else (), merged=bool(merged))


async def _files(patch: bytes, root: Path) -> tuple[str, ...]:
    listing = await git("apply", "--numstat", "-z", "-", cwd=root, stdin=patch)
    return tuple(os.fsdecode(line.split(b"\t", 2)[2]) for line in listing.split(b"\0")[:-1])


async def _changed(root: Path) -> set[str]:
    listing = await git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", cwd=root)
    return {os.fsdecode(entry[3:]) for entry in listing.split(b"\0")[:-1]}


async def _fits(patch: bytes, root: Path, *options: str) -> bool:
    try:
        await git(*_APPLY, "--check", *options, "-", cwd=root, stdin=patch)
    except GitError:
        return False
    return True


async def _apply(patch: bytes, root: Path) -> None:
    try:
        await git(*_APPLY, "-", cwd=root, stdin=patch)
    except GitError as error:
        raise PatchRefused(
            f"the patch cannot be written ({error})", "see which of its files stand in the way"
        ) from error


async def _merged(patch: bytes, root: Path) -> bytes:
    """The patch as HEAD needs it, found in an index of its own; empty where HEAD has all of it.

    Git needs the files that the patch was made for: the task's base commit.
    """
    with tempfile.TemporaryDirectory(prefix="mimo-") as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        try:
            await git("read-tree", "HEAD", cwd=root, environment=index)
            await git(*_APPLY, "--3way", "--cached", "-", cwd=root, environment=index, stdin=patch)
            tree = (await git("write-tree", cwd=root, environment=index)).decode().strip()
        except GitError as error:
            raise PatchRefused(
                f"the patch and the commits since it changed the same lines ({error}); nothing was applied",
                "with conflict markers in the files: mimo task diff TASK | git apply --3way",
            ) from error
        options = ("--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv")
        return await git("diff", *options, "HEAD", tree, cwd=root)
