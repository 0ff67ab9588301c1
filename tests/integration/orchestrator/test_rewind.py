"""Steps of a run that waits are taken back: its files, its conversation, or both."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from agent.api.app import create_app
from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.testing import ScriptedModel, call, turns
from agent.types import AssistantMessage, Status, TaskRequest, WaitingOn
from tests.integration.orchestrator.conftest import PATCH, REPAIR, users

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
MakeWorker = Callable[..., Worker]
LOOK = call("bash", command="cat calc.py")
OTHER = call("str_replace", path="calc.py", old_str="a - b", new_str="b + a")


async def _stopped_after_two_steps(store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest) -> str:
    """A task that looked, edited, and now waits for a higher limit."""
    task = await users(store).submit(make_request(limits={"max_steps": 2}, on_limit="ask"))
    await make_worker(*REPAIR[:2]).drain()
    assert (await users(store).get(task.id)).waiting_on is WaitingOn.BUDGET
    return task.id


async def _go_on(store: SqlStore, task_id: str, make_worker: MakeWorker, *script: AssistantMessage) -> ScriptedModel:
    """With the limit raised, to the end; what the model was asked."""
    await users(store).tell(task_id, "budget.granted", {"max_steps": 20})
    await users(store).tell(task_id, "task.resumed", {})
    model = ScriptedModel(turns(*script))
    await make_worker(model=model).drain()
    assert (await users(store).get(task_id)).status is Status.SUCCEEDED
    return model


async def test_files_and_conversation_go_back_and_the_run_goes_on_otherwise(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task_id = await _stopped_after_two_steps(store, make_worker, make_request)

    rewound = await users(store).rewind(task_id, 1)
    assert (rewound.status, rewound.waiting_on) == (Status.PAUSED, None)
    model = await _go_on(store, task_id, make_worker, REPAIR[0], OTHER, REPAIR[2])

    ended = await users(store).get(task_id)
    assert "+    return b + a" in ended.patch
    assert "notes.txt" in ended.patch
    assert [message["role"] for message in model.requests[0][0]] == ["system", "user", "assistant", "tool"]
    log = await users(store).events(task_id)
    assert [event.body["step"] for event in log if event.type == "step.started"] == [1, 2, 3, 4]
    intents = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    assert len(set(intents)) == len(intents)
    assert ended.usage.prompt_tokens == sum(
        event.body["usage"]["prompt_tokens"] for event in log if event.type == "step.message"
    )


async def test_only_files_go_back_and_the_model_is_told(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task_id = await _stopped_after_two_steps(store, make_worker, make_request)

    rewound = await users(store).rewind(task_id, 0, "files")
    assert rewound.waiting_on is WaitingOn.BUDGET
    model = await _go_on(store, task_id, make_worker, *REPAIR[:2], LOOK, OTHER, REPAIR[2])

    asked = [message for message in model.requests[0][0] if message["role"] == "user"]
    assert "put back to how they were at the beginning" in asked[-1]["content"]
    assert "a - b" in model.requests[1][0][-1]["content"]
    ended = await users(store).get(task_id)
    assert "+    return b + a" in ended.patch
    assert "notes.txt" not in ended.patch


async def test_only_the_conversation_goes_back(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task_id = await _stopped_after_two_steps(store, make_worker, make_request)

    await users(store).rewind(task_id, 0, "conversation")
    model = await _go_on(store, task_id, make_worker, call("finish", summary="it was done"))

    assert [message["role"] for message in model.requests[0][0]] == ["system", "user"]
    assert (await users(store).get(task_id)).patch == PATCH


async def test_what_the_user_said_since_is_taken_back_with_it(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request(limits={"max_steps": 1}, on_limit="ask"))
    await make_worker(REPAIR[0]).drain()
    for message_id, text in (("msg_1", "add a comment"), ("msg_2", "and be quick")):
        await users(store).tell(task.id, "message.added", {"message_id": message_id, "text": text})
        await users(store).tell(task.id, "budget.granted", {"max_steps": 2})
        await make_worker(*REPAIR[:2]).drain()

    await users(store).rewind(task.id, 1)
    model = await _go_on(store, task.id, make_worker, REPAIR[0], REPAIR[1], REPAIR[2])

    said = [message["content"] for message in model.requests[-1][0] if message["role"] == "user"]
    assert said[1:] == ["and be quick"]


async def test_steps_are_taken_back_again_and_again(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task_id = await _stopped_after_two_steps(store, make_worker, make_request)
    for to_step in (1, 0):
        await users(store).rewind(task_id, to_step)
    model = await _go_on(store, task_id, make_worker, *REPAIR)

    assert len(model.requests[0][0]) == 2
    assert (await users(store).get(task_id)).patch == PATCH
    log = await users(store).events(task_id)
    assert [event.body["step"] for event in log if event.type == "step.started"] == [1, 2, 3, 4, 5]

    forked = await users(store).fork(task_id, log[-1].seq)
    assert [event.body["step"] for event in await users(store).events(forked.id) if event.type == "step.started"] == [
        3,
        4,
        5,
    ]


async def _resolve(path: Path, commit: str) -> str:
    return commit


async def test_the_steps_to_go_back_to_are_listed_and_any_of_them_can_be_forked(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task_id = await _stopped_after_two_steps(store, make_worker, make_request)
    transport = httpx.ASGITransport(create_app(store, _resolve))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        both = (await http.get(f"/v1/tasks/{task_id}/checkpoints")).json()["checkpoints"]
        forked = (await http.post(f"/v1/tasks/{task_id}/fork", json={"at_event": both[1]["seq"]})).json()["id"]
        await http.post(f"/v1/tasks/{task_id}/rewind", json={"to_step": both[0]["step"]})
        left = (await http.get(f"/v1/tasks/{task_id}/checkpoints")).json()["checkpoints"]
        copied = (await http.get(f"/v1/tasks/{forked}/checkpoints")).json()["checkpoints"]
        unknown = await http.get("/v1/tasks/task_nope/checkpoints")

    assert [(point["step"], point["did"]) for point in both] == [
        (1, "bash echo step >> notes.txt; cat calc.py"),
        (2, "edit calc.py"),
    ]
    assert {point["files"] for point in both} == {"all"}
    assert left == both[:1]
    assert [(point["step"], point["files"]) for point in copied] == [(1, "tracked"), (2, "tracked")]
    assert unknown.status_code == 404


async def test_who_may_not_take_steps_back_is_told_what_to_do(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    waiting = await _stopped_after_two_steps(store, make_worker, make_request)
    running = (await users(store).submit(make_request())).id
    assert await store.claim("worker", 600)
    ended = (await users(store).submit(make_request())).id
    await users(store).cancel(ended)

    transport = httpx.ASGITransport(create_app(store, _resolve))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        answers = [
            await http.post(f"/v1/tasks/{task}/rewind", json=body)
            for task, body in (
                (running, {"to_step": 0}),
                (ended, {"to_step": 0}),
                (waiting, {"to_step": 3}),
                (waiting, {"to_step": 1, "run_id": "run_other"}),
                (waiting, {"to_step": -1}),
            )
        ]
        done = await http.post(f"/v1/tasks/{waiting}/rewind", json={"to_step": 1, "restore": "both"})

    assert [answer.status_code for answer in answers] == [409, 409, 409, 409, 422]
    details = [answer.json()["detail"] for answer in answers[:4]]
    assert "pause the task" in details[0]
    assert "fork it" in details[1]
    assert "it has 0, 1, 2" in details[2]
    assert "run_id" in details[3]
    assert (done.status_code, done.json()["status"]) == (202, "paused")
