"""Bad input is answered with a problem document that says what to do."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agent.api.app import create_app
from agent.store.base import Store

from .conftest import resolve_commit

pytestmark = pytest.mark.anyio

TASK: dict[str, Any] = {"repository": "/repo", "problem_statement": "add() subtracts"}


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["remedy"]
    assert document["type"].startswith("urn:")
    assert document["instance"] == answer.request.url.path
    assert document["request_id"].startswith("req_")
    return document


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"problem_statement": ""}, "#/problem_statement"),
        ({"problem_statement": " \n "}, "#/problem_statement"),
        ({"problem_statement": "x" * 100_001}, "#/problem_statement"),
        ({"problem_statement": 7}, "#/problem_statement"),
        ({"problem_statement": None}, "#/problem_statement"),
        ({"repository": "relative/path"}, "#/repository"),
        ({"repository": "https://example.org/repo.git"}, "#/repository"),
        ({"repository": "/re\0po"}, "#/repository"),
        ({"limits": {"max_steps": 0}}, "#/limits/max_steps"),
        ({"limits": {"max_steps": -1}}, "#/limits/max_steps"),
        ({"limits": {"max_steps": "5"}}, "#/limits/max_steps"),
        ({"limits": {"max_steps": True}}, "#/limits/max_steps"),
        ({"limits": {"wall_clock_s": 0}}, "#/limits/wall_clock_s"),
        ({"limits": {"max_tokens": -5}}, "#/limits/max_tokens"),
        ({"limits": {"command_timeout_s": -0.5}}, "#/limits/command_timeout_s"),
        ({"limits": {"steps": 5}}, "#/limits/steps"),
        ({"model": {"temperature": 3}}, "#/model/temperature"),
        ({"attempts": 0}, "#/attempts"),
        ({"attempts": 1.5}, "#/attempts"),
        ({"checks": [{"command": "true"}, {"command": ""}]}, "#/checks/1/command"),
        ({"checks": "pytest"}, "#/checks"),
        ({"profile": "expert"}, "#/profile"),
        ({"labels": {"a/b~c": 1}}, "#/labels/a~1b~0c"),
        ({"repo": "/x"}, "#/repo"),
    ],
)
async def test_rejected_value_is_pointed_at(api: httpx.AsyncClient, change: dict[str, Any], pointer: str) -> None:
    code = "invalid_repository" if "repository" in change else "invalid_request"
    document = _problem(await api.post("/v1/tasks", json={**TASK, **change}), 422, code)

    assert [error["pointer"] for error in document["errors"]] == [pointer]
    assert (await api.get("/v1/tasks")).json()["tasks"] == []


async def test_missing_fields_are_all_named(api: httpx.AsyncClient) -> None:
    document = _problem(await api.post("/v1/tasks", json={}), 422, "invalid_request")

    assert {error["pointer"] for error in document["errors"]} == {"#/repository", "#/problem_statement"}


@pytest.mark.parametrize("body", [b"{", b"", b"nonsense", b'{"repository": "\xff"}', b'{"a": "\\ud800"}'])
async def test_broken_json_is_a_bad_request(api: httpx.AsyncClient, body: bytes) -> None:
    _problem(
        await api.post("/v1/tasks", content=body, headers={"Content-Type": "application/json"}), 400, "invalid_json"
    )


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"'])
async def test_body_that_is_no_object_is_rejected(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/v1/tasks", content=body, headers={"Content-Type": "application/json"})

    assert _problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "#"


async def test_form_is_not_taken_for_json(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/tasks", content=json.dumps(TASK), headers={"Content-Type": "text/plain"})

    _problem(answer, 415, "unsupported_media_type")


async def test_unusable_repository_says_what_to_do(api: httpx.AsyncClient) -> None:
    document = _problem(await api.post("/v1/tasks", json={**TASK, "repository": "/missing"}), 422, "invalid_repository")

    assert document["errors"] == [{"pointer": "#/repository", "detail": document["detail"]}]
    assert "give the path of a git repository" in document["detail"]


@pytest.mark.parametrize("declared", [True, False])
async def test_ten_megabytes_are_refused_with_the_limit(api: httpx.AsyncClient, declared: bool) -> None:
    body = json.dumps({**TASK, "problem_statement": "x" * 10_000_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    content = body if declared else chunks()
    answer = await api.post("/v1/tasks", content=content, headers={"Content-Type": "application/json"})

    document = _problem(answer, 413, "body_too_large")
    assert "2,097,152" in document["detail"]
    assert "100,000 characters" in document["remedy"]


@pytest.mark.parametrize("path", ["", "/events", "/diff"])
async def test_unknown_task_is_not_found(api: httpx.AsyncClient, path: str) -> None:
    _problem(await api.get(f"/v1/tasks/task_nope{path}"), 404, "unknown_task")


async def test_cancel_of_an_unknown_task_is_not_found(api: httpx.AsyncClient) -> None:
    _problem(await api.post("/v1/tasks/task_nope/cancel"), 404, "unknown_task")


async def test_stream_of_an_unknown_task_is_not_found(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/tasks/task_nope/events", headers={"Accept": "text/event-stream"})

    _problem(answer, 404, "unknown_task")


async def test_unknown_path_is_not_found(api: httpx.AsyncClient) -> None:
    _problem(await api.get("/v2/tasks"), 404, "not_found")


async def test_wrong_method_names_the_right_ones(api: httpx.AsyncClient) -> None:
    answer = await api.delete("/v1/tasks")

    _problem(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("status=done", "status"),
        ("cursor=!", "cursor"),
    ],
)
async def test_bad_query_parameter_is_named(api: httpx.AsyncClient, query: str, parameter: str) -> None:
    document = _problem(await api.get(f"/v1/tasks?{query}"), 422, "invalid_request")

    assert [error["parameter"] for error in document["errors"]] == [parameter]


async def test_bad_last_event_id_is_named(api: httpx.AsyncClient) -> None:
    task_id = (await api.post("/v1/tasks", json=TASK)).json()["id"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "yesterday"}

    document = _problem(await api.get(f"/v1/tasks/{task_id}/events", headers=headers), 422, "invalid_request")

    assert document["errors"][0]["parameter"].lower() == "last-event-id"


async def test_name_of_another_host_is_refused(api: httpx.AsyncClient) -> None:
    _problem(await api.get("/v1/tasks", headers={"Host": "rebound.example:8700"}), 421, "foreign_host")


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://[bad", "null", ""])
async def test_page_of_another_origin_is_refused(api: httpx.AsyncClient, origin: str) -> None:
    answer = await api.post("/v1/tasks", json=TASK, headers={"Origin": origin})

    _problem(answer, 403, "foreign_origin")


async def test_failure_inside_is_a_problem_document_too(store: Store) -> None:
    async def broken(path: object, commit: object) -> str:
        raise ZeroDivisionError

    transport = httpx.ASGITransport(create_app(store, broken), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        document = _problem(await client.post("/v1/tasks", json=TASK), 500, "internal_error")

    assert "ZeroDivision" not in str(document)


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", "Basic c2VjcmV0", "Bearer gehe\u00efm"])
async def test_key_is_required_where_one_is_set(store: Store, authorization: str | None) -> None:
    transport = httpx.ASGITransport(create_app(store, resolve_commit, api_key="secret"))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.example") as client:
        headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}
        refused = await client.get("/v1/tasks", headers=headers)
        admitted = await client.get("/v1/tasks", headers={"Authorization": "Bearer secret"})
        probe = await client.get("/livez")

    _problem(refused, 401, "unauthenticated")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert (admitted.status_code, probe.status_code) == (200, 200)


async def test_description_lists_the_strict_body_and_the_problem_document(api: httpx.AsyncClient) -> None:
    description = (await api.get("/openapi.json")).json()

    body = description["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/NewTask"}
    schemas = description["components"]["schemas"]
    assert {"NewTask", "Limits", "ProblemDocument", "TaskView"} <= schemas.keys()
    assert "HTTPValidationError" not in json.dumps(description)


async def test_probes_answer(api: httpx.AsyncClient) -> None:
    assert (await api.get("/livez")).json() == {"status": "alive"}
    assert (await api.get("/readyz")).json() == {"status": "ready", "checks": {"store": "ok"}}


async def test_every_answer_carries_a_request_id(api: httpx.AsyncClient) -> None:
    ok, missing = await api.get("/livez"), await api.get("/nope")

    assert ok.headers["X-Request-Id"].startswith("req_")
    assert missing.headers["X-Request-Id"] == missing.json()["request_id"]
