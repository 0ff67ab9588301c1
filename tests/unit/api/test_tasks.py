"""Submitting, listing, showing and cancelling over the API, on a real store without workers."""

from typing import Any

import httpx
import pytest

from agent.events import StepStarted, ToolIntent
from agent.store.base import RunResult, Store
from agent.types import Status, StopReason, ToolCall, Verdict, VerdictKind

pytestmark = pytest.mark.anyio

TASK: dict[str, Any] = {"repository": "/repo", "problem_statement": "add() subtracts"}
PATCH = """diff --git a/a.py b/a.py
index 1111111..2222222 100644
--- a/a.py
+++ b/a.py
@@ -1,2 +1,3 @@
-x = 1
+x = 2
+y = 3
 z = 4
diff --git "a/caf\\303\\251.txt" "b/caf\\303\\251.txt"
new file mode 100644
index 0000000..e69de29
"""


async def _finish(store: Store, result: RunResult) -> None:
    claim = await store.claim("worker", 60)
    assert claim is not None
    await store.finish(claim.run_id, claim.generation, result)


_SUCCESS = RunResult(
    status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED, verdict=Verdict(kind=VerdictKind.VERIFIED), patch=PATCH
)


async def test_submitted_task_is_accepted_with_its_place(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/tasks", json=TASK)

    assert answer.status_code == 202
    task = answer.json()
    assert answer.headers["Location"] == f"/v1/tasks/{task['id']}"
    assert task["status"] == "queued"
    assert task["stop_reason"] is None
    assert task["verdict"] is None
    assert task["patch"] == ""
    assert task["steps"] == 0
    assert task["usage"]["prompt_tokens"] == 0
    assert (await api.get(answer.headers["Location"])).json() == task


async def test_commit_is_resolved_when_the_task_is_submitted(api: httpx.AsyncClient) -> None:
    task = (await api.post("/v1/tasks", json={**TASK, "base_commit": "main"})).json()

    assert task["base_commit"] == "c" * 40


async def test_list_pages_through_all_tasks_newest_first(api: httpx.AsyncClient) -> None:
    ids = [(await api.post("/v1/tasks", json=TASK)).json()["id"] for _ in range(5)]

    seen, cursor = [], None
    while True:
        parameters = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/v1/tasks", params=parameters)).json()
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == ids[::-1]


async def test_list_filters_by_status_and_leaves_out_patches(api: httpx.AsyncClient, store: Store) -> None:
    first = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    await api.post("/v1/tasks", json=TASK)
    await _finish(store, _SUCCESS)

    tasks = (await api.get("/v1/tasks", params={"status": "succeeded"})).json()["tasks"]

    assert [task["id"] for task in tasks] == [first]
    assert "patch" not in tasks[0]


async def test_finished_task_shows_its_result(api: httpx.AsyncClient, store: Store) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    await _finish(store, _SUCCESS)

    task = (await api.get(f"/v1/tasks/{task_id}")).json()

    assert (task["status"], task["stop_reason"]) == ("succeeded", "finished")
    assert task["verdict"] == {"kind": "verified", "evidence": [], "tree": None, "reproduced": None}
    assert task["patch"] == PATCH
    assert [attempt["selected"] for attempt in task["attempts"]] == [True]


async def test_diff_is_structured_or_plain_as_asked(api: httpx.AsyncClient, store: Store) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    await _finish(store, _SUCCESS)

    structured = (await api.get(f"/v1/tasks/{task_id}/diff")).json()
    plain = await api.get(f"/v1/tasks/{task_id}/diff", headers={"Accept": "text/x-diff"})

    assert structured["files"] == [
        {"path": "a.py", "added": 2, "removed": 1, "binary": False},
        {"path": "café.txt", "added": 0, "removed": 0, "binary": False},
    ]
    assert plain.text == structured["patch"] == PATCH
    assert plain.headers["content-type"].startswith("text/x-diff")


async def test_diff_of_a_waiting_task_says_to_wait(api: httpx.AsyncClient) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]

    answer = await api.get(f"/v1/tasks/{task_id}/diff")

    assert (answer.status_code, answer.json()["code"]) == (409, "task_not_ended")


async def test_cancel_is_idempotent(api: httpx.AsyncClient) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]

    answers = [await api.post(f"/v1/tasks/{task_id}/cancel") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[1].json()["status"] == "cancelled"


async def test_cancel_of_a_finished_task_is_a_conflict(api: httpx.AsyncClient, store: Store) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    await _finish(store, _SUCCESS)

    answer = await api.post(f"/v1/tasks/{task_id}/cancel")

    assert (answer.status_code, answer.json()["code"]) == (409, "task_already_ended")


@pytest.mark.parametrize("benchmark", [True, False])
async def test_a_benchmarks_task_shows_what_its_calls_looked_at_and_another_does_not(
    api: httpx.AsyncClient, store: Store, benchmark: bool
) -> None:
    task = (await api.post("/v1/tasks", json={**TASK, "benchmark": benchmark})).json()
    claim = await store.claim("worker", 60)
    assert claim is not None
    call = ToolCall(id="call_0", name="bash", arguments='{"command": "ls && git log --all"}')
    intent = ToolIntent(step=1, intent_id="1-0", call=call)
    for kind, body in (("step.started", StepStarted(step=1)), ("tool.intent", intent)):
        await store.append(claim.run_id, claim.generation, kind, body.model_dump(mode="json"))

    plain = (await api.get(f"/v1/tasks/{task['id']}")).json()
    shown = (await api.get(f"/v1/tasks/{task['id']}", params={"expand": "mining"})).json()
    whole = (await api.get(f"/v1/tasks/{task['id']}/trajectory", params={"format": "openai"})).json()

    remark = {"step": 1, "place": "history", "call": "ls && git log --all"}
    expected = {"remarks": [remark], "num_unread": 0} if benchmark else None
    assert plain["mining"] is None
    assert shown["mining"] == whole["runs"][0]["mining"] == expected
