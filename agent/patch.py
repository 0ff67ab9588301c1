"""What changed since the base commit, computed by git on the host, in a bare git directory of ours per task.

The work tree in a sandbox is hostile: it comes out as an archive, is unpacked without its ``.git``, and becomes a git
tree here. Bytes are kept as they are: no filter, line-ending or keyword rule of the repository applies, on the way in
(``info/attributes``) or out (archives are built from blobs, not by ``git archive``).
"""

import asyncio
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.errors import GitError, RepositoryError
from agent.git import git
from sandbox.archive import unpack_hostile

_EXCLUDED = """\
__pycache__/
*.py[co]
.pytest_cache/
.mypy_cache/
.ruff_cache/
.hypothesis/
*.egg-info/
.coverage
"""
"""What tools leave behind and no patch should hold, unless the base commit has it."""

_RAW = "* -text -eol -ident -filter -working-tree-encoding\n"

_IDENTITY = {
    "GIT_AUTHOR_NAME": "mimo",
    "GIT_AUTHOR_EMAIL": "mimo@localhost",
    "GIT_AUTHOR_DATE": "2025-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "mimo",
    "GIT_COMMITTER_EMAIL": "mimo@localhost",
    "GIT_COMMITTER_DATE": "2025-01-01T00:00:00Z",
}
"""Fixed, so that the same tree is the same commit in every sandbox."""

_LINK = "120000"
_EXECUTABLE = "100755"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a git tree."""

    mode: str
    """Git's: 100644, 100755 (executable), 120000 (symbolic link), 160000 (submodule)."""
    blob: str
    path: bytes


class TaskRepository:
    """The git directory of one task, made by ``agent.repository.prepare_repository``."""

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir

    @classmethod
    async def create(cls, git_dir: Path) -> "TaskRepository":
        """A new one without any object; the parent directory exists."""
        await git("init", "--quiet", "--bare", "--template=", str(git_dir), cwd=git_dir.parent)
        (git_dir / "info").mkdir(exist_ok=True)
        (git_dir / "info" / "exclude").write_text(_EXCLUDED, "ascii")
        (git_dir / "info" / "attributes").write_text(_RAW, "ascii")
        return cls(git_dir)

    async def archive(self, tree: str, base_tree: str | None = None) -> bytes:
        """A tar archive of ``tree``. With ``base_tree`` it has a ``.git`` whose only commit holds that tree.

        So ``git diff`` in a sandbox shows what changed, and there is no other commit, branch or remote to read.
        """
        entries = await self.entries(tree)
        blobs = await self._blobs({entry.blob for entry in entries})
        if base_tree is None:
            return await asyncio.to_thread(_tar, entries, blobs, None)
        with self._scratch() as scratch:
            await self._write_checkout(base_tree, scratch)
            return await asyncio.to_thread(_tar, entries, blobs, scratch / ".git")

    async def snapshot(self, archive: bytes, base_tree: str) -> str:
        """Git tree id of a work tree that came out of a sandbox (``Sandbox.download``).

        Untracked files that the work tree's ``.gitignore`` names, and what tools cache, are left out.

        Raises:
            SandboxRejected: the archive breaks a rule, such as its size.
        """
        return await self.snapshot_of(partial(unpack_hostile, archive), base_tree)

    async def snapshot_of(self, unpack: Callable[[Path], None], base_tree: str) -> str:
        """Like :meth:`snapshot`, of what ``unpack`` puts into an empty folder: files, folders and links, for a work
        tree is hostile."""
        with self._scratch() as scratch:
            root = scratch / "tree"
            root.mkdir()
            await asyncio.to_thread(_unpack, unpack, root)
            return await self.tree_of(root, base_tree)

    async def tree_of(self, root: Path, base_tree: str, excludes: Path | None = None) -> str:
        """Git tree id of the directory ``root``; files that ``base_tree`` has are kept even where they are ignored."""
        with self._scratch() as scratch:
            environment = {"GIT_INDEX_FILE": str(scratch / "index"), "GIT_WORK_TREE": str(root)}
            configuration = {"core.excludesFile": str(excludes or os.devnull)}
            await self._git("read-tree", base_tree, environment=environment)
            await self._git("add", "--all", cwd=root, environment=environment, configuration=configuration)
            return (await self._git("write-tree", environment=environment)).decode().strip()

    async def differs(self, root: Path, tree: str, excludes: Path) -> bool:
        """Whether the directory ``root`` holds other files than ``tree``, found without copying any."""
        with self._scratch() as scratch:
            environment = {"GIT_INDEX_FILE": str(scratch / "index"), "GIT_WORK_TREE": str(root)}
            configuration = {"core.excludesFile": str(excludes)}
            await self._git("read-tree", tree, environment=environment)
            options = ("--modified", "--others", "--exclude-standard", "--directory", "--no-empty-directory")
            listing = await self._git(
                "ls-files", *options, cwd=root, environment=environment, configuration=configuration
            )
            return bool(listing)

    async def patch(self, base_tree: str, tree: str) -> str:
        """Unified diff, binary-safe, always valid text; empty where the trees are equal.

        ``git apply`` on the base gives exactly ``tree``. Names outside ASCII are quoted by git. A file whose diff is
        not UTF-8 appears as git's binary patch (base 85), since the text travels in JSON.
        """
        whole = await self._diff(base_tree, tree, (), text=True)
        try:
            return whole.decode("utf-8")
        except UnicodeDecodeError:
            names = (await self._git("diff", "--name-only", "--no-renames", "-z", base_tree, tree)).split(b"\0")[:-1]
            return "".join([await self._file_patch(base_tree, tree, name) for name in names])

    async def with_base_tests(self, tree: str, base_tree: str) -> str:
        """``tree`` with every test file that ``base_tree`` has, as it was there."""
        tests = [entry for entry in await self.entries(base_tree) if is_test(entry.path)]
        lines = b"".join(b"%s %s\t%s\0" % (e.mode.encode(), e.blob.encode(), e.path) for e in tests)
        with self._scratch() as scratch:
            environment = {"GIT_INDEX_FILE": str(scratch / "index")}
            await self._git("read-tree", tree, environment=environment)
            # --replace: the work tree may have a file where the base has a folder of tests.
            restore = ("update-index", "--add", "--replace", "-z", "--index-info")
            await self._git(*restore, environment=environment, stdin=lines)
            return (await self._git("write-tree", environment=environment)).decode().strip()

    async def apply(self, tree: str, patch: str) -> str:
        """Git tree id of ``tree`` with a patch.

        Raises:
            GitError: it does not fit.
        """
        with self._scratch() as scratch:
            environment = {"GIT_INDEX_FILE": str(scratch / "index")}
            await self._git("read-tree", tree, environment=environment)
            if patch:
                apply = ("apply", "--cached", "--whitespace=nowarn", "-")
                await self._git(*apply, environment=environment, stdin=patch.encode())
            return (await self._git("write-tree", environment=environment)).decode().strip()

    async def names(self, old: str, new: str) -> tuple[str, ...]:
        """Files that differ between two trees."""
        listing = await self._git("diff", "--name-only", "--no-renames", "-z", old, new)
        return tuple(os.fsdecode(name) for name in listing.split(b"\0")[:-1])

    async def merge(self, base: str, ours: str, theirs: str) -> str | None:
        """Git tree id of both changes of ``base`` together; None where they change the same lines."""
        first = (await self._git("commit-tree", "-m", "base", base, environment=_IDENTITY)).decode().strip()
        sides = [
            (await self._git("commit-tree", "-m", "side", "-p", first, tree, environment=_IDENTITY)).decode().strip()
            for tree in (ours, theirs)
        ]
        try:
            return (await self._git("merge-tree", "--write-tree", "--no-messages", *sides)).decode().split("\n")[0]
        except GitError:
            return None

    async def _file_patch(self, base_tree: str, tree: str, name: bytes) -> str:
        try:
            return (await self._diff(base_tree, tree, (name,), text=True)).decode("utf-8")
        except UnicodeDecodeError:
            return (await self._diff(base_tree, tree, (name,), text=False)).decode("ascii")

    async def _diff(self, base_tree: str, tree: str, names: tuple[bytes, ...], *, text: bool) -> bytes:
        with self._scratch() as scratch:
            attributes = scratch / "attributes"
            attributes.write_text("" if text else "* -diff\n", "ascii")
            options = ("--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv")
            paths = ("--", *map(os.fsdecode, names)) if names else ()
            configuration = {"core.attributesFile": str(attributes)}
            return await self._git("diff", *options, base_tree, tree, *paths, configuration=configuration)

    async def _write_checkout(self, base_tree: str, root: Path) -> None:
        """``root/.git`` with one commit, its index, and no work tree yet."""
        commit = await self._git("commit-tree", "-m", "base", base_tree, environment=_IDENTITY)
        await git("init", "--quiet", "--template=", "--initial-branch=main", str(root), cwd=root)
        pack = root / ".git" / "objects" / "pack" / "pack"
        await self._git("pack-objects", "--quiet", "--revs", str(pack), stdin=commit)
        checkout = {"GIT_DIR": str(root / ".git")}
        await git("update-ref", "refs/heads/main", commit.decode().strip(), cwd=root, environment=checkout)
        await git("read-tree", base_tree, cwd=root, environment=checkout)
        (root / ".git" / "info").mkdir(exist_ok=True)
        (root / ".git" / "info" / "exclude").write_text(_EXCLUDED, "ascii")

    async def entries(self, tree: str) -> list[Entry]:
        """Every file of a tree.

        Raises:
            RepositoryError: it has names that no checkout may have.
        """
        listing = await self._git("ls-tree", "-r", "-z", "--full-tree", tree)
        entries = [read_entry(line) for line in listing.split(b"\0")[:-1]]
        for entry in entries:
            if any(part.lower() in (b"", b".", b"..", b".git") for part in entry.path.split(b"/")):
                raise RepositoryError(f"the commit holds a file named {entry.path!r}, which git itself would refuse")
        return entries

    async def text(self, tree: str, path: str) -> str | None:
        """What a text file of a tree holds; None where that has no such file."""
        wanted = os.fsencode(path)
        blobs = [entry.blob for entry in await self.entries(tree) if entry.path == wanted and entry.mode != _LINK]
        try:
            return (await self._blobs(blobs))[blobs[0]].decode("utf-8") if blobs else None
        except UnicodeDecodeError:
            return None

    async def _blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        wanted = sorted(ids)
        output = await self._git("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in wanted).encode())
        blobs: dict[str, bytes] = {}
        at = 0
        for blob in wanted:
            head_end = output.index(b"\n", at)
            size = int(output[at:head_end].rsplit(b" ", 1)[1])
            blobs[blob] = output[head_end + 1 : head_end + 1 + size]
            at = head_end + 1 + size + 1
        return blobs

    async def _git(
        self,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        configuration: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> bytes:
        return await git(
            *arguments,
            cwd=cwd or self._git_dir,
            environment={"GIT_DIR": str(self._git_dir), **(environment or {})},
            configuration=configuration,
            stdin=stdin,
        )

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory on the same disk, gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self._git_dir, prefix="scratch-") as scratch:
            yield Path(scratch)


def is_test(path: bytes) -> bool:
    """Whether a file belongs to the tests: the verdict takes it from the base commit."""
    *folders, name = path.split(b"/")
    return b"tests" in folders or re.fullmatch(rb"test_.*\.py|.*_test\.py|conftest\.py", name, re.DOTALL) is not None


def read_entry(line: bytes) -> Entry:
    head, path = line.split(b"\t", 1)
    mode, _, blob = head.decode("ascii").split(" ")
    return Entry(mode, blob, path)


def _unpack(unpack: Callable[[Path], None], root: Path) -> None:
    unpack(root)
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            entry = Path(folder) / name
            link = entry.is_symlink()
            # A repository inside would count as a submodule; git refuses to look at a link of the second name.
            if name.lower() == ".git" or (link and name.lower() == ".gitmodules"):
                if entry.is_dir() and not link:
                    shutil.rmtree(entry)
                    folders.remove(name)
                else:
                    entry.unlink()


def _tar(entries: Iterable[Entry], blobs: Mapping[str, bytes], checkout: Path | None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for entry in entries:
            data = blobs[entry.blob]
            info = tarfile.TarInfo(os.fsdecode(entry.path))
            if entry.mode == _LINK:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.fsdecode(data), 0o777
                tar.addfile(info)
            else:
                info.size, info.mode = len(data), 0o755 if entry.mode == _EXECUTABLE else 0o644
                tar.addfile(info, io.BytesIO(data))
        if checkout is not None:
            tar.add(checkout, ".git")
    return out.getvalue()
