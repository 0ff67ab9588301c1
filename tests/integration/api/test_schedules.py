"""Schedules: set up over REST, served by the processes of the API, by a clock that the tests set."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from agent.api.app import create_app
from agent.api.chores import at_work
from agent.api.context import services_of
from agent.api.cron import Cron
from agent.errors import RepositoryError
from agent.integrations.webhooks import Sender
from agent.store.base import Store
from agent.store.evals import Evals
from agent.store.open import open_store
from agent.store.retention import Retention
from agent.store.schedules import Schedules
from agent.store.tables import schedules
from agent.store.webhooks import Webhooks
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own key"
_PATIENCE_S = 120.0
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NIGHTLY: dict[str, Any] = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "task": {"repository": "/repo", "problem_statement": "update the dependencies"},
}


@dataclass
class World:
    """What the processes of a service have in common."""

    url: str
    now: datetime = NOON
    gone: set[str] = field(default_factory=set)
    """Repositories that cannot be used."""
    slow: asyncio.Event | None = None
    """Who looks at a repository waits for it."""
    looking: asyncio.Event = field(default_factory=asyncio.Event)

    async def resolve(self, path: Path, commit: str) -> str:
        self.looking.set()
        if self.slow is not None:
            await self.slow.wait()
        if str(path) in self.gone:
            raise RepositoryError(f"{path} does not exist; give the path of a git repository")
        return "c" * 40

    @asynccontextmanager
    async def process(self) -> AsyncIterator[tuple[Store, FastAPI]]:
        async with open_store(self.url, clock=lambda: self.now) as store:
            yield store, create_app(store, self.resolve, api_key=OPERATOR)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "sqlite":
        return World(f"sqlite:///{tmp_path}/mimo.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return World(server.new_database())


@pytest.fixture
async def process(world: World) -> AsyncIterator[tuple[Store, FastAPI]]:
    async with world.process() as opened:
        yield opened


@pytest.fixture
async def http(process: tuple[Store, FastAPI]) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(process[1]) as client:
        yield client


def _client(app: FastAPI, key: str = OPERATOR) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mimo.example", headers=headers)


async def _serve(app: FastAPI) -> int:
    return await Cron(services_of(app)).drain()


async def _schedule(http: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await http.post("/v1/schedules", json=NIGHTLY | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _tasks(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get("/v1/tasks")).json()["tasks"]
    return found


async def _shown(http: httpx.AsyncClient, schedule: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = (await http.get(f"/v1/schedules/{schedule['id']}")).json()
    return shown


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_task_is_submitted_when_its_schedule_is_due_and_not_before(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    due = datetime(2026, 3, 3, 2, 30, tzinfo=UTC)
    world.now = due - timedelta(seconds=1)
    early = await _serve(process[1])
    world.now = due
    served = [await _serve(process[1]) for _ in range(2)]

    (task,) = await _tasks(http)
    shown = await _shown(http, made)
    assert (made["enabled"], made["last_task_id"], _time(made["next_run_at"])) == (True, None, due)
    assert (early, served) == (0, [1, 0])
    assert (task["problem_statement"], task["base_commit"]) == ("update the dependencies", "c" * 40)
    assert (task["created_by"], shown["last_task_id"]) == (made["created_by"], task["id"])
    assert (_time(shown["last_run_at"]), _time(shown["next_run_at"])) == (due, due + timedelta(days=1))


async def test_process_of_the_api_looks_by_itself(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    await _schedule(http)
    async with at_work(process[1], Sender(Webhooks(process[0].database))):
        world.now = NOON + timedelta(days=1)
        with anyio.fail_after(_PATIENCE_S):
            while not await _tasks(http):  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(0.1)


async def test_two_processes_submit_one_task(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    await _schedule(http, overlap="allow")
    async with world.process() as (_, other):
        for day in range(3):
            world.now = NOON + timedelta(days=day + 1)
            served = await asyncio.gather(*map(_serve, (process[1], other) * 2))
            assert sum(served) == 1

    assert len(await _tasks(http)) == 3


async def test_process_that_took_too_long_submits_nothing_after_another_did(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    world.now, world.slow, world.looking = NOON + timedelta(days=1), asyncio.Event(), asyncio.Event()
    late = asyncio.ensure_future(_serve(process[1]))
    await world.looking.wait()
    world.now += timedelta(minutes=10)
    released, world.slow = world.slow, None
    async with world.process() as (_, other):
        assert await _serve(other) == 1
    released.set()
    await late

    (task,) = await _tasks(http)
    assert (await _shown(http, made))["last_task_id"] == task["id"]


async def test_task_that_was_replaced_while_it_was_looked_at_is_not_submitted(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    world.now, world.slow, world.looking = NOON + timedelta(days=1), asyncio.Event(), asyncio.Event()
    looking = asyncio.ensure_future(_serve(process[1]))
    await world.looking.wait()
    released, world.slow = world.slow, None
    other = NIGHTLY["task"] | {"problem_statement": "repair the tests"}
    await http.patch(f"/v1/schedules/{made['id']}", json={"task": other})
    released.set()
    await looking
    await _serve(process[1])

    assert [task["problem_statement"] for task in await _tasks(http)] == ["repair the tests"]


async def test_times_that_passed_while_nobody_looked_are_made_up_for_by_one(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    world.now = NOON + timedelta(days=5)
    await _serve(process[1])

    assert len(await _tasks(http)) == 1
    assert _time((await _shown(http, made))["next_run_at"]) == datetime(2026, 3, 8, 2, 30, tzinfo=UTC)


async def test_time_is_skipped_while_the_task_before_works(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    await _day(world, process, 1)
    (first,) = await _tasks(http)
    await _day(world, process, 2)
    skipped, tasks = await _shown(http, made), await _tasks(http)
    await http.post(f"/v1/tasks/{first['id']}/cancel")
    await _day(world, process, 3)
    served = await _shown(http, made)
    counted = (await http.get("/metrics")).text

    assert (made["overlap"], made["last_skipped_at"]) == ("skip", None)
    assert [task["id"] for task in tasks] == [first["id"]]
    assert _time(skipped["last_skipped_at"]) == NOON + timedelta(days=2)
    assert (skipped["last_task_id"], _time(skipped["last_run_at"])) == (first["id"], NOON + timedelta(days=1))
    assert served["last_task_id"] not in (None, first["id"])
    assert 'mimo_schedule_runs_total{outcome="started",reason="due"} 2.0' in counted
    assert 'mimo_schedule_runs_total{outcome="skipped",reason="overlap"} 1.0' in counted


async def test_next_task_waits_for_the_end_of_the_one_before(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http, overlap="queue")
    await _day(world, process, 1)
    (first,) = await _tasks(http)
    waited = [await _day(world, process, day) for day in (2, 3)]
    due = _time((await _shown(http, made))["next_run_at"])
    await http.post(f"/v1/tasks/{first['id']}/cancel")
    served = [await _serve(process[1]) for _ in range(2)]

    assert (waited, due, served) == ([0, 0], datetime(2026, 3, 4, 2, 30, tzinfo=UTC), [1, 0])
    assert len(await _tasks(http)) == 2
    assert _time((await _shown(http, made))["next_run_at"]) == datetime(2026, 3, 6, 2, 30, tzinfo=UTC)


async def test_next_task_takes_the_place_of_the_one_before(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http, overlap="replace")
    for day in (1, 2):
        await _day(world, process, day)
    second, first = await _tasks(http)
    deeds = [entry for entry in (await http.get("/v1/audit")).json()["entries"] if entry["kind"] == "schedule"]

    assert (first["status"], second["status"]) == ("cancelled", "queued")
    assert f"/v1/tasks/{first['id']}/cancel" in [deed["target"] for deed in deeds]
    assert (await _shown(http, made))["last_task_id"] == second["id"]
    assert 'mimo_schedule_runs_total{outcome="started",reason="replaced"} 1.0' in (await http.get("/metrics")).text


async def test_both_tasks_work_where_the_schedule_allows_it(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http, overlap="skip")
    await http.patch(f"/v1/schedules/{made['id']}", json={"overlap": "allow"})
    for day in (1, 2):
        await _day(world, process, day)

    assert [task["status"] for task in await _tasks(http)] == ["queued", "queued"]


async def test_schedule_is_run_by_hand_whatever_its_times(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http, enabled=False)
    answers = [await http.post(f"/v1/schedules/{made['id']}/run") for _ in range(2)]
    shown = await _shown(http, made)
    world.gone = {"/repo"}
    refused = await http.post(f"/v1/schedules/{made['id']}/run")

    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.headers["location"] for answer in answers] == [
        f"/v1/tasks/{task['id']}" for task in reversed(await _tasks(http))
    ]
    assert (shown["last_task_id"], shown["enabled"], shown["next_run_at"]) == (answers[1].json()["id"], False, None)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/task/repository")
    assert (await http.post("/v1/schedules/sched_0/run")).status_code == 404


async def _day(world: World, process: tuple[Store, FastAPI], number: int) -> int:
    """So many days later; how many schedules were served."""
    world.now = NOON + timedelta(days=number)
    return await _serve(process[1])


async def test_refused_submission_says_why_and_the_schedule_goes_on(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    fine = await _schedule(http, task=NIGHTLY["task"] | {"repository": "/other"})
    world.gone, world.now = {"/repo"}, NOON + timedelta(days=1)
    await _serve(process[1])
    refused, beside = await _shown(http, made), await _shown(http, fine)
    world.gone, world.now = set(), NOON + timedelta(days=2)
    await _serve(process[1])
    served = await _shown(http, made)

    assert "/repo does not exist" in refused["last_error"]
    assert (refused["last_task_id"], _time(refused["next_run_at"])) == (None, datetime(2026, 3, 4, 2, 30, tzinfo=UTC))
    assert (beside["last_error"], beside["last_task_id"] is None) == (None, False)
    assert (served["last_error"], served["last_task_id"] is None) == (None, False)


async def test_schedule_that_is_off_submits_nothing_and_makes_up_for_nothing(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    off = await http.patch(f"/v1/schedules/{made['id']}", json={"enabled": False})
    world.now = NOON + timedelta(days=3)
    served = await _serve(process[1])
    on = await http.patch(f"/v1/schedules/{made['id']}", json={"enabled": True})

    assert (off.json()["next_run_at"], served, await _serve(process[1])) == (None, 0, 0)
    assert _time(on.json()["next_run_at"]) == datetime(2026, 3, 6, 2, 30, tzinfo=UTC)


async def test_schedule_of_a_closed_project_submits_nothing(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    await http.post("/v1/projects", json={"id": "web"})
    http.headers["Mimo-Project"] = "web"
    await _schedule(http)
    await http.delete("/v1/projects/web")
    world.now = NOON + timedelta(days=1)

    assert await _serve(process[1]) == 0
    assert (await process[0].of("web").list_tasks()).tasks == ()


async def test_path_that_an_operator_chose_is_not_another_ones_to_change(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    scopes = ["projects:admin", "tasks:write", "tasks:read"]
    key = (await http.post("/v1/projects/default/api_keys", json={"name": "admin", "scopes": scopes})).json()["secret"]
    address, elsewhere = f"/v1/schedules/{made['id']}", NIGHTLY["task"] | {"repository": "/elsewhere"}
    async with _client(process[1], key) as admin:
        refused = await admin.patch(address, json={"task": elsewhere})
        renamed = await admin.patch(address, json={"name": "each night"})
    world.now = NOON + timedelta(days=1)
    await _serve(process[1])

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/task/repository")
    assert renamed.json()["name"] == "each night"
    assert [task["repository"] for task in await _tasks(http)] == ["/repo"]


async def test_what_a_schedule_submits_is_in_the_audit_log(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    world.now = NOON + timedelta(days=1)
    await _serve(process[1])

    submitted, created = (await http.get("/v1/audit")).json()["entries"]
    (task,) = await _tasks(http)
    assert (created["action"], created["target"]) == ("POST /v1/schedules", f"/v1/schedules/{made['id']}")
    assert (submitted["subject"], submitted["kind"]) == (made["id"], "schedule")
    assert submitted["target"] == f"/v1/tasks/{task['id']}"


async def test_clock_of_the_zone_decides_in_winter_and_in_summer(world: World, http: httpx.AsyncClient) -> None:
    made = await _schedule(http, cron="30 6 * * *", time_zone="Europe/Berlin")
    world.now = datetime(2026, 7, 1, tzinfo=UTC)
    later = await http.patch(f"/v1/schedules/{made['id']}", json={"cron": "30 6 * * MON-FRI"})

    assert _time(made["next_run_at"]) == datetime(2026, 3, 3, 5, 30, tzinfo=UTC)
    assert _time(later.json()["next_run_at"]) == datetime(2026, 7, 1, 4, 30, tzinfo=UTC)


async def test_change_of_what_somebody_changed_meanwhile_is_refused(http: httpx.AsyncClient) -> None:
    address = f"/v1/schedules/{(await _schedule(http))['id']}"
    seen = (await http.get(address)).headers["etag"]
    first = await http.patch(address, json={"name": "mine"}, headers={"If-Match": seen})
    second = await http.patch(address, json={"name": "theirs"}, headers={"If-Match": seen})

    assert (first.status_code, second.status_code) == (200, 412)
    assert second.json()["code"] == "schedule_changed"
    assert (await http.get(address)).headers["etag"] == first.headers["etag"] != seen


async def test_of_two_changes_of_the_same_at_once_one_is_refused(http: httpx.AsyncClient) -> None:
    address = f"/v1/schedules/{(await _schedule(http))['id']}"
    seen = (await http.get(address)).headers["etag"]
    answers = await asyncio.gather(
        *(http.patch(address, json={"name": name}, headers={"If-Match": seen}) for name in ("mine", "yours", "theirs"))
    )

    (done,) = [answer for answer in answers if answer.status_code == 200]
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
    assert (await http.get(address)).json()["name"] == done.json()["name"]


async def test_changed_task_keeps_only_what_differs_from_the_defaults_so_that_older_releases_can_read_it(
    http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    made = await _schedule(http)
    task = {"repository": "/other", "problem_statement": "update the dependencies", "limits": {"max_steps": 7}}

    changed = await http.patch(f"/v1/schedules/{made['id']}", json={"task": task})

    assert changed.json()["task"]["limits"]["max_steps"] == 7
    async with process[0].database.reading() as db:
        assert (await db.execute(select(schedules.c.task))).scalar_one() == task


async def test_schedule_of_a_newer_release_is_said_to_be_one_and_left_to_that(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    newer, mine = await _schedule(http), await _schedule(http, name="mine")
    async with process[0].database.writing() as transaction:
        its = schedules.c.schedule_id == newer["id"]
        await transaction.db.execute(update(schedules).where(its).values(task=NIGHTLY["task"] | {"of_tomorrow": 1}))
    world.now += timedelta(days=1)

    assert await _serve(process[1]) == 1

    assert (await _shown(http, mine))["last_task_id"] == (await _tasks(http))[0]["id"]
    refused = await http.get(f"/v1/schedules/{newer['id']}")
    assert (refused.status_code, refused.json()["code"]) == (503, "store_too_new")
    assert "task.of_tomorrow" in refused.json()["detail"]
    async with process[0].database.reading() as db:
        assert (await db.execute(select(schedules.c.taken_until).where(its))).scalar_one() is None


async def test_a_damaged_schedule_keeps_no_other_from_being_served(
    world: World, http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    damaged, mine = await _schedule(http), await _schedule(http, name="mine")
    async with process[0].database.writing() as transaction:
        its = schedules.c.schedule_id == damaged["id"]
        await transaction.db.execute(update(schedules).where(its).values(task={"repository": 5}))
    world.now += timedelta(days=1)

    assert await _serve(process[1]) == 1

    assert (await _shown(http, mine))["last_task_id"] == (await _tasks(http))[0]["id"]
    refused = await http.get(f"/v1/schedules/{damaged['id']}")
    assert (refused.status_code, refused.json()["code"]) == (500, "store_damaged")


async def test_schedules_and_evaluations_go_with_their_project(
    http: httpx.AsyncClient, process: tuple[Store, FastAPI]
) -> None:
    await http.post("/v1/projects", json={"id": "web"})
    http.headers["Mimo-Project"] = "web"
    made = await _schedule(http)
    await http.post("/v1/evals", json={"name": "release", "tasks": [NIGHTLY["task"]]})
    await Retention(process[0].database).purge("web")

    assert await Schedules(process[0].database).get("web", made["id"]) is None
    assert await Evals(process[0].database).all("web") == ((), None)


async def test_schedule_is_listed_and_forgotten(http: httpx.AsyncClient) -> None:
    made = await _schedule(http)
    listed = (await http.get("/v1/schedules")).json()["schedules"]
    address = f"/v1/schedules/{made['id']}"
    gone = [(await http.delete(address)).status_code, (await http.get(address)).status_code]

    assert (listed, gone) == ([made], [204, 404])


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"cron": "every day"}, "#/cron"),
        ({"cron": "61 * * * *"}, "#/cron"),
        ({"cron": "0 0 30 2 *"}, "#/cron"),
        ({"cron": "*/5 * * * * *"}, "#/cron"),
        ({"time_zone": "Mars/Olympus"}, "#/time_zone"),
        ({"time_zone": "../../etc/passwd"}, "#/time_zone"),
        ({"time_zone": "Europe"}, "#/time_zone"),
        ({"task": {"repository": "/gone", "problem_statement": "x"}}, "#/task/repository"),
        ({"task": {"repository": "/repo", "problem_statement": " "}}, "#/task/problem_statement"),
    ],
)
async def test_schedule_that_cannot_be_is_pointed_at(
    world: World, http: httpx.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    world.gone = {"/gone"}
    answer = await http.post("/v1/schedules", json=NIGHTLY | change)

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), answer.text
