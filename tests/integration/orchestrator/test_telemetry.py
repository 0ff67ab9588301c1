"""Spans of a run, as a collector gets them."""

import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import Process
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.model import Completion
from agent.orchestrator.worker import Worker
from agent.store.sql import SqlStore
from agent.telemetry import ENDPOINT_VARIABLE, Telemetry, open_telemetry, traceparent_of
from agent.testing import ScriptedEndpoint, ScriptedModel, call, turns
from agent.types import AssistantMessage, Message, TaskRequest
from tests.integration.orchestrator.conftest import REPAIR, persistent, users

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
MakeRequest = Callable[..., TaskRequest]

CANARY = "canary-5f1d"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    """An OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for request in self.requests for sent in request.resource_spans for scope in sent.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def running(self) -> Iterator[str]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def endpoint(collector: Collector) -> Iterator[str]:
    yield from collector.running()


def _told(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(f"gen_ai.{name}")


async def test_run_is_one_trace_of_its_agent_answers_and_calls(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    task = await users(store).submit(make_request(), traceparent=TRACEPARENT)

    await make_worker(*REPAIR, telemetry=Telemetry(provider, "mimo")).drain()

    spans = exporter.get_finished_spans()
    names = [span.name for span in spans]
    tools = ["execute_tool bash", "execute_tool str_replace", "execute_tool finish"]
    assert names == [name for tool in tools for name in ("chat mimo", tool)] + ["invoke_agent native"]
    agent = spans[-1]
    assert agent.parent is not None
    assert (f"{agent.context.trace_id:032x}", f"{agent.parent.span_id:016x}") == (TRACE, TRACEPARENT.split("-")[2])
    assert {span.parent.span_id for span in spans[:-1] if span.parent} == {agent.context.span_id}
    assert {_told(span, "conversation.id") for span in spans} == {task.id}
    assert [_told(spans[0], f"usage.{kind}_tokens") for kind in ("input", "output")] == [100, 10]
    assert all(span.start_time and span.end_time and span.start_time <= span.end_time for span in spans)


class _CanaryModel(ScriptedModel):
    """Says a canary wherever something can be said, and fails with one in the end."""

    async def complete(self, *args: Any, **kwargs: Any) -> Completion:
        completion = await super().complete(*args, **kwargs)
        message = completion.message
        if message.tool_calls[0].name == "finish":
            raise KeyError(CANARY)
        said = {"content": f"I say {CANARY}.", "reasoning_content": f"I think {CANARY}."}
        return dataclasses.replace(completion, message=message.model_copy(update=said))


async def test_no_span_holds_what_was_asked_thought_said_or_run_or_how_it_failed(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    task = await users(store).submit(make_request(problem_statement=f"Print {CANARY}."))
    answers = (call("bash", command=f"echo {CANARY} | tee notes.txt"), call("finish", summary=CANARY))

    await make_worker(model=_CanaryModel(turns(*answers)), telemetry=Telemetry(provider, "mimo")).drain()

    failed = await users(store).get(task.id)
    assert CANARY in (failed.error or "")
    assert CANARY in "".join(str(event.body) for event in await users(store).events(task.id))
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["chat mimo", "execute_tool bash", "invoke_agent native"]
    assert (spans[-1].attributes or {})["error.type"] == "KeyError"
    assert not [span.name for span in spans if CANARY in span.to_json()]


async def test_a_failed_submission_tells_its_trace_no_text() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    with pytest.raises(ValueError, match=CANARY), Telemetry(provider, "mimo").submission(None):
        raise ValueError(CANARY)

    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert CANARY not in span.to_json()


async def test_spans_reach_a_collector_where_the_environment_names_one(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, collector: Collector, endpoint: str
) -> None:
    await users(store).submit(make_request(), traceparent=TRACEPARENT)

    async with open_telemetry({ENDPOINT_VARIABLE: endpoint}, "mimo") as telemetry:
        await make_worker(*REPAIR, telemetry=telemetry).drain()

    assert len(collector.spans) == 7
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


async def test_submission_and_two_workers_in_turn_are_one_trace(
    store: SqlStore,
    store_url: str,
    tmp_path: Path,
    make_request: MakeRequest,
    collector: Collector,
    endpoint: str,
) -> None:
    environment = os.environ | {ENDPOINT_VARIABLE: endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    go = threading.Event()

    def script(messages: Sequence[Message]) -> AssistantMessage:
        answer = persistent(*REPAIR)(messages)
        if answer == REPAIR[1]:
            go.wait()
        return answer

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = ScriptedEndpoint(script)
    async with AsyncExitStack() as stack:
        model_url = stack.enter_context(model.running())
        stack.callback(go.set)

        async def start(program: str, *arguments: str) -> Process:
            command = [sys.executable, "-m", program, "--store", store_url, *arguments]
            process = await anyio.open_process(command, stdout=None, stderr=None, env=environment)
            stack.push_async_callback(_ended, process)
            return process

        async def work() -> Process:
            options = ("--data", str(tmp_path / "data"), "--model-url", model_url, "--model", "scripted")
            return await start("agent.orchestrator", *options)

        await start("agent.api", "--port", str(port))
        task_id = await _submitted(port, make_request())
        first = await work()
        await _until(lambda: len(model.requests) == 2)
        await _ended(first)
        go.set()
        await work()
        while not (await users(store).get(task_id)).status.terminal:  # noqa: ASYNC110 - other processes do it
            await anyio.sleep(0.1)
        await _until(lambda: len([span for span in collector.spans if span.name == "invoke_agent native"]) == 2)

    spans = collector.spans
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    (submission,) = [span for span in spans if span.name == "POST /v1/tasks"]
    assert submission.parent_span_id.hex() == TRACEPARENT.split("-")[2]
    agents = [span for span in spans if span.name == "invoke_agent native"]
    assert {span.parent_span_id for span in agents} == {submission.span_id}
    inner = [span for span in spans if span.name.startswith(("chat", "execute_tool"))]
    assert {span.parent_span_id for span in inner} == {span.span_id for span in agents}
    assert sorted(span.name.partition(" ")[0] for span in inner) == ["chat"] * 3 + ["execute_tool"] * 3


async def _submitted(port: int, request: TaskRequest) -> str:
    """As soon as the service answers."""
    body = request.model_dump(mode="json")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
        while True:
            try:
                answer = await http.post("/v1/tasks", json=body, headers={"traceparent": TRACEPARENT})
            except httpx.TransportError:
                await anyio.sleep(0.1)
            else:
                return str(answer.raise_for_status().json()["id"])


async def _until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - other processes do it
        await anyio.sleep(0.1)


async def _ended(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


async def test_nothing_is_made_where_the_environment_names_no_collector() -> None:
    async with open_telemetry({}, "mimo") as telemetry:
        assert telemetry is None


@pytest.mark.parametrize("header", ["", "00-0-0-0", TRACEPARENT.upper(), f"{TRACEPARENT}-more"])
def test_trace_that_cannot_be_read_is_passed_over(header: str) -> None:
    assert traceparent_of({"traceparent": header}) is None
    assert traceparent_of({"traceparent": TRACEPARENT}) == TRACEPARENT
