"""What the service says of itself: usage, queue, limits, models, rates, numbers; and a task's trajectory."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.api.app import create_app
from agent.api.rates import Rates
from agent.config import ModelSettings, Prices
from agent.events import StepCompleted, StepMessage, StepStarted, ToolCompleted, ToolIntent
from agent.store.base import Claim, RunResult, Store
from agent.types import AssistantMessage, Observation, Status, StopReason, ToolCall, Usage

from .conftest import resolve_commit

pytestmark = pytest.mark.anyio

TASK: dict[str, Any] = {"repository": "/repo", "problem_statement": "add() subtracts"}
USAGE = Usage(prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=100_000, reasoning_tokens=50_000)
MODEL = ModelSettings(name="mimo-v2-flash", prices=Prices(prompt=1.0, cached=0.1, completion=2.0))


@pytest.fixture
async def priced(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(store, resolve_commit, model=MODEL, requests_per_minute=30))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def _step(store: Store, claim: Claim, number: int, reasoning: str, command: str) -> None:
    call = ToolCall(id=f"c{number}", name="bash", arguments=f'{{"command": "{command}"}}')
    message = AssistantMessage(content="", reasoning_content=reasoning, tool_calls=(call,), finish_reason="tool_calls")
    intent_id = f"{number}-0"
    bodies = {
        "step.started": StepStarted(step=number),
        "step.message": StepMessage(
            step=number, message=message, usage=USAGE, duration_s=1.0, temperature=0.3, thinking=True
        ),
        "tool.intent": ToolIntent(step=number, intent_id=intent_id, call=call),
        "tool.completed": ToolCompleted(
            step=number, intent_id=intent_id, observation=Observation(call_id=call.id, text=f"saw {command}")
        ),
        "step.completed": StepCompleted(step=number, tree=None, usage=USAGE, duration_s=1.0),
    }
    for kind, body in bodies.items():
        await store.append(claim.run_id, claim.generation, kind, body.model_dump(mode="json"))


@pytest.fixture
async def worked(api: httpx.AsyncClient, store: Store) -> str:
    """A task whose agent made two steps and finished."""
    task_id = str((await api.post("/v1/tasks", json=TASK)).json()["id"])
    claim = await store.claim("worker", 60)
    assert claim is not None
    await _step(store, claim, 1, "look first", "ls")
    await _step(store, claim, 2, "", "cat calc.py")
    result = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED, patch="a patch")
    await store.finish(claim.run_id, claim.generation, result)
    return task_id


async def test_usage_is_summed_and_priced(priced: httpx.AsyncClient, worked: str) -> None:
    await priced.post("/v1/tasks", json=TASK)
    whole = (await priced.get("/v1/usage")).json()["usage"]
    task = (await priced.get(f"/v1/tasks/{worked}/usage")).json()

    assert [(sums["num_tasks"], sums["num_steps"]) for sums in whole] == [(2, 2)]
    assert whole[0]["usage"]["prompt_tokens"] == 2_000_000
    assert whole[0]["cost"] == pytest.approx(1.2 * 1 + 0.8 * 0.1 + 0.2 * 2)
    assert task["usage"] == whole[0]["usage"]


async def test_usage_is_split_as_asked(priced: httpx.AsyncClient, worked: str) -> None:
    await priced.post("/v1/tasks", json={**TASK, "model": {"name": "other"}})
    split = (await priced.get("/v1/usage", params={"group_by": "model,user"})).json()["usage"]
    days = (await priced.get("/v1/usage", params={"group_by": "day"})).json()["usage"]
    nothing = (await priced.get("/v1/usage", params={"group_by": "day", "until": "2020-01-01T00:00:00Z"})).json()
    refused = await priced.get("/v1/usage", params={"group_by": "colour"})

    found = {(sums["group"]["user"], sums["group"]["model"]): sums["num_tasks"] for sums in split}
    assert found == {("local", None): 1, ("local", "other"): 1}
    created = (await priced.get(f"/v1/tasks/{worked}")).json()["created_at"][:10]
    assert [sums["group"] for sums in days] == [{"day": created}]
    assert nothing["usage"] == []
    assert refused.json()["errors"][0]["parameter"] == "group_by"


async def test_queue_counts_and_a_task_says_where_it_stands(api: httpx.AsyncClient) -> None:
    first, second = [(await api.post("/v1/tasks", json=TASK)).json() for _ in range(2)]
    queue = (await api.get("/v1/queue")).json()

    assert (queue["num_queued"], queue["num_working"]) == (2, 0)
    assert queue["oldest_queued_s"] >= 0
    assert (first["queue"]["position"], second["queue"]["position"]) == (1, 2)
    assert second["queue"]["reason"]


async def test_limits_and_models_are_those_of_the_settings(priced: httpx.AsyncClient) -> None:
    limits, models = (await priced.get("/v1/limits")).json(), (await priced.get("/v1/models")).json()

    assert (limits["requests_per_minute"], limits["task_defaults"]["max_steps"]) == (30, 50)
    assert models["models"] == [
        {
            "name": "mimo-v2-flash",
            "default": True,
            "prices": {"prompt": 1.0, "cached": 0.1, "completion": 2.0},
        }
    ]


async def test_caller_is_told_where_it_stands_and_when_to_come_back(store: Store) -> None:
    transport = httpx.ASGITransport(create_app(store, resolve_commit, requests_per_minute=1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        first, refused = [await http.get("/v1/limits") for _ in range(2)]
        probe = await http.get("/livez")

    assert first.headers["RateLimit-Policy"] == '"requests";q=1;w=60'
    assert first.headers["RateLimit"] == '"requests";r=0;t=60'
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit"].startswith('"requests";r=0;')
    assert probe.status_code == 200


def test_bucket_fills_with_time_and_each_subject_has_its_own() -> None:
    now = 0.0
    rates = Rates(60, lambda: now)
    spent = [rates.take("a").retry_after_s for _ in range(61)]
    other = rates.take("b")
    now = 1.5
    later = [rates.take("a").retry_after_s for _ in range(2)]

    assert spent == [None] * 60 + [1]
    assert (other.remaining, other.retry_after_s) == (59, None)
    assert later == [None, 1]


async def test_numbers_for_prometheus(api: httpx.AsyncClient, worked: str) -> None:
    await api.get("/v1/tasks/task_nope")
    text = (await api.get("/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    assert samples["mimo_tasks", ("status", "succeeded")] == 1
    route = "/v1/tasks/{task_id}"
    missed = ("mimo_http_requests_total", ("method", "GET"), ("route", route), ("status", "404"))
    assert samples[missed] == 1
    assert samples["mimo_http_request_seconds_count", ("method", "GET"), ("route", route)] == 1
    assert samples["mimo_webhook_deliveries_pending",] == 0
    assert worked not in text


async def test_native_trajectory_is_the_log(api: httpx.AsyncClient, worked: str) -> None:
    trajectory = (await api.get(f"/v1/tasks/{worked}/trajectory")).json()

    assert trajectory["format"] == "mimo-coder-native-1"
    assert trajectory["events"] == (await api.get(f"/v1/tasks/{worked}/events")).json()["events"]


async def test_openai_trajectory_is_the_conversation_with_its_reasoning(api: httpx.AsyncClient, worked: str) -> None:
    trajectory = (await api.get(f"/v1/tasks/{worked}/trajectory", params={"format": "openai"})).json()

    (run,) = trajectory["runs"]
    assert [message["role"] for message in run["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    assert [message.get("reasoning_content") for message in run["messages"]][2::2] == ["look first", ""]
    assert [tool["function"]["name"] for tool in run["tools"]] == ["bash", "str_replace", "finish"]
    assert (run["status"], run["stop_reason"]) == ("succeeded", "finished")


async def test_mini_trajectory_has_the_names_its_readers_know(api: httpx.AsyncClient, worked: str) -> None:
    trajectory = (await api.get(f"/v1/tasks/{worked}/trajectory", params={"format": "mini"})).json()

    assert trajectory["trajectory_format"] == "mini-swe-agent-1.1"
    assert trajectory["info"]["exit_status"] == "Submitted"
    assert trajectory["info"]["submission"] == "a patch"
    assert trajectory["info"]["model_stats"]["api_calls"] == 2


async def test_training_trajectory_has_every_call_with_what_the_model_saw(api: httpx.AsyncClient, worked: str) -> None:
    (run,) = (await api.get(f"/v1/tasks/{worked}/trajectory", params={"format": "training"})).json()["runs"]
    (openai,) = (await api.get(f"/v1/tasks/{worked}/trajectory", params={"format": "openai"})).json()["runs"]

    first, second = run["samples"]
    assert (first["num_kept"], second["num_kept"]) == (0, 2)
    assert first["prompt"] + second["prompt"] == openai["messages"][:4]
    assert first["answer"]["message"]["reasoning_content"] == "look first"
    assert first["token_ids"] is None


@pytest.mark.parametrize("form", ["native", "openai", "mini", "training"])
async def test_trajectory_of_a_task_that_waits_is_short(api: httpx.AsyncClient, form: str) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]

    assert (await api.get(f"/v1/tasks/{task_id}/trajectory", params={"format": form})).status_code == 200
