"""Images in what users say: kept as they came, and shown to a model that takes them in every call from then on."""

import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

from agent.api.app import create_app
from agent.config import ModelSettings
from agent.orchestrator.worker import Worker
from agent.store.open import open_store
from agent.store.sql import SqlStore
from agent.testing import ScriptedModel, call, in_order, turns
from agent.types import Message, TaskRequest
from tests.integration.orchestrator.conftest import REPAIR, Clock, users

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
MakeWorker = Callable[..., Worker]

CONTENTS = {
    "image/png": b"\x89PNG\r\n\x1a\n\x00\xff rest",
    "image/jpeg": b"\xff\xd8\xff\xe0 rest",
    "image/webp": b"RIFF\x04\x00\x00\x00WEBP",
}
IMAGES = [{"media_type": kind, "data": base64.b64encode(data).decode()} for kind, data in CONTENTS.items()]
SHOWN = [
    {"type": "image_url", "image_url": {"url": f"data:{image['media_type']};base64,{image['data']}"}}
    for image in IMAGES
]
SEES = ModelSettings(name="sees", images=True)


@pytest.fixture
async def store(store_url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(store_url, clock=clock, artifacts=f"file://{tmp_path}/kept") as opened:
        yield opened


@pytest.fixture
async def http(store: SqlStore) -> AsyncIterator[httpx.AsyncClient]:
    async def resolve(path: Path, commit: str) -> str:
        return commit

    transport = httpx.ASGITransport(create_app(store, resolve, model=SEES))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def say(http: httpx.AsyncClient, task_id: str, text: str, images: list[dict[str, str]]) -> dict[str, Any]:
    answer = await http.post(f"/v1/tasks/{task_id}/messages", json={"text": text, "images": images})
    assert answer.status_code == 202, answer.text
    said: dict[str, Any] = answer.json()
    return said


def pictured(messages: list[Message]) -> list[Message]:
    return [message for message in messages if isinstance(message["content"], list)]


async def test_images_reach_the_model_as_they_came_in_every_call_and_are_kept(
    http: httpx.AsyncClient, store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    said = await say(http, task.id, "It looks like this.", IMAGES)
    model = ScriptedModel(turns(*REPAIR))
    await make_worker(model=model, endpoint=SEES).drain()

    told = {"role": "user", "content": [{"type": "text", "text": "It looks like this."}, *SHOWN]}
    assert [pictured(messages) for messages, _ in model.requests] == [[told]] * len(REPAIR)
    read = [await http.get(f"/v1/tasks/{task.id}/artifacts/{name}") for name in said["images"]]
    assert {each.headers["content-type"]: each.content for each in read} == CONTENTS
    listed = (await http.get(f"/v1/tasks/{task.id}/messages")).json()["messages"]
    assert [(each["images"], each["state"]) for each in listed] == [(said["images"], "taken")]
    whole = (await http.get(f"/v1/tasks/{task.id}/trajectory", params={"format": "openai"})).json()
    (kept,) = pictured(whole["runs"][0]["messages"])
    assert kept["content"][1]["image_url"]["url"] == f"artifact:image/png;{task.id}/{said['images'][0]}"


async def test_images_of_a_new_task_come_with_its_problem(
    http: httpx.AsyncClient, store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    body = make_request().model_dump(mode="json") | {"images": IMAGES}
    answer = await http.post("/v1/tasks", json=body, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 202, answer.text
    assert (await http.post("/v1/tasks", json=body, headers={"Idempotency-Key": "once"})).json() == answer.json()
    model = ScriptedModel(turns(*REPAIR))
    await make_worker(model=model, endpoint=SEES).drain()

    text = {"type": "text", "text": "This is what the problem looks like:"}
    assert [pictured(messages) for messages, _ in model.requests] == [
        [{"role": "user", "content": [text, *SHOWN]}]
    ] * len(REPAIR)
    refused = await http.post("/v1/tasks", json=body | {"images": [IMAGES[0] | {"data": "not base 64"}]})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/images/0/data")
    assert len((await http.get("/v1/tasks")).json()["tasks"]) == 1


async def test_images_of_an_answer_to_a_question_follow_the_answer(
    http: httpx.AsyncClient, store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request(profile="assistant", review=False))
    model = ScriptedModel(in_order(call("ask_user", question="What does it show?"), *REPAIR))
    worker = make_worker(model=model, endpoint=SEES)
    await worker.drain()
    await say(http, task.id, "This.", IMAGES[:1])
    await worker.drain()

    *_, result, shown = model.requests[1][0]
    assert (result["role"], result["content"]) == ("tool", "This.")
    assert (shown["role"], shown["content"][1:]) == ("user", SHOWN[:1])
    assert (await users(store).get(task.id)).status == "succeeded"


async def test_a_fork_sees_what_was_shown_before_for_as_long_as_it_is_kept(
    http: httpx.AsyncClient, store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    await say(http, task.id, "It looks like this.", IMAGES[:1])
    await make_worker(*REPAIR, endpoint=SEES).drain()

    async def forked(source: str) -> tuple[str, Message]:
        """The fork, and the image as its first model call saw it."""
        first = (await http.get(f"/v1/tasks/{source}/checkpoints")).json()["checkpoints"][0]
        fork = (await http.post(f"/v1/tasks/{source}/fork", json={"at_event": first["seq"]})).json()
        model = ScriptedModel(turns(*REPAIR))
        await make_worker(model=model, endpoint=SEES).drain()
        return str(fork["id"]), pictured(model.requests[0][0])[0]["content"][1]

    fork, seen = await forked(task.id)
    assert (await http.delete(f"/v1/tasks/{task.id}")).is_success
    _, gone = await forked(fork)
    assert [seen, gone] == [SHOWN[0], {"type": "text", "text": "[an image that is no longer kept]"}]


async def test_images_in_a_chat_reach_the_model_with_the_problem_and_with_what_is_said_next(
    store: SqlStore, make_worker: MakeWorker, repository: Path
) -> None:
    """By OpenAI's own client."""

    async def resolve(path: Path, commit: str) -> str:
        return commit

    app = create_app(store, resolve, model=SEES, api_key="the operator's", answer_wait_s=0.05)
    model = ScriptedModel(turns(*REPAIR, *REPAIR[2:]))
    given: dict[str, Any] = {"model": "mimo-native", "metadata": {"repository": str(repository)}}
    async with (
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
        openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="the operator's", http_client=http) as client,
    ):
        said: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "add subtracts"}, *SHOWN[:2]]}]
        first = await client.chat.completions.create(messages=said, **given)
        await make_worker(model=model, endpoint=SEES).drain()
        said += [{"role": "assistant", "content": first.choices[0].message.content}]
        said += [{"role": "user", "content": [{"type": "text", "text": "and this"}, SHOWN[2]]}]
        await client.chat.completions.create(messages=said, **given)
        await make_worker(model=model, endpoint=SEES).drain()

    with_problem, then = pictured(model.requests[0][0]), pictured(model.requests[-1][0])
    assert [message["content"][1:] for message in with_problem] == [SHOWN[:2]]
    assert then == [*with_problem, {"role": "user", "content": [{"type": "text", "text": "and this"}, SHOWN[2]]}]


@pytest.mark.parametrize(
    ("images", "pointer", "detail"),
    [
        ([{"media_type": "image/png", "data": "not base 64"}], "#/images/0/data", "Not base 64"),
        ([IMAGES[0], IMAGES[1] | {"media_type": "image/webp"}], "#/images/1/data", "does not begin as image/webp"),
        ([IMAGES[0]] * 5, "#/images", "at most 4"),
    ],
)
async def test_what_is_no_image_is_refused_and_nothing_is_kept(
    http: httpx.AsyncClient,
    store: SqlStore,
    make_request: MakeRequest,
    images: list[dict[str, str]],
    pointer: str,
    detail: str,
) -> None:
    task = await users(store).submit(make_request())
    answer = await http.post(f"/v1/tasks/{task.id}/messages", json={"text": "this", "images": images})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert detail in answer.json()["errors"][0]["detail"]
    assert (await http.get(f"/v1/tasks/{task.id}/artifacts")).json()["artifacts"] == []
    assert (await http.get(f"/v1/tasks/{task.id}/messages")).json()["messages"] == []
