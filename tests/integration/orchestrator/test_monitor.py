"""What a worker says of itself over HTTP."""

from collections.abc import Sequence

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.events import CacheFell, StepCompleted, StepMessage, ToolCompleted
from agent.orchestrator.log import StoreLog
from agent.orchestrator.metrics import WorkerMetrics
from agent.orchestrator.monitor import Fitness, monitor_app
from agent.store.base import RunResult, Store
from agent.types import AssistantMessage, Observation, Status, StopReason, TaskRequest, Usage

pytestmark = pytest.mark.anyio


async def _ask(metrics: WorkerMetrics, store: Store, path: str, fitness: Fitness = Fitness()) -> httpx.Response:  # noqa: B008
    transport = httpx.ASGITransport(monitor_app(metrics, store, lambda: fitness))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as http:
        return await http.get(path)


def _sample(text: str, name: str, **labels: str) -> float:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found: Sequence[float] = [each.value for each in samples if each.name == name and each.labels == labels]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def test_numbers_are_those_of_the_events_a_run_wrote(store: Store) -> None:
    metrics = WorkerMetrics()
    await store.of("default").submit(TaskRequest(repository="/repo", problem_statement="add() subtracts"))
    claim = await store.claim("worker", 60)
    assert claim is not None
    metrics.claimed(claim)
    log = StoreLog(store, claim, metrics.wrote)
    usage = Usage(prompt_tokens=100, cached_tokens=80, completion_tokens=7, reasoning_tokens=5)
    answer = StepMessage(
        step=1,
        message=AssistantMessage(),
        usage=usage,
        duration_s=2.0,
        temperature=0.3,
        thinking=True,
        repetition=0.25,
        cached_share=0.8,
        flags=("tool_call_in_reasoning", "of a later release"),
    )
    failed = ToolCompleted(step=1, intent_id=None, observation=Observation(call_id="c", text="no", error=True))
    done = StepCompleted(step=1, tree=None, usage=usage, duration_s=2.0)
    await log.append("step.message", answer.model_dump(mode="json"))
    fell = CacheFell(step=1, cached_tokens=0, cached_before=2000)
    await log.append("cache.fell", fell.model_dump(mode="json"))
    await log.append("tool.completed", failed.model_dump(mode="json"))
    await log.append("step.completed", done.model_dump(mode="json"))
    await log.append("run.stopped", {"stop_reason": "model_error"})
    result = RunResult(status=Status.FAILED, stop_reason=StopReason.MODEL_ERROR)
    metrics.left(await store.finish(claim.run_id, claim.generation, result), claim.run_id)
    metrics.let_go()

    text = (await _ask(metrics, store, "/metrics")).text

    assert _sample(text, "mimo_steps_total") == 1
    assert _sample(text, "mimo_tokens_total", kind="prompt_uncached") == 20
    assert _sample(text, "mimo_tokens_total", kind="prompt_cached") == 80
    assert _sample(text, "mimo_tokens_total", kind="completion") == 7
    assert _sample(text, "mimo_reasoning_tokens_total") == 5
    assert _sample(text, "mimo_answer_reasoning_tokens_sum") == 5
    assert _sample(text, "mimo_reasoning_repetition_sum") == 0.25
    assert _sample(text, "mimo_prompt_cached_share_sum") == 0.8
    assert _sample(text, "mimo_prompt_cache_falls_total") == 1
    assert _sample(text, "mimo_answer_flags_total", flag="tool_call_in_reasoning") == 1
    assert _sample(text, "mimo_answer_flags_total", flag="other") == 1
    assert _sample(text, "mimo_answer_flags_total", flag="malformed_tool_call") == 0
    assert _sample(text, "mimo_model_call_seconds_sum") == 2.0
    assert _sample(text, "mimo_model_errors_total") == 1
    assert _sample(text, "mimo_tool_call_seconds_count", outcome="error") == 1
    assert _sample(text, "mimo_queue_wait_seconds_count") == 1
    assert _sample(text, "mimo_runs_active") == 0
    assert _sample(text, "mimo_runs_total", status="failed", stop_reason="model_error", verdict="none") == 1


async def test_worker_whose_model_loses_reasoning_is_not_ready_and_says_why(store: Store) -> None:
    metrics = WorkerMetrics()
    ready = await _ask(metrics, store, "/readyz")
    losing = Fitness(keeps_reasoning=False)
    unready = await _ask(metrics, store, "/readyz", losing)
    text = (await _ask(metrics, store, "/metrics", losing)).text

    well = {"store": "ok", "model": "ok", "sandboxes": "ok"}
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": well})
    assert unready.status_code == 503
    assert "reasoning" in unready.json()["checks"]["model"]
    assert _sample(text, "mimo_worker_takes_runs") == 0
