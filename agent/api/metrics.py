"""What the API exports for Prometheus. Labels come from closed sets, never from what a caller sent."""

import time
from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api.streams import Kind
from agent.types import Status

_LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ScheduleOutcome = Literal["started", "skipped", "failed"]
ScheduleReason = Literal["due", "replaced", "by_hand", "overlap", "repository", "service"]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ApiMetrics:
    """The series of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "mimo_http_requests",
            "Answers, by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "mimo_http_request_seconds",
            "From the request to the first byte of its answer.",
            ["method", "route"],
            buckets=_LATENCIES_S,
            registry=self._registry,
        )
        self._tasks = Gauge("mimo_tasks", "Tasks in the store, by status.", ["status"], registry=self._registry)
        self._oldest = Gauge(
            "mimo_queue_oldest_seconds", "How long the oldest queued task has waited; 0: none.", registry=self._registry
        )
        self._streams = Gauge(
            "mimo_open_streams",
            "Connections that last: events (readers of the event stream), page, chat and editor.",
            ["kind"],
            registry=self._registry,
        )
        self._pending = Gauge(
            "mimo_webhook_deliveries_pending",
            "Messages to webhooks that are still to be sent.",
            registry=self._registry,
        )

        self._scheduled = Counter(
            "mimo_schedule_runs",
            "Times of schedules: started (due, replaced, by_hand), skipped (overlap), failed (repository, service).",
            ["outcome", "reason"],
            registry=self._registry,
        )

    def scheduled(self, outcome: ScheduleOutcome, reason: ScheduleReason) -> None:
        """What came of a schedule's time, and why."""
        self._scheduled.labels(outcome=outcome, reason=reason).inc()

    def answered(self, method: str, route: str, status: int, duration_s: float) -> None:
        method = method if method in _METHODS else "other"
        self._requests.labels(method=method, route=route, status=str(status)).inc()
        self._latency.labels(method=method, route=route).observe(duration_s)

    def text(
        self,
        tasks: dict[Status, int],
        *,
        oldest_queued_s: float,
        open_streams: Mapping[Kind, int],
        num_pending_deliveries: int,
    ) -> bytes:
        """Everything in Prometheus' text format; what the store and the streams know is given."""
        for status in Status:
            self._tasks.labels(status=status.value).set(tasks.get(status, 0))
        self._oldest.set(oldest_queued_s)
        for kind, num_open in open_streams.items():
            self._streams.labels(kind=kind).set(num_open)
        self._pending.set(num_pending_deliveries)
        return generate_latest(self._registry)


class CountAnswers:
    """Counts every answer under the template of its route."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.answered(scope["method"], route, message["status"], time.monotonic() - begun)
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
