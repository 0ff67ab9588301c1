"""A task's log as JSON pages."""

from typing import Any

import httpx
import pytest

from agent.api.events import PAGE_BYTES
from agent.store.base import RunResult, Store
from agent.types import Status, StopReason

pytestmark = pytest.mark.anyio

TASK: dict[str, Any] = {"repository": "/repo", "problem_statement": "add() subtracts"}


async def test_pages_hold_the_whole_log_once(api: httpx.AsyncClient, store: Store) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    claim = await store.claim("worker", 60)
    assert claim is not None
    for step in range(5):
        await store.append(claim.run_id, claim.generation, "note", {"text": f"line one\u2028two\x85\r\n{step}"})
    await store.finish(
        claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED)
    )

    events: list[dict[str, Any]] = []
    after = 0
    while True:
        page = (await api.get(f"/v1/tasks/{task_id}/events", params={"after": after, "limit": 3})).json()
        events += page["events"]
        after = page["next_after"]
        if page["ended"]:
            break

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "task.submitted"
    assert events[-1]["type"] == "task.finished"
    assert [event["body"]["text"][-1] for event in events if event["type"] == "note"] == list("01234")


async def test_page_of_a_running_task_has_not_ended(api: httpx.AsyncClient) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]

    page = (await api.get(f"/v1/tasks/{task_id}/events")).json()

    assert not page["ended"]
    assert page["next_after"] == page["events"][-1]["seq"]
    empty = (await api.get(f"/v1/tasks/{task_id}/events", params={"after": page["next_after"]})).json()
    assert (empty["events"], empty["ended"]) == ([], False)


async def test_a_page_of_large_events_has_fewer_and_those_behind_it_follow(
    api: httpx.AsyncClient, store: Store
) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    claim = await store.claim("worker", 60)
    assert claim is not None
    sizes = [PAGE_BYTES // 3] * 4 + [PAGE_BYTES + 1] + [1] * 2
    for size in sizes:
        await store.append(claim.run_id, claim.generation, "note", {"text": "x" * size})

    pages: list[list[int]] = []
    after = 0
    while True:
        page = (await api.get(f"/v1/tasks/{task_id}/events", params={"after": after, "limit": 1000})).json()
        if not page["events"]:
            break
        pages.append([event["seq"] for event in page["events"]])
        after = page["next_after"]

    assert pages == [[1, 2, 3, 4], [5, 6], [7], [8, 9]]
    assert (page["next_after"], page["ended"]) == (9, False)
