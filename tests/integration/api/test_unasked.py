"""Tasks that nobody waits for: how a schedule's stands in the queue, and what its trace says."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.api.app import create_app
from agent.api.context import services_of
from agent.api.cron import Cron
from agent.identity import DEFAULT_PROJECT
from agent.store.base import Store
from agent.store.open import open_store
from agent.telemetry import Telemetry
from agent.types import Priority, TaskRequest

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TASK = {"repository": "/repo", "problem_statement": "update the dependencies", "priority": "high"}


class World:
    """A store whose clock the tests set, and the spans of the service over it."""

    def __init__(self) -> None:
        self.now = NOON
        self.spans = InMemorySpanExporter()
        self.store: Store

    async def schedule_and_serve(self, *, traced: bool) -> str:
        """The id of a schedule whose time came once."""
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))

        async def resolve(path: Path, commit: str) -> str:
            return "c" * 40

        app = create_app(self.store, resolve, telemetry=Telemetry(provider, "mimo") if traced else None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            body = {"name": "nightly", "cron": "30 2 * * *", "task": TASK}
            made = (await http.post("/v1/schedules", json=body)).raise_for_status().json()
        self.now += timedelta(days=1)
        assert await Cron(services_of(app)).drain() == 1
        return str(made["id"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World()
    async with open_store(f"sqlite:///{tmp_path}/mimo.db", clock=lambda: world.now) as world.store:
        yield world


async def test_schedules_task_gives_way_to_what_somebody_waits_for(world: World) -> None:
    tasks = world.store.of(DEFAULT_PROJECT)
    await world.schedule_and_serve(traced=False)
    world.now += timedelta(hours=5)
    asked = await tasks.submit(TaskRequest(repository="/repo", problem_statement="a", priority=Priority.LOW))

    claims = [await world.store.claim("worker", 60) for _ in range(2)]

    assert [claim.task.priority for claim in claims if claim] == [Priority.LOW, Priority.BACKGROUND]
    assert claims[0] is not None
    assert claims[0].task.id == asked.id


async def test_schedules_task_has_a_trace_with_a_link_to_the_schedule(world: World) -> None:
    schedule_id = await world.schedule_and_serve(traced=True)
    (task,) = (await world.store.of(DEFAULT_PROJECT).list_tasks()).tasks
    (submitted,) = await world.store.of(DEFAULT_PROJECT).events(task.id, limit=1)

    begun, served = world.spans.get_finished_spans()
    assert (begun.name, begun.attributes) == ("task", {"mimo.submitted_by": "schedule"})
    assert (served.name, served.attributes) == ("schedule", {"mimo.schedule.id": schedule_id})
    assert [link.context.span_id for link in begun.links] == [served.context.span_id]
    assert begun.context.trace_id != served.context.trace_id
    trace = f"00-{begun.context.trace_id:032x}-{begun.context.span_id:016x}-"
    assert submitted.body["traceparent"].startswith(trace)
