"""Patches as the page shows them: every kind of change that git can write."""

import subprocess
from pathlib import Path

import pytest

from agent.api.web.changes import LINES_PER_FILE, changes

pytestmark = pytest.mark.anyio


def _git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)
    return done.stdout.decode()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _git(tmp_path, "init", "-q")
    for name, text in (("kept.py", "a = 1\nb = 2\nc = 3\n"), ("old.txt", "same\n" * 9), ("run.sh", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "gone.txt").write_text("gone\n")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-q", "-m", "before")
    return tmp_path


def _patch(repository: Path) -> str:
    _git(repository, "add", "-A")
    return _git(repository, "diff", "--cached", "--binary", "-M")


async def test_lines_carry_their_numbers_before_and_after(repository: Path) -> None:
    (repository / "kept.py").write_text("a = 1\nb = 4\nc = 3\nd = 5")

    [file] = await changes(_patch(repository))

    shown = [
        (line.kind, line.before, line.after, line.text) for line in file.lines if line.kind not in ("hunk", "note")
    ]
    assert shown == [
        ("kept", 1, 1, "a = 1"),
        ("removed", 2, None, "b = 2"),
        ("added", None, 2, "b = 4"),
        ("kept", 3, 3, "c = 3"),
        ("added", None, 4, "d = 5"),
    ]
    assert file.lines[-1].text == "No newline at end of file"


async def test_every_kind_of_change_has_its_own_file(repository: Path) -> None:
    (repository / "old.txt").rename(repository / "new name.txt")
    (repository / "gone.txt").unlink()
    (repository / "run.sh").chmod(0o755)
    (repository / "größe \t.bin").write_bytes(bytes(range(256)))
    (repository / "empty").touch()
    (repository / "link").symlink_to("kept.py")

    files = await changes(_patch(repository))

    found = {file.change.path: (file.change.added, file.change.removed, file.change.binary) for file in files}
    assert found == {
        "empty": (0, 0, False),
        "gone.txt": (0, 1, False),
        "größe \t.bin": (0, 0, True),
        "link": (1, 0, False),
        "new name.txt": (0, 0, False),
        "run.sh": (0, 0, False),
    }
    notes = {file.change.path: [line.text for line in file.lines if line.kind == "note"] for file in files}
    assert notes["new name.txt"] == ["rename from old.txt", "rename to new name.txt"]
    assert notes["run.sh"] == ["old mode 100644", "new mode 100755"]


async def test_lines_that_look_like_a_patch_are_lines(repository: Path) -> None:
    text = "diff --git a/x b/x\n@@ -1 +1 @@\n--- a\n+++ b\n"
    (repository / "kept.py").write_text(text)

    [file] = await changes(_patch(repository))

    assert [line.text for line in file.lines if line.kind == "added"] == text.splitlines()


async def test_a_long_file_is_counted_and_not_shown_whole(repository: Path) -> None:
    (repository / "long.txt").write_text("line\n" * 5000)

    [file] = await changes(_patch(repository))

    assert len(file.lines) == LINES_PER_FILE
    assert len(file.lines) + file.num_hidden == 5000 + 2  # and that the file is new, and where its lines are


async def test_no_patch_has_no_files() -> None:
    assert await changes("") == ()
