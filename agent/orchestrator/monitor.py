"""What those ask who run a worker: does it live, does it take runs, how is it doing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.errors import StoreUnavailable
from agent.orchestrator.metrics import WorkerMetrics
from agent.store.base import Store


@dataclass(frozen=True, slots=True)
class Fitness:
    """Whether a worker can do runs now."""

    keeps_reasoning: bool = True
    """Whether it is proved that the model sees what it thought."""
    problem_of_sandboxes: str | None = None
    """Why it is not proved that sandboxes are held as their settings say; None where it is."""


@asynccontextmanager
async def monitored(
    address: str, metrics: WorkerMetrics, store: Store, look: Callable[[], Fitness]
) -> AsyncIterator[None]:
    """``/livez``, ``/readyz`` and ``/metrics`` at ``address`` (host:port), as long as this lasts."""
    host, _, port = address.rpartition(":")
    app = monitor_app(metrics, store, look)
    config = uvicorn.Config(app, host=host, port=int(port), log_config=None, access_log=False, lifespan="off")
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def monitor_app(metrics: WorkerMetrics, store: Store, look: Callable[[], Fitness]) -> Starlette:
    async def live(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(request: Request) -> Response:
        fitness = look()
        checks = {
            "store": await _look_at(store),
            "model": "ok" if fitness.keeps_reasoning else _UNPROVEN,
            "sandboxes": fitness.problem_of_sandboxes or "ok",
        }
        well = all(found == "ok" for found in checks.values())
        return JSONResponse({"status": "ready" if well else "not_ready", "checks": checks}, 200 if well else 503)

    async def numbers(request: Request) -> Response:
        fitness = look()
        text = metrics.text(taking_runs=fitness.keeps_reasoning, sandboxes_held=fitness.problem_of_sandboxes is None)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", numbers)])


_UNPROVEN = "it is not proved that the endpoint keeps the model's reasoning; the worker's log says what it found"


async def _look_at(store: Store) -> str:
    try:
        await store.projects()
    except StoreUnavailable as error:
        return str(error)
    return "ok"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the worker, and that ends this."""
        yield
