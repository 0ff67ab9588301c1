"""Repositories that users might hand in, made by real git."""

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

Content = bytes | str
"""A file's content; a text that begins with ``-> `` is a symbolic link."""


def run_git(root: Path, *arguments: str, stdin: str = "") -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=environment, input=stdin.encode(), check=True, capture_output=True
    )
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def write(root: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def commit(root: Path, message: str = "change") -> str:
    run_git(root, "add", "--all", "--force")
    run_git(root, "commit", "--quiet", "--allow-empty", "-m", message)
    return run_git(root, "rev-parse", "HEAD")


def checkout(root: Path, files: Mapping[str, Content]) -> Path:
    """A repository with one commit."""
    root.mkdir(parents=True, exist_ok=True)
    run_git(root, "init", "--quiet", "-b", "main")
    write(root, files)
    commit(root)
    return root


def unpack(archive: bytes, root: Path) -> Path:
    root.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as tar:
        tar.extractall(root, filter="tar")
    return root
