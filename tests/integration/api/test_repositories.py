"""What is wrong with a repository is said when the task is submitted, not when a worker finds out."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from agent.api.app import create_app
from agent.repository import check_repository
from agent.store.base import RunResult, Store
from agent.types import Status

from .conftest import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(store: Store, serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve(create_app(store, check_repository)) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        yield client


def _git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "calculator"
    root.mkdir()
    _git(root, "init", "-q")
    (root / "calc.py").write_text("x = 1\n")
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "calculator")
    return root


async def _submit(http: httpx.AsyncClient, repository: Path, commit: str = "HEAD") -> httpx.Response:
    body = {"repository": str(repository), "base_commit": commit, "problem_statement": "x is 1"}
    return await http.post("/v1/tasks", json=body)


async def _refused(http: httpx.AsyncClient, repository: Path, commit: str = "HEAD") -> str:
    answer = await _submit(http, repository, commit)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_repository")
    assert problem["errors"][0]["pointer"] == "#/repository"
    return str(problem["detail"])


async def test_commit_is_named_by_its_full_id(http: httpx.AsyncClient, repository: Path) -> None:
    task = (await _submit(http, repository)).json()

    assert task["base_commit"] == _git(repository, "rev-parse", "HEAD").strip()


async def test_missing_path_is_refused(http: httpx.AsyncClient, tmp_path: Path) -> None:
    assert "is not a directory" in await _refused(http, tmp_path / "nowhere")


async def test_directory_that_is_no_repository_is_refused(http: httpx.AsyncClient, tmp_path: Path) -> None:
    assert "is not a git repository" in await _refused(http, tmp_path)


async def test_file_is_refused(http: httpx.AsyncClient, repository: Path) -> None:
    assert "is not a directory" in await _refused(http, repository / "calc.py")


async def test_repository_without_a_commit_is_refused(http: httpx.AsyncClient, tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q", "empty")

    assert "has no commit yet" in await _refused(http, tmp_path / "empty")


@pytest.mark.parametrize("commit", ["nope", "0" * 40, "--help", "HEAD:calc.py", "x\0y"])
async def test_unknown_commit_is_refused(http: httpx.AsyncClient, repository: Path, commit: str) -> None:
    assert "has no commit" in await _refused(http, repository, commit)


async def test_submodules_are_refused_by_name(http: httpx.AsyncClient, repository: Path) -> None:
    _git(repository, "submodule", "add", "-q", str(repository), "part")
    _git(repository, "commit", "-q", "-m", "part")

    assert "submodules (part)" in await _refused(http, repository)


async def test_dirty_checkout_is_taken_at_its_commit(http: httpx.AsyncClient, repository: Path) -> None:
    (repository / "calc.py").write_text("x = 2\n")

    assert (await _submit(http, repository)).status_code == 202


async def test_bare_repository_will_do(http: httpx.AsyncClient, repository: Path, tmp_path: Path) -> None:
    _git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")

    assert (await _submit(http, tmp_path / "bare.git")).status_code == 202


async def test_diff_lists_every_kind_of_change(http: httpx.AsyncClient, repository: Path, store: Store) -> None:
    task_id = (await _submit(http, repository)).json()["id"]
    (repository / "calc.py").write_text("x = 2\ny = 3\n")
    (repository / "a b.txt").write_text("new\n")
    (repository / "größe.bin").write_bytes(bytes(range(256)))
    (repository / "empty").touch()
    _git(repository, "add", "-A")
    patch = _git(repository, "diff", "--cached", "--binary")
    claim = await store.claim("worker", 60)
    assert claim is not None
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED, patch=patch))

    files = (await http.get(f"/v1/tasks/{task_id}/diff")).json()["files"]

    assert {file["path"]: (file["added"], file["removed"], file["binary"]) for file in files} == {
        "a b.txt": (1, 0, False),
        "calc.py": (2, 1, False),
        "empty": (0, 0, False),
        "größe.bin": (0, 0, True),
    }
