"""Users' repositories, usable and not: each of the latter is refused with what to do."""

import base64
import os
import zlib
from pathlib import Path

import pytest

from agent.errors import RepositoryError
from agent.patch import TaskRepository
from agent.repository import MAX_UNPACKED_BYTES, Base, prepare_repository
from tests.integration.agent_core.checkouts import checkout, commit, run_git, unpack, write

pytestmark = pytest.mark.anyio


async def names(git_dir: Path, tree: str) -> list[bytes]:
    return [entry.path for entry in await TaskRepository(git_dir).entries(tree)]


async def refusal(path: Path, git_dir: Path, name: str = "HEAD") -> str:
    with pytest.raises(RepositoryError) as caught:
        await prepare_repository(path, name, git_dir)
    assert not {entry.name for entry in git_dir.parent.iterdir() if entry.name.startswith((".git", git_dir.name))}
    return str(caught.value)


async def test_a_commit_is_copied_without_its_history(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"old.py": "1"})
    first = run_git(root, "rev-parse", "HEAD")
    (root / "old.py").unlink()
    write(root, {"a.py": "1", "dir/b.py": "2"})
    second = commit(root)
    base = await prepare_repository(root, "main", tmp_path / "git")
    assert base == Base(commit=second, tree=run_git(root, "rev-parse", "HEAD^{tree}"), dirty=False)
    assert await names(tmp_path / "git", base.tree) == [b"a.py", b"dir/b.py"]
    assert "commit" not in run_git(tmp_path / "git", "cat-file", "--batch-check", "--batch-all-objects")
    assert (await prepare_repository(root, first[:10], tmp_path / "other")).commit == first


async def test_preparing_again_answers_what_was_found_the_first_time(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    base = await prepare_repository(root, "HEAD", tmp_path / "git")
    write(root, {"a.py": "2"})
    commit(root)
    assert await prepare_repository(root, "HEAD", tmp_path / "git") == base


async def test_a_bare_repository_and_a_linked_work_tree_are_usable(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    run_git(root, "clone", "--quiet", "--bare", str(root), str(tmp_path / "bare"))
    run_git(root, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    for path in (tmp_path / "bare", tmp_path / "linked"):
        base = await prepare_repository(path, "HEAD", tmp_path / f"git-{path.name}")
        assert (base.tree, base.dirty) == (run_git(root, "rev-parse", "HEAD^{tree}"), False)


async def test_uncommitted_changes_are_noticed_and_left_out(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1", ".gitignore": "*.log\n"})
    write(root, {"x.log": "ignored", "__pycache__/a.pyc": "cache"})
    assert not (await prepare_repository(root, "HEAD", tmp_path / "clean")).dirty
    write(root, {"new.py": "2"})
    base = await prepare_repository(root, "HEAD", tmp_path / "dirty")
    assert base.dirty
    assert await names(tmp_path / "dirty", base.tree) == [b".gitignore", b"a.py"]


@pytest.mark.parametrize("change", ["edit", "delete", "mode", "add"])
async def test_every_kind_of_uncommitted_change_is_noticed(tmp_path: Path, change: str) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    match change:
        case "edit":
            write(root, {"a.py": "2"})
        case "delete":
            (root / "a.py").unlink()
        case "mode":
            (root / "a.py").chmod(0o755)
        case "add":
            write(root, {"dir/b.py": "1"})
    assert (await prepare_repository(root, "HEAD", tmp_path / "git")).dirty


async def test_a_commit_is_usable_while_an_empty_branch_is_checked_out(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    run_git(root, "checkout", "--quiet", "--orphan", "empty")
    assert await names(tmp_path / "git", (await prepare_repository(root, "main", tmp_path / "git")).tree) == [b"a.py"]
    with pytest.raises(RepositoryError, match="no commit yet"):
        await prepare_repository(root, "HEAD", tmp_path / "other")


async def test_uncommitted_changes_are_part_of_the_base_where_asked_for(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1", "gone.py": "1"})
    first = run_git(root, "rev-parse", "HEAD")
    (root / "gone.py").unlink()
    write(root, {"new.py": "2"})
    base = await prepare_repository(root, "HEAD", tmp_path / "git", uncommitted=True)
    assert (base.commit, base.dirty) == (first, True)
    assert await names(tmp_path / "git", base.tree) == [b"a.py", b"new.py"]
    commit(root)
    with pytest.raises(RepositoryError, match="checked out"):
        await prepare_repository(root, first, tmp_path / "other", uncommitted=True)


async def test_a_path_that_is_missing_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("missing", "file", "nul\0"):
        assert "Give the path of a git repository" in await refusal(tmp_path / path, tmp_path / "git")


async def test_a_directory_that_is_no_repository_is_refused_even_inside_one(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"sub/a.py": "1"})
    assert "top directory" in await refusal(root / "sub", tmp_path / "git")


async def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "--quiet", "repo")
    assert "no commit yet" in await refusal(tmp_path / "repo", tmp_path / "git")


@pytest.mark.parametrize("name", ["0" * 40, "no-such-branch", "--help", "a\0b", "HEAD:a.py"])
async def test_an_unknown_commit_is_refused(tmp_path: Path, name: str) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    assert "has no commit" in await refusal(root, tmp_path / "git", name)


async def test_submodules_are_refused_by_name(tmp_path: Path) -> None:
    checkout(tmp_path / "inner", {"a.py": "1"})
    root = checkout(tmp_path / "repo", {"b.py": "1"})
    run_git(root, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", "../inner", "vendor/inner")
    commit(root)
    assert "submodules (vendor/inner)" in await refusal(root, tmp_path / "git")


async def test_a_repository_with_missing_objects_is_refused(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    blob = run_git(root, "rev-parse", "HEAD:a.py")
    (root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert "git fsck" in await refusal(root, tmp_path / "git")


async def test_names_that_no_checkout_may_have_are_refused(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    blob = run_git(root, "rev-parse", "HEAD:a.py")
    hooks = run_git(root, "mktree", stdin=f"100644 blob {blob}\thooks\n")
    tree = run_git(root, "mktree", stdin=f"040000 tree {hooks}\t.git\n")
    run_git(root, "update-ref", "refs/heads/main", run_git(root, "commit-tree", "-m", "x", tree))
    assert "refuse" in await refusal(root, tmp_path / "git")


async def test_nothing_a_repository_configures_is_run(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1", ".gitattributes": "* filter=evil diff=evil\n"})
    mark = tmp_path / "was-here"
    for key in ("filter.evil.clean", "filter.evil.smudge", "diff.evil.textconv", "core.fsmonitor", "core.sshCommand"):
        run_git(root, "config", key, f"touch {mark}; cat")
    run_git(root, "config", "remote.origin.url", f"ext::touch {mark}")
    run_git(root, "config", "remote.origin.promisor", "true")
    run_git(root, "config", "extensions.partialClone", "origin")
    hooks = root / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (hooks / hook).chmod(0o755)
    write(root, {"a.py": "2"})
    base = await prepare_repository(root, "HEAD", tmp_path / "git", uncommitted=True)
    repository = TaskRepository(tmp_path / "git")
    assert "+2" in await repository.patch(run_git(root, "rev-parse", "HEAD^{tree}"), base.tree)
    await repository.archive(base.tree, base.tree)
    assert not mark.exists()


async def test_a_partial_clone_is_refused_and_fetches_nothing(tmp_path: Path) -> None:
    origin = checkout(tmp_path / "origin", {"a.py": "1"})
    run_git(origin, "config", "uploadpack.allowFilter", "true")
    run_git(tmp_path, "clone", "--quiet", "--bare", "--filter=blob:none", f"file://{origin}", "partial")
    mark = tmp_path / "was-here"
    run_git(tmp_path / "partial", "config", "remote.origin.uploadpack", f"touch {mark}; git-upload-pack")
    assert "partial clone" in await refusal(tmp_path / "partial", tmp_path / "git")
    assert not mark.exists()


async def test_the_checkout_in_a_sandbox_has_one_commit_and_nothing_else(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1\n", "run.sh": "#!/bin/sh\n", "link": "-> a.py"})
    (root / "run.sh").chmod(0o755)
    commit(root)
    base = await prepare_repository(root, "HEAD", tmp_path / "git")
    repository = TaskRepository(tmp_path / "git")
    inside = unpack(await repository.archive(base.tree, base.tree), tmp_path / "workspace")
    assert run_git(inside, "status", "--porcelain") == ""
    assert run_git(inside, "log", "--all", "--format=%an %s") == "mimo base"
    assert run_git(inside, "remote") == ""
    assert os.access(inside / "run.sh", os.X_OK)
    assert (inside / "link").readlink() == Path("a.py")
    (inside / "a.py").write_text("2\n")
    assert "+2" in run_git(inside, "diff")
    run_git(inside, "checkout", "a.py")
    assert (inside / "a.py").read_text() == "1\n"


def packed(kind: str, content: bytes, head: str) -> str:
    """A patch with one packed hunk, as git writes them."""
    data = zlib.compress(content)
    line = f"{chr(64 + len(data))}{base64.b85encode(data, pad=True).decode()}"
    return f"diff --git a/a.py b/a.py\nindex {'0' * 40}..{'1' * 40} 100644\nGIT binary patch\n{kind} {head}\n{line}\n\n"


@pytest.mark.parametrize("number", ["{}", " {}", "+{} bytes"])
async def test_changes_that_unpack_to_more_than_a_worker_holds_are_refused(tmp_path: Path, number: str) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    patch = packed("literal", b"1", number.format(MAX_UNPACKED_BYTES + 1))
    with pytest.raises(RepositoryError, match="unpack to"):
        await prepare_repository(root, "HEAD", tmp_path / "git", changes=patch)


async def test_a_delta_is_as_large_as_the_file_that_it_makes(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.py": "1"})
    half_a_gibibyte = bytes([0x80, 0x80, 0x80, 0x80, 0x02])
    patch = packed("delta", bytes([1]) + half_a_gibibyte + b"\x90\x01", "8")
    with pytest.raises(RepositoryError, match="unpack to 536870912 bytes"):
        await prepare_repository(root, "HEAD", tmp_path / "git", changes=patch)


async def test_a_packed_file_that_fits_is_taken(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repo", {"a.bin": bytes(range(256)) * 20})
    (root / "a.bin").write_bytes(bytes(range(256)) * 21)
    patch = run_git(root, "diff", "--binary") + "\n\n"
    assert "GIT binary patch" in patch
    run_git(root, "checkout", "--quiet", ".")
    base = await prepare_repository(root, "HEAD", tmp_path / "git", changes=patch)
    assert base.tree != run_git(root, "rev-parse", "HEAD^{tree}")
