"""The history of a folder's files, and which of them can be named."""

import subprocess
from pathlib import Path

import pytest

from agent.cli.chat.entry import list_files
from agent.cli.chat.files import FileHistory

pytestmark = pytest.mark.anyio


def git(root: Path, *arguments: str, stdin: str = "") -> None:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *who, *arguments], cwd=root, input=stdin, text=True, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of twenty files in a folder."""
    root = tmp_path / "project"
    (root / "lib").mkdir(parents=True)
    for number in range(20):
        (root / "lib" / f"{number}.py").write_text(f"print({number})\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Begin")
    return root


@pytest.mark.parametrize("below", ["", "lib"])
async def test_what_is_committed_comes_into_the_history_as_one_pack(root: Path, tmp_path: Path, below: str) -> None:
    (root / "lib" / "0.py").write_text("print('changed')\n")
    history = await FileHistory.open(root / below, tmp_path / "files.git")
    kept = await history.keep()
    single = [path for path in (tmp_path / "files.git" / "objects").glob("??/*") if path.is_file()]
    assert len(single) <= 3, "the changed file, and the folders it is in"
    (root / "lib" / "0.py").unlink()
    (root / "lib" / "1.py").write_text("print('spoilt')\n")
    await history.put_back(kept)
    assert (root / "lib" / "0.py").read_text() == "print('changed')\n"
    assert (root / "lib" / "1.py").read_text() == "print(1)\n"


async def test_a_repository_without_a_commit_has_a_history_too(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "project")
    (tmp_path / "project" / "a.py").write_text("a = 1\n")
    history = await FileHistory.open(tmp_path / "project", tmp_path / "files.git")
    kept = await history.keep()
    (tmp_path / "project" / "a.py").unlink()
    await history.put_back(kept)
    assert (tmp_path / "project" / "a.py").read_text() == "a = 1\n"


async def test_each_of_a_hundred_thousand_files_can_be_named(root: Path) -> None:
    many = "".join(f"100644 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 0\tsrc/{number}.py\n" for number in range(100_000))
    git(root, "update-index", "--add", "--index-info", stdin=many)
    files = await list_files(root)
    assert {f"src/{number}.py" for number in range(100_000)} <= set(files)
