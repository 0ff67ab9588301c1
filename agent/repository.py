"""From a user's repository to the starting point of a task."""

import base64
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.patch import Entry, TaskRepository, read_entry

MAX_UNPACKED_BYTES = 256 * 2**20
"""A packed file of a patch may be a thousand times as large as what came: a worker must not run out of memory."""

_PACKED = re.compile(r"^(literal|delta) \s*\+?(\d{1,19})[^\n]*\n((?:\S+\n)*)", re.MULTILINE | re.ASCII)
"""As git reads it: what follows the number is passed over."""
_SIZES_BYTES = 20
"""The two numbers at the beginning of a delta."""
_SUBMODULE = "160000"
_PREPARED = "base.json"


class Base(BaseModel):
    """What a task starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    """Full id in the user's repository."""
    tree: str
    """Git tree id of the starting files, in the task's git directory."""
    dirty: bool
    """The checkout had changes that are in no commit; they are part of ``tree`` only where asked for."""


async def prepare_repository(
    path: Path, commit: str, git_dir: Path, *, uncommitted: bool = False, changes: str = ""
) -> Base:
    """Copy one commit's files into a new bare git directory of the task. A second call returns the first's answer.

    Args:
        path: a checkout's top directory, or a bare repository. It is only read.
        uncommitted: start from the checkout as it is (``commit`` must then be HEAD) instead of from the commit.
        changes: a patch that is applied to the commit first.

    Raises:
        RepositoryError: the repository or the commit cannot be used; the message says what to do.
        GitError: the task's git directory could not be written.
    """
    prepared = git_dir / _PREPARED
    if not is_prepared(git_dir):
        # Another worker may do the same: whoever renames first wins, and nobody sees half a directory.
        git_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=git_dir.parent, prefix=f".{git_dir.name}.") as scratch:
            new = Path(scratch) / "git"
            base = await _prepare(path, commit, new, uncommitted)
            if changes:
                base = base.model_copy(update={"tree": await _apply(TaskRepository(new), base, changes)})
            (new / prepared.name).write_text(base.model_dump_json(), "utf-8")
            try:
                new.rename(git_dir)
            except OSError:
                if not prepared.exists():
                    raise
    return Base.model_validate_json(prepared.read_bytes())


def is_prepared(git_dir: Path) -> bool:
    """Whether :func:`prepare_repository` needs the repository no more."""
    return (git_dir / _PREPARED).exists()


def inherit_repository(source: Path, git_dir: Path) -> None:
    """Begin a task's git directory as a copy of another task's; one that is there stays as it is.

    Raises:
        RepositoryError: the other one is gone.
    """
    if git_dir.exists():
        return
    if not source.exists():
        raise RepositoryError("the files of the task that this one was forked from are gone")
    with tempfile.TemporaryDirectory(dir=git_dir.parent, prefix=f".{git_dir.name}.") as scratch:
        new = Path(scratch) / "git"
        shutil.copytree(source, new)
        try:
            new.rename(git_dir)
        except OSError:
            if not git_dir.exists():  # else another worker did the same
                raise


async def check_repository(path: Path, commit: str) -> str:
    """Full id of ``commit``; :func:`prepare_repository` can use it, as far as that is known without copying files.

    Raises:
        RepositoryError: the repository or the commit cannot be used; the message says what to do.
    """
    source = await _open(path)
    commit_id = await _resolve(source, commit)
    try:
        listing = await git("ls-tree", "-r", "-z", "--full-tree", commit_id, cwd=source.path)
    except GitError as error:
        raise _incomplete(commit_id, error) from error
    _refuse_submodules([read_entry(line) for line in listing.split(b"\0")[:-1]])
    return commit_id


async def fetch(objects: str, commit: str, git_dir: Path) -> str:
    """Copy the files of a commit, or of a tree, without its history, out of another repository's objects; returns its
    tree.

    Git runs in our directory and borrows the other's objects, so the other's configuration is not read.

    Raises:
        RepositoryError: not all of it is there.
    """
    environment = {"GIT_DIR": str(git_dir), "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(objects)}
    try:
        tree = await git("rev-parse", "--verify", f"{commit}^{{tree}}", cwd=git_dir, environment=environment)
        pack = str(git_dir / "objects" / "pack" / "pack")
        await git("pack-objects", "--quiet", "--revs", pack, cwd=git_dir, environment=environment, stdin=tree)
    except GitError as error:
        raise _incomplete(commit, error) from error
    return tree.decode().strip()


@dataclass(frozen=True, slots=True)
class _Source:
    """A user's repository, as far as we need it."""

    path: Path
    objects: str
    excludes: Path
    checkout: bool
    """It has a work tree, in ``path``."""


async def _prepare(path: Path, commit: str, git_dir: Path, uncommitted: bool) -> Base:
    source = await _open(path)
    commit_id = await _resolve(source, commit)
    repository = await TaskRepository.create(git_dir)
    tree = await fetch(source.objects, commit_id, git_dir)
    _refuse_submodules(await repository.entries(tree))
    head, dirty = await _find(source, "HEAD"), False
    if source.checkout and head is not None:
        head_tree = tree if head == commit_id else await fetch(source.objects, head, git_dir)
        dirty = await repository.differs(source.path, head_tree, source.excludes)
    if uncommitted:
        if not source.checkout or commit_id != head:
            raise RepositoryError(f"uncommitted changes of {path} can only be added to the commit that is checked out")
        tree = await _take_in(source, repository, tree)
    return Base(commit=commit_id, tree=tree, dirty=dirty)


async def _apply(repository: TaskRepository, base: Base, changes: str) -> str:
    size = _unpacked_bytes(changes)
    if size > MAX_UNPACKED_BYTES:
        raise RepositoryError(f"the task's changes unpack to {size} bytes, more than {MAX_UNPACKED_BYTES}")
    try:
        tree = await repository.apply(base.tree, changes)
    except GitError as error:
        raise RepositoryError(f"the task's changes do not fit commit {base.commit}: {error}") from error
    _refuse_submodules(await repository.entries(tree))
    return tree


def _unpacked_bytes(patch: str) -> int:
    """What git makes of a patch's packed files: their hunks say how large they are, before anything is unpacked."""
    sizes = ((kind, int(size), lines) for kind, size, lines in _PACKED.findall(patch))
    return sum(max(size, _target_bytes(lines)) if kind == "delta" else size for kind, size, lines in sizes)


def _target_bytes(lines: str) -> int:
    """Of the file that a delta makes: the second number at its beginning (gitformat-pack, deltified representation)."""
    try:
        packed = b"".join(base64.b85decode(line[1:]) for line in lines.splitlines())
        start = iter(zlib.decompressobj().decompress(packed, _SIZES_BYTES))
        _number(start)
        return _number(start)
    except (ValueError, zlib.error, StopIteration):
        return 0  # It is none, so git refuses it.


def _number(delta: Iterator[int]) -> int:
    """Seven bits a byte, the lowest first, until one has its highest bit clear."""
    number = shift = 0
    while True:
        byte = next(delta)
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number


async def _take_in(source: _Source, repository: TaskRepository, tree: str) -> str:
    """The checkout as it is, on top of ``tree``."""
    try:
        work_tree = await repository.tree_of(source.path, tree, source.excludes)
    except GitError as error:
        raise RepositoryError(f"the files of {source.path} cannot be read: {error}") from error
    _refuse_submodules(await repository.entries(work_tree))
    return work_tree


async def _open(path: Path) -> _Source:
    path = _directory(path)
    wanted = ("--is-inside-work-tree", "--path-format=absolute", "--git-path", "objects", "--git-path", "info/exclude")
    try:
        answer = await git("rev-parse", *wanted, cwd=path, environment={"GIT_CEILING_DIRECTORIES": str(path.parent)})
    except PermissionError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror}") from error
    except GitError as error:
        raise RepositoryError(
            f"{path} is not a git repository ({error}). Give its top directory, or run git init and commit there"
        ) from error
    inside, objects, excludes = os.fsdecode(answer).splitlines()
    return _Source(path, objects, Path(excludes), inside == "true")


def _directory(path: Path) -> Path:
    try:
        if path.is_dir():
            return path.resolve()
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror}") from error
    raise RepositoryError(f"{path} is not a directory. Give the path of a git repository on the service's machine")


async def _resolve(source: _Source, commit: str) -> str:
    found = await _find(source, commit)
    if found is not None:
        return found
    if commit == "HEAD":
        raise RepositoryError(f"{source.path} has no commit yet. Commit its files first")
    raise RepositoryError(
        f"{source.path} has no commit {commit!r}. Give a commit id, branch or tag that git log shows there"
    )


async def _find(source: _Source, commit: str) -> str | None:
    """Full id of a commit; None where there is none of this name."""
    if "\0" in commit:
        return None
    name = f"{commit}^{{commit}}"
    try:
        answer = await git("rev-parse", "--verify", "--quiet", "--end-of-options", name, cwd=source.path)
    except GitError:
        return None
    return answer.decode().strip()


def _incomplete(commit: str, error: GitError) -> RepositoryError:
    return RepositoryError(
        f"the files of commit {commit} cannot all be read ({error}). A partial clone must be completed first: "
        "git fetch --refetch; otherwise try git fsck"
    )


def _refuse_submodules(entries: Iterable[Entry]) -> None:
    paths = [os.fsdecode(entry.path) for entry in entries if entry.mode == _SUBMODULE]
    if paths:
        raise RepositoryError(
            f"the commit has submodules ({', '.join(paths[:5])}), which are not supported. "
            "Give a commit that holds their files itself"
        )


def _quoted(path: str) -> str:
    """A path as an entry of git's list of object directories, where a colon would separate."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
