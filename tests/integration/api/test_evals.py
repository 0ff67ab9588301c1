"""Evaluations over REST: tasks that are queued and counted together."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.api.app import create_app
from agent.config import ModelSettings, Prices
from agent.errors import RepositoryError
from agent.store.base import RunResult, Store
from agent.store.open import open_store
from agent.store.repos import Repos, RepoSettings
from agent.telemetry import Telemetry
from agent.types import Status, StopReason, TaskRequest, Verdict, VerdictKind
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

MODEL = ModelSettings(prices=Prices(prompt=1.0, cached=0.1, completion=2.0))


def _task(number: int, **more: Any) -> dict[str, Any]:
    return {"repository": f"/repo/{number}", "problem_statement": f"problem {number}", **more}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path}/mimo.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.new_database()
    async with open_store(url) as opened:
        yield opened


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "small.json").write_text(json.dumps({"tasks": [_task(1, labels={"kind": "swap"}), _task(2)]}))
    (folder / "broken.json").write_text(json.dumps({"tasks": [{"repository": "/repo"}]}))
    (folder / "notes.txt").write_text("no suite")
    return folder


@pytest.fixture
async def http(store: Store, suites: Path) -> AsyncIterator[httpx.AsyncClient]:
    async def resolve(path: Path, commit: str) -> str:
        if path == Path("/gone"):
            raise RepositoryError("/gone does not exist; give the path of a git repository")
        return "c" * 40

    app = create_app(store, resolve, model=MODEL, suites=suites)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


async def _submit(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/v1/evals", json={"name": "release", **body})
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/evals/{made['id']}"
    return made


async def _shown(http: httpx.AsyncClient, made: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = (await http.get(f"/v1/evals/{made['id']}")).json()
    return shown


async def _end(store: Store, status: Status, verdict: VerdictKind | None, stop: StopReason | None) -> None:
    """End the run whose turn it is, after a step of a thousand tokens."""
    claim = await store.claim("worker", 60)
    assert claim is not None
    usage = {"prompt_tokens": 800_000, "cached_tokens": 0, "completion_tokens": 200_000, "reasoning_tokens": 0}
    body = {
        "step": 1,
        "message": {"content": "done"},
        "usage": usage,
        "duration_s": 1.0,
        "temperature": 0.3,
        "thinking": True,
    }
    await store.append(claim.run_id, claim.generation, "step.message", body)
    found = Verdict(kind=verdict) if verdict else None
    result = RunResult(status=status, verdict=found, stop_reason=stop)
    await store.finish(claim.run_id, claim.generation, result)


async def test_tasks_are_queued_in_the_background_and_counted_together(store: Store, http: httpx.AsyncClient) -> None:
    other = (await http.post("/v1/tasks", json=_task(9))).json()["id"]
    made = await _submit(http, tasks=[_task(number, priority="high") for number in range(4)])
    claim = await store.claim("worker", 60)
    assert claim is not None
    first = claim.task
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
    await _end(store, Status.SUCCEEDED, VerdictKind.VERIFIED, StopReason.FINISHED)
    await _end(store, Status.SUCCEEDED, VerdictKind.NO_CHANGE, StopReason.FINISHED)
    await _end(store, Status.FAILED, None, StopReason.MODEL_ERROR)
    shown = await _shown(http, made)

    assert first.id == other
    shown_tasks = [(await http.get(f"/v1/tasks/{task['task_id']}")).json() for task in made["tasks"]]
    assert {task["priority"] for task in shown_tasks} == {"background"}
    assert (made["statuses"], made["ended"], made["num_tasks"]) == ({"queued": 4}, False, 4)
    assert shown["statuses"] == {"succeeded": 2, "failed": 1, "queued": 1}
    report = shown["report"]
    assert report["resolved"] == {"total": 3, "resolved": 1, "rate": 0.3333, "interval": [0.0615, 0.7923]}
    assert report["verdicts"] == {"verified": 1, "no_change": 1}
    assert report["stop_reasons"] == {"finished": 2, "model_error": 1}
    assert (report["usage"]["num_tasks"], report["usage"]["usage"]["prompt_tokens"]) == (4, 2_400_000)
    assert report["usage"]["cost"] == pytest.approx(3 * (0.8 + 0.4))
    assert [task["verdict"] for task in shown["tasks"]] == ["verified", "no_change", None, None]


async def test_evaluation_ends_with_the_last_of_its_tasks(store: Store, http: httpx.AsyncClient) -> None:
    made = await _submit(http, tasks=[_task(1)])
    await _end(store, Status.SUCCEEDED, VerdictKind.VERIFIED, StopReason.FINISHED)
    shown = await _shown(http, made)
    too_late = await http.post(f"/v1/evals/{made['id']}/cancel")

    assert (made["finished_at"], shown["ended"]) == (None, True)
    assert shown["finished_at"] is not None
    assert (too_late.status_code, too_late.json()["code"]) == (409, "eval_already_ended")


async def test_one_task_that_cannot_be_used_refuses_them_all(http: httpx.AsyncClient) -> None:
    body = {"name": "release", "tasks": [_task(1), {"repository": "/gone", "problem_statement": "x"}]}
    answer = await http.post("/v1/evals", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/tasks/1/repository")
    assert (await http.get("/v1/evals")).json() == {"evals": [], "next_cursor": None}
    assert (await http.get("/v1/tasks")).json()["tasks"] == []


async def test_cancelled_evaluation_leaves_its_unfinished_tasks(store: Store, http: httpx.AsyncClient) -> None:
    made = await _submit(http, tasks=[_task(1), _task(2), _task(3)])
    await _end(store, Status.SUCCEEDED, VerdictKind.VERIFIED, StopReason.FINISHED)
    cancelled = await http.post(f"/v1/evals/{made['id']}/cancel")
    again = await http.post(f"/v1/evals/{made['id']}/cancel")

    assert (cancelled.status_code, again.json()) == (202, cancelled.json())
    shown = cancelled.json()
    assert (shown["cancel_requested"], shown["ended"]) == (True, True)
    assert shown["statuses"] == {"succeeded": 1, "cancelled": 2}
    assert (shown["report"]["resolved"]["resolved"], shown["report"]["resolved"]["total"]) == (1, 1)


async def test_suite_of_the_service_is_named_and_submitted(http: httpx.AsyncClient) -> None:
    named = (await http.get("/v1/suites")).json()["suites"]
    made = await _submit(http, suite="small", attempts=2, model={"temperature": 0.0, "seed": 1})
    task = (await http.get(f"/v1/tasks/{made['tasks'][0]['task_id']}")).json()

    assert named == ["broken", "small"]
    assert (made["suite"], made["num_tasks"], made["tasks"][0]["labels"]) == ("small", 2, {"kind": "swap"})
    assert (len(task["attempts"]), task["model"]["temperature"], task["model"]["seed"]) == (2, 0.0, 1)


@pytest.mark.parametrize(
    ("tasks", "benchmark", "expected"),
    [
        ({"suite": "small"}, True, [True, True]),
        ({"tasks": [_task(1, benchmark=True), _task(2)]}, None, [True, False]),
        ({"tasks": [_task(1, benchmark=True), _task(2)]}, False, [False, False]),
    ],
    ids=["suite", "each its own", "none"],
)
async def test_evaluation_says_whether_its_tasks_are_measured(
    store: Store, http: httpx.AsyncClient, tasks: dict[str, Any], benchmark: bool | None, expected: list[bool]
) -> None:
    made = await _submit(http, **tasks, benchmark=benchmark)

    assert [task.benchmark for task in await _requests(store, made)] == expected


async def test_measured_task_is_denied_the_host_of_its_repository(store: Store, http: httpx.AsyncClient) -> None:
    """The full id of a commit is believed, so no host is asked."""
    for name, url in (("web", "https://Git.Example.org/web.git"), ("ssh", "ssh://git@10.0.0.9/ssh.git")):
        await Repos(store.database).create("default", name, RepoSettings(url=url, host_key="a b"), updated_by="a test")
    tasks = [
        {"repository": name, "base_commit": "c" * 40, "problem_statement": "x", "deny_hosts": ["mirror.example.org"]}
        for name in ("web", "ssh")
    ]
    measured = await _requests(store, await _submit(http, tasks=tasks, benchmark=True))
    others = await _requests(store, await _submit(http, tasks=tasks))

    denied = [task.deny_hosts for task in measured + others]
    assert denied == [("mirror.example.org", "git.example.org"), *[("mirror.example.org",)] * 3]


async def _requests(store: Store, made: dict[str, Any]) -> list[TaskRequest]:
    found = store.of("default")
    return [(await found.get(task["task_id"])).request for task in made["tasks"]]


async def test_each_task_has_a_trace_of_its_own_with_a_link_to_the_evaluation(store: Store) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))

    async def resolve(path: Path, commit: str) -> str:
        return "c" * 40

    app = create_app(store, resolve, telemetry=Telemetry(provider, "mimo"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        made = await _submit(client, tasks=[_task(1), _task(2)])
    submissions = [(await store.of("default").events(task["task_id"], limit=1))[0] for task in made["tasks"]]

    *tasks, request = spans.get_finished_spans()
    assert (request.name, [task.name for task in tasks]) == ("POST /v1/evals", ["task", "task"])
    assert [[link.context.span_id for link in task.links] for task in tasks] == [[request.context.span_id]] * 2
    assert [task.attributes for task in tasks] == [{"mimo.submitted_by": "eval"}] * 2
    traces = [f"{task.context.trace_id:032x}-{task.context.span_id:016x}" for task in tasks]
    assert [event.body["traceparent"].rpartition("-")[0] for event in submissions] == [f"00-{each}" for each in traces]
    assert len({request.context.trace_id, *(task.context.trace_id for task in tasks)}) == 3


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({}, "#/tasks", "Either tasks or suite"),
        ({"tasks": [_task(1)], "suite": "small"}, "#/tasks", "Either tasks or suite"),
        ({"tasks": []}, "#/tasks", "at least 1"),
        ({"tasks": [_task(1) | {"problem_statement": " "}]}, "#/tasks/0/problem_statement", "blank"),
        ({"suite": "other"}, "#/suite", "no suite 'other'"),
        ({"suite": "../suites/small"}, "#/suite", "no suite"),
        ({"suite": "broken"}, "#/suite", "tasks.0.problem_statement"),
    ],
)
async def test_evaluation_that_cannot_be_is_pointed_at(
    http: httpx.AsyncClient, body: dict[str, Any], pointer: str, said: str
) -> None:
    answer = await http.post("/v1/evals", json={"name": "release", **body})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), answer.text
    assert said in answer.json()["detail"]


async def test_evaluations_are_paged_newest_first(http: httpx.AsyncClient) -> None:
    made = [(await _submit(http, name=f"number {number}", tasks=[_task(1)]))["id"] for number in range(3)]
    first = (await http.get("/v1/evals?limit=2")).json()
    rest = (await http.get(f"/v1/evals?limit=2&cursor={first['next_cursor']}")).json()

    assert [each["id"] for each in first["evals"] + rest["evals"]] == made[::-1]
    assert rest["next_cursor"] is None


async def test_request_that_is_sent_twice_is_done_once(http: httpx.AsyncClient) -> None:
    body, headers = {"name": "release", "tasks": [_task(1)]}, {"Idempotency-Key": "mine"}
    first = await http.post("/v1/evals", json=body, headers=headers)
    again = await http.post("/v1/evals", json=body, headers=headers)

    assert (again.json()["id"], again.headers["idempotent-replay"]) == (first.json()["id"], "true")
    assert len((await http.get("/v1/tasks")).json()["tasks"]) == 1


async def test_deleted_task_is_no_longer_counted(store: Store, http: httpx.AsyncClient) -> None:
    made = await _submit(http, tasks=[_task(1), _task(2)])
    await _end(store, Status.SUCCEEDED, VerdictKind.VERIFIED, StopReason.FINISHED)
    await http.delete(f"/v1/tasks/{made['tasks'][0]['task_id']}")
    shown = await _shown(http, made)

    assert (shown["num_tasks"], [task["task_id"] for task in shown["tasks"]]) == (2, [made["tasks"][1]["task_id"]])
    assert shown["report"]["resolved"]["total"] == 0
