"""What a run leaves beside its events, and how it is fetched."""

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet

from agent.api.app import create_app
from agent.api.artifact_links import Sealed
from agent.orchestrator.worker import Worker
from agent.store.open import open_store
from agent.store.secrets import SecretBox
from agent.store.sql import SqlStore
from agent.testing import call
from agent.types import TaskRequest
from tests.integration.orchestrator.conftest import REPAIR, Clock, users

pytestmark = pytest.mark.anyio

LONG = "".join(f"{number}\n" for number in range(5000))
WRITE = call("bash", command="mkdir -p out; seq 0 4999 | tee out/report.xml")


@pytest.fixture
async def store(store_url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(store_url, clock=clock, artifacts=f"file://{tmp_path}/kept") as opened:
        yield opened


@pytest.fixture
async def http(store: SqlStore) -> AsyncIterator[httpx.AsyncClient]:
    async def resolve(path: Path, commit: str) -> str:
        return commit

    transport = httpx.ASGITransport(create_app(store, resolve))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
async def task_id(store: SqlStore, make_worker: Callable[..., Worker], make_request: Callable[..., TaskRequest]) -> str:
    named = ("out/report.xml", "missing.txt", "out")
    task = await users(store).submit(make_request(artifacts=named))
    await make_worker(WRITE, *REPAIR).drain()
    return task.id


async def test_run_leaves_full_outputs_its_patch_logs_and_named_files(
    http: httpx.AsyncClient, task_id: str, store: SqlStore
) -> None:
    listed = (await http.get(f"/v1/tasks/{task_id}/artifacts")).json()["artifacts"]
    bodies = {each["name"]: (await http.get(f"/v1/tasks/{task_id}/artifacts/{each['name']}")).text for each in listed}

    assert bodies.keys() == {"1/checks/1.log", "1/files/out/report.xml", "1/outputs/1-0.txt", "1/patch.diff"}
    assert bodies["1/outputs/1-0.txt"] == bodies["1/files/out/report.xml"] == LONG
    assert bodies["1/patch.diff"] == (await users(store).get(task_id)).patch
    assert [each["sha256"] for each in listed] == [
        hashlib.sha256(bodies[each["name"]].encode()).hexdigest() for each in listed
    ]


async def test_link_gives_one_artifact_to_who_has_no_key_until_it_ends(store: SqlStore, task_id: str) -> None:
    async def resolve(path: Path, commit: str) -> str:
        return commit

    box = SecretBox(Fernet.generate_key().decode())
    transport = httpx.ASGITransport(create_app(store, resolve, api_key="the operator's own", secret_box=box))
    key = {"Authorization": "Bearer the operator's own"}
    links = f"/v1/tasks/{task_id}/artifact_links"
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as stranger:
        made = await stranger.post(links, json={"name": "1/outputs/1-0.txt"}, headers=key)
        url = made.json()["url"]
        whole = await stranger.get(url)
        part = await stranger.get(url, headers={"Range": "bytes=0-3"})
        refused = [
            await stranger.post(links, json={"name": "1/outputs/1-0.txt"}),
            await stranger.post(links, json={"name": "1/none"}, headers=key),
            await stranger.get(url[:-4] + "AAAA"),
            await stranger.get(f"/v1/tasks/{task_id}/artifacts/1/outputs/1-0.txt"),
        ]
        ended = Sealed(
            project_id="default", task_id=task_id, name="1/patch.diff", until=datetime.now(UTC) - timedelta(seconds=1)
        )
        refused.append(await stranger.get(f"/v1/artifact_links/{ended.token(box)}"))

    assert (made.status_code, whole.text, part.text) == (201, LONG, LONG[:4])
    assert [answer.status_code for answer in refused] == [401, 404, 404, 401, 404]
    assert refused[-1].json()["code"] == "unknown_link"


async def test_links_need_a_key_to_sign_them_with(http: httpx.AsyncClient, task_id: str) -> None:
    answer = await http.post(f"/v1/tasks/{task_id}/artifact_links", json={"name": "1/patch.diff"})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_secrets_key")


async def test_part_of_an_artifact_is_fetched_and_checked(http: httpx.AsyncClient, task_id: str) -> None:
    url = f"/v1/tasks/{task_id}/artifacts/1/outputs/1-0.txt"
    whole = await http.get(url)
    etag = whole.headers["etag"]

    async def part(wanted: str, **headers: str) -> tuple[int, str, str | None]:
        answer = await http.get(url, headers={"Range": wanted} | headers)
        return answer.status_code, answer.text, answer.headers.get("content-range")

    digest = base64.b64encode(hashlib.sha256(LONG.encode()).digest()).decode()
    assert whole.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert whole.headers["content-disposition"].startswith("attachment")
    size = len(LONG)
    assert await part("bytes=10-19") == (206, LONG[10:20], f"bytes 10-19/{size}")
    assert (
        await part(f"bytes={size - 5}-")
        == await part("bytes=-5")
        == (206, LONG[-5:], f"bytes {size - 5}-{size - 1}/{size}")
    )
    assert await part("bytes=10-19", **{"If-Range": '"another"'}) == (200, LONG, None)
    assert await part("bytes=1-2, 5-6") == await part("lines=1-2") == (200, LONG, None)
    assert (await part(f"bytes={size}-"))[::2] == (416, f"bytes */{size}")
    assert (await http.get(url, headers={"If-None-Match": etag})).status_code == HTTPStatus.NOT_MODIFIED
    assert (await http.get(f"/v1/tasks/{task_id}/artifacts/1/nothing")).json()["code"] == "unknown_artifact"


async def test_task_is_shown_with_what_is_asked_for_beside_it(http: httpx.AsyncClient, task_id: str) -> None:
    plain = (await http.get(f"/v1/tasks/{task_id}")).json()
    full = (await http.get(f"/v1/tasks/{task_id}", params={"expand": "usage,artifacts"})).json()
    refused = await http.get(f"/v1/tasks/{task_id}", params={"expand": "everything"})

    assert plain["artifacts"] is plain["total"] is None
    assert [each["name"] for each in full["artifacts"]][-1] == "1/patch.diff"
    assert full["total"]["num_steps"] == full["steps"] == 4
    assert (refused.status_code, refused.json()["errors"][0]["parameter"]) == (422, "expand")


async def test_list_is_narrowed_by_repository_label_and_text(
    http: httpx.AsyncClient, store: SqlStore, make_request: Callable[..., TaskRequest]
) -> None:
    labelled = await users(store).submit(make_request(labels={"team": "web"}, problem_statement="Add a test"))
    other = await users(store).submit(make_request())

    async def found(**narrow: str) -> list[str]:
        return [task["id"] for task in (await http.get("/v1/tasks", params=narrow)).json()["tasks"]]

    assert await found(repository=other.request.repository) == [other.id, labelled.id]
    assert await found(label="team") == await found(label="team=web") == await found(q="A TEST") == [labelled.id]
    assert await found(label="team=data") == await found(q="a test", repository="/elsewhere") == []


async def test_deleted_task_is_gone_and_the_audit_log_says_who_did_it(
    http: httpx.AsyncClient, task_id: str, store: SqlStore, make_request: Callable[..., TaskRequest], tmp_path: Path
) -> None:
    queued = await users(store).submit(make_request())

    refused = await http.delete(f"/v1/tasks/{queued.id}")
    deleted = await http.delete(f"/v1/tasks/{task_id}")

    assert (refused.status_code, refused.json()["code"]) == (409, "task_not_ended")
    assert deleted.status_code == HTTPStatus.NO_CONTENT
    for path in ("", "/events", "/artifacts", "/artifacts/1/patch.diff"):
        assert (await http.get(f"/v1/tasks/{task_id}{path}")).json()["code"] == "unknown_task"
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    (entry,) = (await http.get("/v1/audit")).json()["entries"]
    assert (entry["action"], entry["subject"]) == ("DELETE /v1/tasks/{task_id}", "local")
    assert entry["target"] == f"/v1/tasks/{task_id}"
