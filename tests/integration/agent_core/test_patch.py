"""Patches of work trees that came out of a sandbox: applied by git they give exactly those trees."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.patch import TaskRepository
from agent.repository import prepare_repository
from sandbox.archive import pack
from sandbox.errors import SandboxRejected
from tests.integration.agent_core.checkouts import Content, checkout, run_git, unpack, write

pytestmark = pytest.mark.anyio

BASE: Mapping[str, Content] = {
    "a.py": "one\ntwo\nthree\n",
    "latin1.txt": "caf\xe9\n".encode("latin-1"),
    "image.bin": bytes(range(256)),
    "crlf.txt": "a\r\nb\r\n",
    "no newline": "x",
    "link": "-> a.py",
    "tests/test_a.py": "assert 1\n",
    "pkg/conftest.py": "base = 1\n",
    "kept.pyc": "committed",
}


class Work:
    """A task's repository and the work tree as an agent left it."""

    def __init__(self, root: Path, repository: TaskRepository, base_tree: str) -> None:
        self.root = root
        self.repository = repository
        self.base_tree = base_tree

    async def tree(self) -> str:
        return await self.repository.snapshot(pack(self.root), self.base_tree)

    async def patch(self) -> str:
        return await self.repository.patch(self.base_tree, await self.tree())


@pytest.fixture
async def work(tmp_path: Path) -> Work:
    root = checkout(tmp_path / "repo", BASE)
    # Committed later, so that the base holds what these rules would change.
    write(root, {".gitattributes": "*.txt text eol=lf\n*.py ident -diff\n"})
    run_git(root, "add", ".gitattributes")
    run_git(root, "commit", "--quiet", "-m", "rules")
    base = await prepare_repository(root, "HEAD", tmp_path / "git")
    repository = TaskRepository(tmp_path / "git")
    return Work(unpack(await repository.archive(base.tree, base.tree), tmp_path / "work"), repository, base.tree)


def files(root: Path) -> dict[str, bytes]:
    found = {}
    for path in root.rglob("*"):
        name = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
        if path.is_symlink():
            found[name] = b"-> " + os.fsencode(path.readlink())
        elif path.is_file() and not name.startswith(".git/"):
            found[name] = (b"x" if os.access(path, os.X_OK) else b"-") + path.read_bytes()
    return found


async def applies(work: Work, tmp_path: Path) -> str:
    """The patch, after git applied it to the base and the result was the work tree."""
    tree = await work.tree()
    patch = await work.repository.patch(work.base_tree, tree)
    assert json.loads(json.dumps(patch).encode("utf-8")) == patch
    fresh = unpack(await work.repository.archive(work.base_tree), tmp_path / "fresh")
    run_git(fresh, "apply", "-", stdin=patch)
    restored = unpack(await work.repository.archive(tree), tmp_path / "restored")
    assert files(fresh) == files(restored)
    return patch


async def test_an_untouched_work_tree_is_the_base_byte_for_byte(work: Work) -> None:
    assert await work.tree() == work.base_tree
    assert await work.patch() == ""
    assert (work.root / "crlf.txt").read_bytes() == b"a\r\nb\r\n"


async def test_every_kind_of_change_survives_the_patch(work: Work, tmp_path: Path) -> None:
    (work.root / "a.py").write_text("one\n2\nthree\n")
    (work.root / "link").unlink()
    (work.root / "no newline").chmod(0o755)
    write(work.root, {"link": "-> elsewhere/../x", "neu/größe.py": "ü\n", "crlf.txt": "a\r\nc\r\n", "empty": ""})
    (work.root / "tests" / "test_a.py").unlink()
    patch = await applies(work, tmp_path)
    assert "-two\n+2\n" in patch
    assert files(tmp_path / "restored") == files(work.root)


async def test_contents_and_names_that_are_not_utf8_survive_the_patch(work: Work, tmp_path: Path) -> None:
    write(work.root, {"latin1.txt": "th\xe9\n".encode("latin-1"), "image.bin": b"\0\xff" * 100, "a.py": "1\n"})
    (work.root / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"\xe9\n")
    (work.root / 'tab\t"quote" \n line').write_bytes(b"x\n")
    patch = await applies(work, tmp_path)
    assert "+1\n" in patch
    assert patch.count("GIT binary patch") == 3
    assert files(tmp_path / "restored") == files(work.root)


async def test_what_tools_leave_behind_is_no_change_unless_the_base_has_it(work: Work) -> None:
    write(work.root, {"__pycache__/a.pyc": "x", ".pytest_cache/v": "x", "kept.pyc": "committed"})
    assert await work.patch() == ""
    write(work.root, {"kept.pyc": "changed"})
    assert "kept.pyc" in await work.patch()


async def test_git_state_of_the_sandbox_has_no_say(work: Work) -> None:
    write(work.root, {"a.py": "changed\n", "sub/b.py": "inner\n"})
    for root in (work.root, work.root / "sub"):
        run_git(root, "init", "--quiet")
        run_git(root, "config", "filter.x.clean", "rm -rf /")
        run_git(root, "add", "--all", "--force", ".")
        run_git(root, "commit", "--quiet", "-m", "hidden")
    (work.root / ".gitmodules").symlink_to("/etc/passwd")
    (work.root / "sub" / ".GIT").write_text("gitdir: /elsewhere")
    patch = await work.patch()
    assert "+changed" in patch
    assert "b/sub/b.py" in patch
    assert "gitdir" not in patch


async def test_a_hostile_work_tree_reads_nothing_outside_and_runs_nothing(work: Work, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (work.root / "tests" / "test_a.py").unlink()
    (work.root / "tests").rmdir()
    (work.root / "tests").symlink_to(tmp_path)
    write(work.root, {".gitattributes": "* filter=x diff=x text working-tree-encoding=UTF-16\n"})
    (work.root / ".gitignore").symlink_to(tmp_path / "secret")
    patch = await work.patch()
    assert "+secret\n" not in patch
    assert f"+{tmp_path}" in patch


async def test_an_archive_that_breaks_a_rule_is_rejected(work: Work) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(SandboxRejected):
        await work.repository.snapshot(out.getvalue(), work.base_tree)


async def test_grading_takes_the_tests_from_the_base(work: Work, tmp_path: Path) -> None:
    (work.root / "tests" / "test_a.py").unlink()
    (work.root / "tests").rmdir()
    write(work.root, {"tests": "a file now", "pkg/conftest.py": "skip everything", "a.py": "fixed", "test_new.py": "1"})
    graded = await work.repository.with_base_tests(await work.tree(), work.base_tree)
    found = files(unpack(await work.repository.archive(graded), tmp_path / "graded"))
    assert found["tests/test_a.py"] == b"-assert 1\n"
    assert found["pkg/conftest.py"] == b"-base = 1\n"
    assert found["a.py"] == b"-fixed"
    assert found["test_new.py"] == b"-1"
