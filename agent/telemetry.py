"""Spans of runs for OpenTelemetry, by the conventions for generative AI; their names are nowhere else.

The API makes one of each submission; of an evaluation's, and of a schedule whose time has come, each task begins a
trace of its own, which is linked. The others are made from the events of a run once these are stored:
``invoke_agent`` for what one worker does of it, in it ``chat`` for each answer of the model and ``execute_tool`` for
each call. Nothing that was said is in them.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import anyio

from agent.errors import SettingsError
from agent.events import RunStopped, StepMessage, ToolCompleted, ToolIntent
from agent.types import Event, TaskRequest

if TYPE_CHECKING:  # An extra.
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanKind

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Where spans are sent (OTLP over HTTP). The exporter reads the other variables of OpenTelemetry by itself."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class Telemetry:
    """Makes spans of submissions, and of one worker's runs.

    Events of a run must be told in the context that entered :meth:`agent`.
    """

    def __init__(self, provider: "TracerProvider", model: str) -> None:
        """
        Args:
            model: asked for where a task names none.
        """
        self._tracer = provider.get_tracer("mimo-coder")
        self._model = model
        self._tools: dict[tuple[str | None, str], str] = {}
        """Names of the tools under way, by run and intent."""

    @contextmanager
    def submission(self, traceparent: str | None, name: str = "POST /v1/tasks") -> Iterator[str]:
        """The span of a request that submits tasks, within the caller's trace; yields what its runs are within."""
        from opentelemetry.trace import SpanKind

        with self._current(name, _context(traceparent), kind=SpanKind.SERVER):
            yield _traceparent()

    @contextmanager
    def schedule(self, schedule_id: str) -> Iterator[str]:
        """The span of a schedule whose time has come, a trace of its own; yields it."""
        attributes = {"mimo.schedule.id": schedule_id}
        with self._current("schedule", _context(None), attributes=attributes):
            yield _traceparent()

    def begin_trace(self, by: Literal["eval", "schedule"], cause: str) -> str:
        """Begin the trace of a task that others are submitted with, or that nobody waits for; what its runs are within.

        Args:
            cause: the request or schedule that submits it; it is linked.
        """
        from opentelemetry.trace import Link, get_current_span, set_span_in_context

        link = Link(get_current_span(_context(cause)).get_span_context())
        span = self._tracer.start_span("task", _context(None), attributes={"mimo.submitted_by": by}, links=[link])
        span.end()
        return _traceparent(set_span_in_context(span))

    @contextmanager
    def agent(self, task_id: str, request: TaskRequest, traceparent: str | None) -> Iterator[None]:
        """The span of a worker's part of a run, within the trace that ``traceparent`` (W3C Trace Context) names."""
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": request.profile,
            "gen_ai.conversation.id": task_id,
            "gen_ai.request.model": request.model.name or self._model,
        }
        with self._current(f"invoke_agent {request.profile}", _context(traceparent), attributes=attributes):
            yield

    @contextmanager
    def _current(
        self,
        name: str,
        context: "Context",
        *,
        kind: "SpanKind | None" = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Iterator[None]:
        """A span of what is done meanwhile. Of an exception it tells the class: its text may be anybody's."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        with self._tracer.start_as_current_span(
            name,
            context,
            kind=kind or SpanKind.INTERNAL,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def wrote(self, event: Event) -> None:
        """Hear of an event that was stored."""
        match event.type:
            case "step.message":
                self._chat(event, StepMessage.model_validate(event.body))
            case "tool.intent":
                intent = ToolIntent.model_validate(event.body)
                self._tools[event.run_id, intent.intent_id] = intent.call.name
            case "tool.completed":
                self._tool(event, ToolCompleted.model_validate(event.body))
            case "run.stopped":
                self._stop(RunStopped.model_validate(event.body))

    def _chat(self, event: Event, answer: StepMessage) -> None:
        attributes: dict[str, Any] = {
            "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": answer.usage.completion_tokens,
            "gen_ai.request.temperature": answer.temperature,
            "gen_ai.response.finish_reasons": [answer.message.finish_reason or "unknown"],
        }
        if answer.aborted:
            attributes["error.type"] = answer.aborted
        self._span("chat", self._model, event, answer.duration_s, attributes)

    def _tool(self, event: Event, result: ToolCompleted) -> None:
        name = self._tools.pop((event.run_id, result.intent_id or ""), None)
        if name is None:
            return  # It was never dispatched, or by another worker.
        attributes: dict[str, Any] = {
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": result.observation.call_id,
            "gen_ai.tool.type": "function",
        }
        if result.observation.error:
            attributes["error.type"] = "tool_error"
        self._span("execute_tool", name, event, result.observation.duration_s, attributes)

    def _span(self, operation: str, what: str, event: Event, duration_s: float, attributes: dict[str, Any]) -> None:
        common = {"gen_ai.operation.name": operation, "gen_ai.conversation.id": event.task_id}
        begun = _nanoseconds(event.at - timedelta(seconds=duration_s))
        span = self._tracer.start_span(f"{operation} {what}", attributes=common | attributes, start_time=begun)
        span.end(_nanoseconds(event.at))

    def _stop(self, stopped: RunStopped) -> None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attribute("mimo.stop_reason", stopped.stop_reason)


@asynccontextmanager
async def open_telemetry(
    environment: Mapping[str, str], model: str, service: str = "mimo-worker"
) -> AsyncIterator[Telemetry | None]:
    """None unless the environment names an endpoint for spans; what was not sent yet is sent at the end.

    Args:
        service: which program of ours makes them.

    Raises:
        SettingsError: the extra is not installed.
    """
    endpoint = environment.get(ENDPOINT_VARIABLE)
    if not endpoint:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(f"{ENDPOINT_VARIABLE} is set: install mimo-coder[telemetry], or unset it") from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    try:
        yield Telemetry(provider, model)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(provider.shutdown)


def traceparent_of(headers: Mapping[str, str]) -> str | None:
    """The caller's trace, from the headers of its request; None where there is none that can be read."""
    given = headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def _context(traceparent: str | None) -> "Context":
    """That of a trace from elsewhere; an empty one begins a trace."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})


def _traceparent(context: "Context | None" = None) -> str:
    """Of a context's span; None is the current one's."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    within: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(within, context)
    return within["traceparent"]


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e9)
