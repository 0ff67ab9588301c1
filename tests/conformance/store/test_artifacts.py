"""What runs leave beside their events, in every storage there is."""

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from cryptography.fernet import Fernet
from moto.server import ThreadedMotoServer

from agent.errors import (
    LeaseLost,
    SettingsError,
    StoreError,
    StoreUnavailable,
    TaskNotOver,
    UnknownArtifact,
    UnknownTask,
)
from agent.events import MessageAdded
from agent.store.artifacts import MAX_BYTES, Artifact, Artifacts, NewImage
from agent.store.base import Claim, Project, RunResult
from agent.store.export import Export
from agent.store.open import open_store
from agent.store.retention import Retention
from agent.store.secrets import SecretBox
from agent.store.sql import SqlStore
from agent.types import Status, TaskRequest
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")
BYTES = bytes(range(256)) * 5000
MESSAGE = MessageAdded(message_id="m", text="It looks like this.")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3 over HTTP, with an empty bucket."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in access.items():
            patch.setenv(name, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="mimo")
        yield "s3://mimo/kept"
    server.stop()


@pytest.fixture(params=["files", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/kept" if request.param == "files" else str(request.getfixturevalue("s3"))


@pytest.fixture
async def store(tmp_path: Path, clock: Clock, address: str) -> AsyncIterator[SqlStore]:
    async with open_store(f"sqlite:///{tmp_path}/store.db", clock=clock, artifacts=address) as opened:
        yield opened


async def claimed(store: SqlStore, project_id: str = "default") -> Claim:
    await store.of(project_id).submit(REQUEST)
    claim = await store.claim("worker", 15)
    assert claim is not None
    return claim


async def finish(store: SqlStore, claim: Claim) -> None:
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))


def kept(store: SqlStore) -> Artifacts:
    assert store.artifacts is not None
    return store.artifacts


async def read(store: SqlStore, claim: Claim, artifact: Artifact, *part: int) -> bytes:
    project_id, task_id = claim.task.project_id, claim.task.id
    return b"".join([piece async for piece in kept(store).read(project_id, task_id, artifact, *part)])


async def test_artifact_is_read_whole_and_in_part(store: SqlStore) -> None:
    claim = await claimed(store)
    await kept(store).put(claim, "1/outputs/3-0.txt", BYTES)
    await kept(store).put(claim, "1/empty.txt", b"")

    empty, artifact = await kept(store).of_task("default", claim.task.id)

    assert (artifact.name, artifact.run_id, artifact.size) == ("1/outputs/3-0.txt", claim.run_id, len(BYTES))
    assert await read(store, claim, artifact) == BYTES
    assert await read(store, claim, artifact, 1000, 1010) == BYTES[1000:1010]
    assert await read(store, claim, empty) == b""
    with pytest.raises(UnknownArtifact):
        await kept(store).get("another", claim.task.id, artifact.name)


async def test_what_a_user_attaches_stands_beside_what_runs_leave_and_goes_with_the_task(
    url: str, clock: Clock, tmp_path: Path
) -> None:
    async with open_store(url, clock=clock, artifacts=f"file://{tmp_path}/kept") as store:
        claim = await claimed(store)
        for data in (b"first", BYTES):
            await store.of("default").say(claim.task.id, MESSAGE, [NewImage("image/png", data)])
        (artifact,) = await kept(store).of_task("default", claim.task.id)
        assert (artifact.media_type, artifact.run_id, artifact.size) == ("image/png", claim.run_id, len(BYTES))
        assert await read(store, claim, artifact) == BYTES

        await finish(store, claim)
        await Retention(store.database, kept(store)).delete("default", claim.task.id)
        with pytest.raises(UnknownTask):
            await store.of("default").say(claim.task.id, MESSAGE, [NewImage("image/png", BYTES)])
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


async def test_name_that_comes_again_holds_what_came_last(store: SqlStore) -> None:
    claim = await claimed(store)
    await kept(store).put(claim, "1/patch.diff", b"first")
    await kept(store).put(claim, "1/patch.diff", b"second")

    (artifact,) = await kept(store).of_task("default", claim.task.id)

    assert await read(store, claim, artifact) == b"second"


async def test_of_what_is_too_long_the_beginning_is_kept(store: SqlStore) -> None:
    claim = await claimed(store)
    await kept(store).put(claim, "1/big", b"x" * (MAX_BYTES + 1))

    assert (await kept(store).get("default", claim.task.id, "1/big")).size == MAX_BYTES


async def test_worker_that_lost_its_run_keeps_nothing(store: SqlStore, clock: Clock) -> None:
    claim = await claimed(store)
    clock.advance(60)
    assert await store.claim("another", 15) is not None

    with pytest.raises(LeaseLost):
        await kept(store).put(claim, "1/patch.diff", b"late")
    assert await kept(store).of_task("default", claim.task.id) == ()


async def test_ended_task_is_deleted_with_all_it_has(store: SqlStore) -> None:
    claim = await claimed(store)
    await kept(store).put(claim, "1/patch.diff", b"diff")
    artifact = await kept(store).get("default", claim.task.id, "1/patch.diff")
    retention = Retention(store.database, store.artifacts)
    with pytest.raises(TaskNotOver):
        await retention.delete("default", claim.task.id)
    await finish(store, claim)
    with pytest.raises(UnknownTask):
        await retention.delete("another", claim.task.id)

    await retention.delete("default", claim.task.id)

    with pytest.raises(UnknownTask):
        await store.of("default").get(claim.task.id)
    with pytest.raises(StoreUnavailable):
        await read(store, claim, artifact)


async def test_artifacts_go_with_tasks_that_are_kept_no_longer_and_with_projects(store: SqlStore, clock: Clock) -> None:
    await store.make_project(Project(project_id="short", retention_days=1))
    await store.make_project(Project(project_id="purged"))
    old, other, mine = [await claimed(store, project) for project in ("short", "purged", "default")]
    for claim in (old, other, mine):
        await kept(store).put(claim, "1/patch.diff", b"diff")
        await finish(store, claim)
    clock.advance(timedelta(days=2).total_seconds())

    await store.tidy(timedelta(days=7))
    await Retention(store.database, store.artifacts).purge("purged")

    (artifact,) = await kept(store).of_task("default", mine.task.id)
    assert await read(store, mine, artifact) == b"diff"
    for claim in (old, other):
        with pytest.raises(StoreUnavailable):
            await read(store, claim, artifact)


async def test_export_holds_the_bytes(store: SqlStore) -> None:
    claim = await claimed(store)
    await kept(store).put(claim, "1/files/a", BYTES)

    lines = [json.loads(line) async for line in Export(store.database, "default", store.artifacts).lines()]

    exported = lines[-1]["artifact"]
    assert exported["name"] == "1/files/a"
    assert base64.b64decode(exported["content"]) == BYTES


async def test_storage_that_is_away_is_told(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ["AWS_ENDPOINT_URL"]
    async with open_store("sqlite://", artifacts="s3://no-such-bucket") as store:
        with pytest.raises(StoreUnavailable):
            await kept(store).put(await claimed(store), "1/patch.diff", b"diff")


@pytest.mark.parametrize("address", ["/kept", "file://kept", "ftp://kept/x", "s3:///kept"])
async def test_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(StoreError, match="use file:///"):
        async with open_store("sqlite://", artifacts=address):
            pass


async def test_tokens_of_an_answer_are_sealed_where_they_lie_and_read_as_they_were(
    url: str, clock: Clock, tmp_path: Path
) -> None:
    box, folder, name = SecretBox(Fernet.generate_key().decode()), tmp_path / "kept", "1/tokens/1-0.json"
    said = b'{"token_ids": [4711, 4712], "logprobs": [-0.5, -0.25]}'
    url = url if url != "sqlite://" else f"sqlite:///{tmp_path / 'memory.db'}"
    async with open_store(url, clock=clock, artifacts=f"file://{folder}", box=box) as store:
        claim = await claimed(store)
        await kept(store).put(claim, name, said)
        await kept(store).put(claim, "1/patch.diff", b"diff")
        artifact = await kept(store).get("default", claim.task.id, name)

        assert (artifact.size, artifact.sha256) == (len(said), hashlib.sha256(said).hexdigest())
        assert await read(store, claim, artifact) == said
        assert await read(store, claim, artifact, 14, 26) == said[14:26]
        lines = [
            json.loads(line) async for line in Export(store.database, "default", kept(store)).lines(reasoning=True)
        ]
        exported = {line["artifact"]["name"]: line["artifact"]["content"] for line in lines if "artifact" in line}
        assert base64.b64decode(exported[name]) == said
    stored = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert b"diff" in stored
    assert not any(b"4711" in each for each in stored)

    async with open_store(url, clock=clock, artifacts=f"file://{folder}") as store:
        with pytest.raises(SettingsError, match="MIMO_SECRETS_KEY"):
            await read(store, claim, artifact)


async def test_tokens_that_a_process_without_a_key_kept_stay_readable(url: str, clock: Clock, tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'kept'}"
    url = url if url != "sqlite://" else f"sqlite:///{tmp_path / 'memory.db'}"
    async with open_store(url, clock=clock, artifacts=address) as store:
        claim = await claimed(store)
        await kept(store).put(claim, "1/tokens/1-0.json", b"{}")
    async with open_store(url, clock=clock, artifacts=address, box=SecretBox(Fernet.generate_key().decode())) as store:
        assert await read(store, claim, await kept(store).get("default", claim.task.id, "1/tokens/1-0.json")) == b"{}"
