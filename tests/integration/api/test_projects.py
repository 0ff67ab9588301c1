"""Projects, their secrets, and what the audit log says of who changed them."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from agent.api.app import create_app
from agent.api.issuers import identity_settings
from agent.config import ModelSettings, Prices
from agent.errors import SettingsError
from agent.integrations.remote import Reach
from agent.store.base import Store
from agent.store.open import open_store
from agent.store.secrets import SecretBox, secret_box_of

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own key"
KEY = Fernet.generate_key().decode()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("sqlite://") as opened:
        yield opened


@pytest.fixture
async def http(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(store, _resolve, api_key=OPERATOR, secret_box=SecretBox(KEY), reach=Reach(paths=(Path("/r"),)))
    async with client(app) as opened:
        await opened.post("/v1/projects", json={"id": "web"})
        yield opened


def client(app: Any, key: str = OPERATOR) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mimo.example", headers=headers)


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40


# Projects.


async def test_project_is_made_changed_and_listed(http: httpx.AsyncClient) -> None:
    made = await http.post("/v1/projects", json={"id": "data", "weight": 2.0, "max_running": 3})
    change = {"max_running": None, "retention_days": 30, "daily_tokens": 5_000_000_000}
    changed = await http.patch("/v1/projects/data", json=change)
    listed = (await http.get("/v1/projects")).json()["projects"]

    assert (made.status_code, made.headers["location"]) == (201, "/v1/projects/data")
    money = dict.fromkeys(("daily_cost", "daily_cost_per_user", "monthly_cost", "monthly_cost_per_user"))
    wanted = change | {"id": "data", "weight": 2.0, "max_running_per_user": None, "daily_tokens_per_user": None} | money
    assert changed.json() == wanted
    assert [project["id"] for project in listed] == ["data", "default", "web"]
    assert listed[0] == wanted


async def test_limits_of_money_are_set_and_told_where_there_are_prices(store: Store) -> None:
    prices = Prices(prompt=1, cached=0.1, completion=2)
    money = {"daily_cost": 2.5, "daily_cost_per_user": 1.0, "monthly_cost": 40.0, "monthly_cost_per_user": None}
    async with client(create_app(store, _resolve, api_key=OPERATOR, model=ModelSettings(prices=prices))) as http:
        changed = (await http.patch("/v1/projects/default", json=money)).json()
        told = (await http.get("/v1/limits")).json()
        kept = (await http.patch("/v1/projects/default", json={"weight": 2.0})).json()

    assert {name: changed[name] for name in money} == money
    assert {name: told[name] for name in money} == money
    assert {name: kept[name] for name in money} == money


@pytest.mark.parametrize("name", ["daily_cost", "daily_cost_per_user", "monthly_cost", "monthly_cost_per_user"])
async def test_a_limit_of_money_is_refused_where_nothing_has_a_price(http: httpx.AsyncClient, name: str) -> None:
    for answer in (
        await http.patch("/v1/projects/web", json={name: 1.0}),
        await http.post("/v1/projects", json={"id": "data", name: 1.0}),
    ):
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{name}")
        assert "MIMO_MODEL_PRICES" in answer.json()["remedy"]
    assert (await http.patch("/v1/projects/web", json={name: None})).status_code == 200


@pytest.mark.parametrize("project", ["Web", "-web", "web-", "we_b", "we.b", "w" * 64, "", "wéb", "web\n"])
async def test_project_id_that_fits_no_path_is_refused(http: httpx.AsyncClient, project: str) -> None:
    answer = await http.post("/v1/projects", json={"id": project})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/id")


async def test_tasks_are_seen_in_their_project_only(http: httpx.AsyncClient) -> None:
    task = {"repository": "/repo", "problem_statement": "of web"}
    made = (await http.post("/v1/tasks", json=task, headers={"Mimo-Project": "web"})).json()
    here = await http.get("/v1/tasks")
    there = await http.get("/v1/tasks", headers={"Mimo-Project": "web"})

    assert here.json()["tasks"] == []
    assert [found["id"] for found in there.json()["tasks"]] == [made["id"]]
    assert (await http.get(f"/v1/tasks/{made['id']}")).status_code == 404


# Secrets.


async def test_operators_see_the_usage_of_every_project_and_others_do_not(http: httpx.AsyncClient) -> None:
    wanted = {"name": "boss", "scopes": ["tasks:read", "tasks:write", "projects:admin"]}
    key = (await http.post("/v1/projects/web/api_keys", json=wanted)).json()["secret"]
    boss = {"Authorization": f"Bearer {key}"}
    for headers in (boss, boss, {}):
        task = {"repository": "/r", "problem_statement": "x"}
        assert (await http.post("/v1/tasks", json=task, headers=headers)).is_success
    by_project = {"group_by": "project,user"}

    every = (await http.get("/v1/usage", params=by_project)).json()["usage"]
    refused = await http.get("/v1/usage", params=by_project, headers=boss)

    assert [(sums["group"]["project"], sums["num_tasks"]) for sums in every] == [("default", 1), ("web", 2)]
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert [sums["num_tasks"] for sums in (await http.get("/v1/usage", headers=boss)).json()["usage"]] == [2]


async def test_secret_is_named_and_never_shown(http: httpx.AsyncClient, store: Store) -> None:
    put = await http.put("/v1/projects/web/secrets/TOKEN", json={"value": "hunter2"})
    listed = await http.get("/v1/projects/web/secrets")
    sealed = await store.identities.sealed_secret("web", "TOKEN")

    assert put.json()["name"] == listed.json()["secrets"][0]["name"] == "TOKEN"
    assert "hunter2" not in put.text + listed.text
    assert sealed is not None
    assert b"hunter2" not in sealed
    assert SecretBox(KEY).open("web", "TOKEN", sealed) == "hunter2"


async def test_secret_is_replaced_and_forgotten(http: httpx.AsyncClient, store: Store) -> None:
    for value in ("first", "second"):
        await http.put("/v1/projects/web/secrets/TOKEN", json={"value": value})
    sealed = await store.identities.sealed_secret("web", "TOKEN")
    assert sealed is not None
    assert SecretBox(KEY).open("web", "TOKEN", sealed) == "second"

    assert (await http.delete("/v1/projects/web/secrets/TOKEN")).status_code == 204
    assert (await http.delete("/v1/projects/web/secrets/TOKEN")).json()["code"] == "unknown_secret"
    assert await store.identities.sealed_secret("web", "TOKEN") is None


async def test_rejected_secret_is_not_repeated_in_the_answer(http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/projects/web/secrets/TOKEN", json={"value": ["hunter2"]})

    assert answer.status_code == 422
    assert "hunter2" not in answer.text


async def test_service_without_a_key_for_them_keeps_no_secrets(store: Store) -> None:
    async with client(create_app(store, _resolve, api_key=OPERATOR)) as http:
        answer = await http.put("/v1/projects/default/secrets/TOKEN", json={"value": "hunter2"})

    assert (answer.status_code, answer.json()["code"]) == (409, "no_secrets_key")


def test_secret_put_elsewhere_in_the_database_does_not_open() -> None:
    sealed = SecretBox(KEY).seal("web", "TOKEN", "hunter2")

    for place in (("data", "TOKEN"), ("web", "OTHER")):
        with pytest.raises(SettingsError, match="another place"):
            SecretBox(KEY).open(*place, sealed)


def test_key_for_secrets_is_replaced_by_putting_the_new_one_first() -> None:
    new = Fernet.generate_key().decode()
    old = SecretBox(KEY).seal("web", "TOKEN", "hunter2")
    both = SecretBox(f"{new}, {KEY}")

    assert both.open("web", "TOKEN", old) == "hunter2"
    assert SecretBox(new).open("web", "TOKEN", both.seal("web", "TOKEN", "hunter3")) == "hunter3"
    with pytest.raises(SettingsError, match="no key"):
        SecretBox(new).open("web", "TOKEN", old)


def test_key_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(SettingsError) as refused:
        secret_box_of({"MIMO_SECRETS_KEY": "hunter2"})

    assert "hunter2" not in str(refused.value)


# Repositories on the service's machine.


async def test_only_operators_take_a_path_that_is_not_listed(http: httpx.AsyncClient) -> None:
    made = await http.post("/v1/projects/web/api_keys", json={"name": "ci", "scopes": ["tasks:write"]})
    key = {"Authorization": f"Bearer {made.json()['secret']}"}
    statuses = []
    for path in ("/r", "/r/below", "/rest", "/r/../etc"):
        answer = await http.post("/v1/tasks", json={"repository": path, "problem_statement": "x"}, headers=key)
        statuses.append(answer.status_code)
    by_operator = await http.post("/v1/tasks", json={"repository": "/rest", "problem_statement": "x"})

    assert (statuses, by_operator.status_code) == ([202, 202, 422, 422], 202)
    assert "MIMO_REPOSITORY_PATHS" in answer.json()["detail"]


# The audit log.


async def test_audit_log_says_who_did_what_and_under_which_request(http: httpx.AsyncClient) -> None:
    body = {"name": "ci", "scopes": ["tasks:read", "tasks:write"]}
    made = await http.post("/v1/projects/web/api_keys", json=body)
    key = {"Authorization": f"Bearer {made.json()['secret']}"}
    task = await http.post("/v1/tasks", json={"repository": "/r", "problem_statement": "x"}, headers=key)
    await http.post(f"/v1/tasks/{task.json()['id']}/cancel", headers=key)
    entries = (await http.get("/v1/audit", headers={"Mimo-Project": "web"})).json()["entries"]

    key_id, task_path = made.json()["key"]["id"], f"/v1/tasks/{task.json()['id']}"
    assert [(entry["subject"], entry["action"], entry["target"], entry["status"]) for entry in entries] == [
        (key_id, "POST /v1/tasks/{task_id}/cancel", f"{task_path}/cancel", 202),
        (key_id, "POST /v1/tasks", task_path, 202),
        ("bootstrap", "POST /v1/projects/{project_id}/api_keys", f"/v1/projects/web/api_keys/{key_id}", 201),
    ]
    assert entries[1]["request_id"] == task.headers["x-request-id"]
    assert made.json()["secret"] not in str(entries)


async def test_audit_log_notes_what_was_forbidden_and_neither_reading_nor_mistakes(http: httpx.AsyncClient) -> None:
    made = await http.post("/v1/projects/web/api_keys", json={"name": "weak", "scopes": ["tasks:read"]})
    weak = {"Authorization": f"Bearer {made.json()['secret']}"}
    await http.post("/v1/tasks", json={"repository": "/r", "problem_statement": "x"}, headers=weak)
    web = {"Mimo-Project": "web"}
    await http.get("/v1/tasks", headers=web)
    await http.post("/v1/tasks", json={"repository": 1}, headers=web)
    await http.post("/v1/nothing", headers=web)
    entries = (await http.get("/v1/audit", headers=web)).json()["entries"]

    assert [(entry["action"], entry["status"]) for entry in entries] == [
        ("POST /v1/tasks", 403),
        ("POST /v1/projects/{project_id}/api_keys", 201),
    ]


async def test_audit_log_is_read_in_pages(http: httpx.AsyncClient) -> None:
    for number in range(5):
        await http.put(f"/v1/projects/web/secrets/S{number}", json={"value": "x"})
    found: list[str] = []
    cursor = None
    while True:
        query: dict[str, Any] = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = (await http.get("/v1/audit", params=query, headers={"Mimo-Project": "web"})).json()
        found += [entry["target"] for entry in page["entries"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert found == [f"/v1/projects/web/secrets/S{number}" for number in (4, 3, 2, 1, 0)]


async def test_cursor_is_of_no_use_to_another_project_nor_for_another_list(http: httpx.AsyncClient) -> None:
    for number in range(2):
        await http.put(f"/v1/projects/web/secrets/S{number}", json={"value": "x"})
    web = {"Mimo-Project": "web"}
    cursor = (await http.get("/v1/audit", params={"limit": 1}, headers=web)).json()["next_cursor"]
    assert not cursor.isdecimal()

    elsewhere = await http.get("/v1/audit", params={"cursor": cursor})
    other_lists = [await http.get(path, params={"cursor": cursor}, headers=web) for path in ("/v1/tasks", "/v1/evals")]

    for refused in (elsewhere, *other_lists):
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["parameter"] == "cursor"


# Settings.

ISSUER = """
[[issuers]]
name = "github"
url = "https://token.actions.githubusercontent.com"
audience = "mimo-coder"
kind = "workload"

[[issuers.grants]]
project = "web"
role = "member"
claims = { repository = "acme/web" }
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"workload"', '"work"', "issuers.0.kind"),
        ("https://token", "http://token", "https://"),
        ('claims = { repository = "acme/web" }', "claims = {}", "must name claims"),
        ('role = "member"', "", "role or scopes"),
        ('role = "member"', 'scopes = ["tasks:all"]', "issuers.0.grants.0.scopes"),
        ('project = "web"', 'project = "We b"', "issuers.0.grants.0.project"),
        ('kind = "workload"', 'kind = "workload"\nalgorithms = ["HS256"]', "algorithms"),
        ('kind = "workload"', 'kind = "workload"\nleeway_s = 86400', "leeway_s"),
        ('kind = "workload"', 'kind = "workload"\nsecret = "x"', "issuers.0.secret"),
        (ISSUER, ISSUER + ISSUER, "same name"),
        ("[[issuers]]", "[[issuers]", "cannot be read"),
    ],
)
async def test_settings_that_cannot_be_are_refused_by_name(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    file = tmp_path / "identity.toml"
    file.write_text(ISSUER)
    environment = {"MIMO_IDENTITY_SETTINGS": str(file)}
    assert identity_settings(environment).issuers[0].name == "github"

    file.write_text(ISSUER.replace(old, new))
    with pytest.raises(SettingsError, match=re.escape(complaint)):
        identity_settings(environment)


def test_settings_on_the_page_for_operators_are_accepted(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "identity.md").read_text("utf-8")
    file = tmp_path / "identity.toml"
    file.write_text("".join(re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)))

    settings = identity_settings({"MIMO_IDENTITY_SETTINGS": str(file)})

    assert [issuer.name for issuer in settings.issuers] == ["company", "github", "cluster"]
    assert settings.login is settings.issuers[0]
