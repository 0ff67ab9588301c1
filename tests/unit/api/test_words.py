"""What a caller may say to a task after it was submitted: changes, pauses, messages, decisions."""

import asyncio
from typing import Any

import httpx
import pytest

from agent.events import ApprovalRequested
from agent.store.base import Claim, RunResult, Store
from agent.types import Status, ToolCall, WaitingOn

pytestmark = pytest.mark.anyio

TASK: dict[str, Any] = {"repository": "/repo", "problem_statement": "add() subtracts"}


@pytest.fixture
async def task_id(api: httpx.AsyncClient) -> str:
    return str((await api.post("/v1/tasks", json=TASK)).json()["id"])


async def _claim(store: Store) -> Claim:
    claim = await store.claim("worker", 60)
    assert claim is not None
    return claim


async def _request_approval(store: Store, approval_id: str = "run-1-0") -> None:
    claim = await _claim(store)
    call = ToolCall(id="c1", name="bash", arguments='{"command": "git reset --hard"}')
    request = ApprovalRequested(step=1, approval_id=approval_id, call=call, parts=("git reset --hard",))
    await store.append(claim.run_id, claim.generation, "approval.requested", request.model_dump(mode="json"))
    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.APPROVAL, {})


def _code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_change_shows_at_once_and_leaves_the_rest(api: httpx.AsyncClient, task_id: str) -> None:
    changed = await api.patch(f"/v1/tasks/{task_id}", json={"title": "Addition", "priority": "high"})
    again = await api.patch(f"/v1/tasks/{task_id}", json={"labels": {"team": "math"}, "limits": {"max_steps": 80}})

    assert (changed.status_code, again.status_code) == (200, 200)
    task = (await api.get(f"/v1/tasks/{task_id}")).json()
    assert task == again.json()
    assert (task["title"], task["priority"], task["labels"]) == ("Addition", "high", {"team": "math"})
    assert task["limits"]["max_steps"] == 80
    assert task["limits"]["max_tokens"] == 2_000_000


async def test_limit_cannot_be_lowered(api: httpx.AsyncClient, task_id: str) -> None:
    answer = await api.patch(f"/v1/tasks/{task_id}", json={"title": "x", "limits": {"max_steps": 5}})

    assert _code(answer) == (422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == "#/limits/max_steps"
    assert (await api.get(f"/v1/tasks/{task_id}")).json()["title"] is None


async def test_change_of_what_another_changed_is_refused(api: httpx.AsyncClient, task_id: str) -> None:
    read = (await api.get(f"/v1/tasks/{task_id}")).headers["ETag"]
    first = await api.patch(f"/v1/tasks/{task_id}", json={"title": "mine"}, headers={"If-Match": read})
    second = await api.patch(f"/v1/tasks/{task_id}", json={"title": "yours"}, headers={"If-Match": read})
    third = await api.patch(
        f"/v1/tasks/{task_id}", json={"title": "yours"}, headers={"If-Match": first.headers["ETag"]}
    )

    assert _code(second) == (412, "task_changed")
    assert (first.status_code, third.status_code) == (200, 200)


async def test_of_two_changes_of_the_same_at_once_one_is_refused(api: httpx.AsyncClient, task_id: str) -> None:
    read = (await api.get(f"/v1/tasks/{task_id}")).headers["ETag"]
    titles = ("mine", "yours", "theirs")
    answers = await asyncio.gather(
        *(api.patch(f"/v1/tasks/{task_id}", json={"title": title}, headers={"If-Match": read}) for title in titles)
    )

    (done,) = [answer for answer in answers if answer.status_code == 200]
    assert [_code(answer) for answer in answers if answer is not done] == [(412, "task_changed")] * 2
    assert (await api.get(f"/v1/tasks/{task_id}")).json()["title"] == done.json()["title"]


async def test_work_of_the_agent_does_not_spoil_an_etag(api: httpx.AsyncClient, store: Store, task_id: str) -> None:
    read = (await api.get(f"/v1/tasks/{task_id}")).headers["ETag"]
    await _claim(store)

    answer = await api.patch(f"/v1/tasks/{task_id}", json={"title": "mine"}, headers={"If-Match": read})

    assert answer.status_code == 200


async def test_more_budget_ends_the_wait_for_it(api: httpx.AsyncClient, store: Store, task_id: str) -> None:
    claim = await _claim(store)
    await store.park(claim.run_id, claim.generation, Status.WAITING, WaitingOn.BUDGET, {})
    waiting = (await api.get(f"/v1/tasks/{task_id}")).json()

    changed = (await api.patch(f"/v1/tasks/{task_id}", json={"limits": {"max_tokens": 3_000_000}})).json()

    assert (waiting["status"], waiting["waiting_on"]) == ("waiting", "budget")
    assert (changed["status"], changed["waiting_on"]) == ("queued", None)


async def test_paused_run_waits_until_it_is_resumed(api: httpx.AsyncClient, store: Store, task_id: str) -> None:
    claim = await _claim(store)
    assert [(await api.post(f"/v1/tasks/{task_id}/pause")).status_code for _ in range(2)] == [202, 202]
    await store.park(claim.run_id, claim.generation, Status.PAUSED, None, {})
    paused = (await api.get(f"/v1/tasks/{task_id}")).json()["status"]

    assert [(await api.post(f"/v1/tasks/{task_id}/resume")).status_code for _ in range(2)] == [202, 202]

    assert (paused, (await api.get(f"/v1/tasks/{task_id}")).json()["status"]) == ("paused", "queued")
    said = [event.type for event in await store.user_events(task_id)]
    assert said == ["task.paused", "task.resumed"]


@pytest.mark.parametrize("waiting_on", [WaitingOn.QUOTA, WaitingOn.CAPACITY])
async def test_resumed_task_that_waits_for_the_service_is_tried_at_once(
    api: httpx.AsyncClient, store: Store, task_id: str, waiting_on: WaitingOn
) -> None:
    claim = await _claim(store)
    await store.park(claim.run_id, claim.generation, Status.WAITING, waiting_on, {})
    before = await store.claim("worker", 60)

    resumed = await api.post(f"/v1/tasks/{task_id}/resume")

    assert before is None
    assert (resumed.status_code, resumed.json()["status"], resumed.json()["waiting_on"]) == (202, "queued", None)
    assert (await _claim(store)).run_id == claim.run_id


@pytest.mark.parametrize(
    ("waiting_on", "remedy"),
    [(WaitingOn.APPROVAL, "/v1/approvals"), (WaitingOn.QUESTION, "messages"), (WaitingOn.BUDGET, "PATCH")],
)
async def test_task_that_waits_for_its_user_says_so_instead_of_resuming(
    api: httpx.AsyncClient, store: Store, task_id: str, waiting_on: WaitingOn, remedy: str
) -> None:
    claim = await _claim(store)
    await store.park(claim.run_id, claim.generation, Status.WAITING, waiting_on, {})

    answer = await api.post(f"/v1/tasks/{task_id}/resume")

    assert _code(answer) == (409, "task_waits_for_you")
    assert remedy in answer.json()["remedy"]


@pytest.mark.parametrize("word", ["pause", "resume"])
async def test_task_that_is_over_is_neither_paused_nor_resumed(api: httpx.AsyncClient, task_id: str, word: str) -> None:
    await api.post(f"/v1/tasks/{task_id}/cancel")

    assert _code(await api.post(f"/v1/tasks/{task_id}/{word}")) == (409, "task_already_ended")


async def test_message_is_listed_until_the_agent_takes_it(api: httpx.AsyncClient, store: Store, task_id: str) -> None:
    claim = await _claim(store)
    said = [
        await api.post(f"/v1/tasks/{task_id}/messages", json={"text": text, "delivery": delivery})
        for text, delivery in (("try the other file", "steer"), ("then add a test", "queue"))
    ]
    taken = {"step": 1, "message_id": said[0].json()["id"], "text": "try the other file"}
    await store.append(claim.run_id, claim.generation, "message.taken", taken)

    listed = (await api.get(f"/v1/tasks/{task_id}/messages")).json()["messages"]
    late = await api.delete(f"/v1/tasks/{task_id}/messages/{said[0].json()['id']}")
    early = [await api.delete(f"/v1/tasks/{task_id}/messages/{said[1].json()['id']}") for _ in range(2)]
    left = (await api.get(f"/v1/tasks/{task_id}/messages")).json()["messages"]

    assert [answer.status_code for answer in said] == [202, 202]
    assert [message["state"] for message in listed] == ["taken", "queued"]
    assert _code(late) == (409, "message_taken")
    assert [answer.status_code for answer in early] == [204, 204]
    assert [message["state"] for message in left] == ["taken", "removed"]


async def test_message_for_a_run_that_is_not_shown_any_more_is_refused(api: httpx.AsyncClient, task_id: str) -> None:
    body = {"text": "go on", "expected_run_id": "run_of_yesterday"}

    answer = await api.post(f"/v1/tasks/{task_id}/messages", json=body)

    assert _code(answer) == (409, "other_run")
    assert (await api.get(f"/v1/tasks/{task_id}/messages")).json()["messages"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"text": " "}, "#/text"), ({"text": "x", "delivery": "later"}, "#/delivery"), ({}, "#/text")],
)
async def test_unusable_message_is_pointed_at(
    api: httpx.AsyncClient, task_id: str, body: dict[str, str], pointer: str
) -> None:
    answer = await api.post(f"/v1/tasks/{task_id}/messages", json=body)

    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_message_to_a_task_that_is_over_is_a_conflict(api: httpx.AsyncClient, task_id: str) -> None:
    await api.post(f"/v1/tasks/{task_id}/cancel")

    answer = await api.post(f"/v1/tasks/{task_id}/messages", json={"text": "go on"})

    assert _code(answer) == (409, "task_already_ended")


async def test_decision_ends_the_wait_and_stands(api: httpx.AsyncClient, store: Store, task_id: str) -> None:
    await _request_approval(store)
    (pending,) = (await api.get("/v1/approvals")).json()["approvals"]
    address = f"/v1/approvals/{pending['id']}"

    decided = await api.post(address, json={"decision": "deny", "reason": "keep my changes"})
    again = await api.post(address, json={"decision": "deny"})
    other = await api.post(address, json={"decision": "allow"})

    assert (pending["tool"], pending["parts"], pending["decision"]) == ("bash", ["git reset --hard"], None)
    assert (decided.status_code, again.status_code) == (202, 202)
    assert decided.json()["decision"] == again.json()["decision"] == "deny"
    assert _code(other) == (409, "already_decided")
    assert (await api.get("/v1/approvals")).json()["approvals"] == []
    assert (await api.get(address)).json()["reason"] == "keep my changes"
    assert (await api.get(f"/v1/tasks/{task_id}")).json()["status"] == "queued"


async def test_call_is_allowed_with_other_arguments(api: httpx.AsyncClient, store: Store, task_id: str) -> None:
    await _request_approval(store)
    (pending,) = (await api.get("/v1/approvals")).json()["approvals"]
    address, edited = f"/v1/approvals/{pending['id']}", '{"command": "git stash"}'

    decided = await api.post(address, json={"decision": "allow", "edited_args": edited})
    as_asked = await api.post(address, json={"decision": "allow"})

    assert (decided.status_code, decided.json()["edited_args"]) == (202, edited)
    assert _code(as_asked) == (409, "already_decided")


@pytest.mark.parametrize(
    ("decision", "edited"),
    [
        ({"decision": "deny"}, '{"command": "ls"}'),
        ({"decision": "allow", "scope": "task"}, '{"command": "ls"}'),
        ({"decision": "allow"}, '{"comand": "ls"}'),
        ({"decision": "allow"}, "ls"),
    ],
)
async def test_arguments_that_cannot_be_allowed_are_refused_and_the_call_waits(
    api: httpx.AsyncClient, store: Store, task_id: str, decision: dict[str, str], edited: str
) -> None:
    await _request_approval(store)
    (pending,) = (await api.get("/v1/approvals")).json()["approvals"]

    answer = await api.post(f"/v1/approvals/{pending['id']}", json={**decision, "edited_args": edited})

    assert answer.json()["errors"][0]["pointer"] == "#/edited_args"
    assert (await api.get("/v1/approvals")).json()["approvals"] == [pending]


@pytest.mark.parametrize("approval_id", ["nope", "task_1.run_1-0"])
async def test_unknown_approval_is_not_found(api: httpx.AsyncClient, approval_id: str) -> None:
    assert _code(await api.get(f"/v1/approvals/{approval_id}")) == (404, "unknown_approval")


async def test_same_key_submits_once(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "nightly-2026-11-22"}
    first, second = [await api.post("/v1/tasks", json=TASK, headers=headers) for _ in range(2)]

    assert first.json() == second.json()
    assert first.headers["Location"] == second.headers["Location"]
    assert "Idempotent-Replay" not in first.headers
    assert second.headers["Idempotent-Replay"] == "true"
    assert len((await api.get("/v1/tasks")).json()["tasks"]) == 1


async def test_same_key_with_another_body_is_refused(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "nightly"}
    await api.post("/v1/tasks", json=TASK, headers=headers)

    answer = await api.post("/v1/tasks", json={**TASK, "attempts": 2}, headers=headers)

    assert _code(answer) == (422, "idempotency_key_reused")


async def test_key_of_a_refused_request_is_free_again(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "nightly"}
    refused = await api.post("/v1/tasks", json={**TASK, "repository": "/missing"}, headers=headers)
    corrected = await api.post("/v1/tasks", json=TASK, headers=headers)

    assert (refused.status_code, corrected.status_code) == (422, 202)


async def test_same_key_says_a_message_once(api: httpx.AsyncClient, task_id: str) -> None:
    headers = {"Idempotency-Key": "hello"}
    said = [await api.post(f"/v1/tasks/{task_id}/messages", json={"text": "x"}, headers=headers) for _ in range(2)]

    assert said[0].json() == said[1].json()
    assert len((await api.get(f"/v1/tasks/{task_id}/messages")).json()["messages"]) == 1


async def test_every_attempt_can_be_looked_at(api: httpx.AsyncClient, store: Store) -> None:
    task = (await api.post("/v1/tasks", json={**TASK, "attempts": 2})).json()
    claim = await _claim(store)
    result = RunResult(status=Status.FAILED, patch="", error="gave up")
    await store.finish(claim.run_id, claim.generation, result)
    address = f"/v1/tasks/{task['id']}/runs"

    runs = (await api.get(address)).json()["runs"]

    assert [(run["attempt"], run["status"]) for run in runs] == [(1, "failed"), (2, "queued")]
    assert (await api.get(f"/v1/tasks/{task['id']}", params={"expand": "runs"})).json()["runs"] == runs
    assert (await api.get(f"{address}/{runs[0]['run_id']}")).json() == runs[0]
    assert (await api.get(f"{address}/{runs[0]['run_id']}/diff")).json() == {"patch": "", "files": []}
    assert _code(await api.get(f"{address}/{runs[1]['run_id']}/diff")) == (409, "run_not_ended")
    assert _code(await api.get(f"{address}/run_nope")) == (404, "unknown_run")


async def test_list_is_filtered_by_time_and_author(api: httpx.AsyncClient, task_id: str) -> None:
    async def found(**parameters: str) -> list[str]:
        return [task["id"] for task in (await api.get("/v1/tasks", params=parameters)).json()["tasks"]]

    assert await found(created_by="local", since="2020-01-01T00:00:00Z") == [task_id]
    assert await found(created_by="somebody") == []
    assert await found(until="2020-01-01T00:00:00Z") == []
    answer = await api.get("/v1/tasks", params={"since": "2020-01-01"})
    assert answer.json()["errors"][0]["parameter"] == "since"


@pytest.mark.parametrize(
    ("image", "code", "pointer"),
    [
        ({"media_type": "image/png", "data": "iVBORw0KGgo="}, "images_not_taken", "#/images"),
        ({"media_type": "image/svg+xml", "data": "PHN2Zy8+"}, "invalid_request", "#/images/0/media_type"),
        ({"media_type": "image/png", "url": "https://example.org/a.png"}, "invalid_request", "#/images/0/data"),
    ],
)
async def test_an_image_is_refused_by_a_model_that_takes_text_alone_and_nothing_is_said(
    api: httpx.AsyncClient, task_id: str, image: dict[str, str], code: str, pointer: str
) -> None:
    answer = await api.post(f"/v1/tasks/{task_id}/messages", json={"text": "like this", "images": [image]})

    assert _code(answer) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await api.get(f"/v1/tasks/{task_id}/messages")).json()["messages"] == []


async def test_who_refuses_an_image_names_the_model_and_what_to_do(api: httpx.AsyncClient) -> None:
    task = (await api.post("/v1/tasks", json=TASK | {"model": {"name": "mimo-v2-flash"}})).json()
    body = {"text": "like this", "images": [{"media_type": "image/webp", "data": "UklGRg=="}]}
    answer = (await api.post(f"/v1/tasks/{task['id']}/messages", json=body)).json()

    assert "The model mimo-v2-flash takes text alone" in answer["detail"]
    assert "Say in words" in answer["remedy"]
