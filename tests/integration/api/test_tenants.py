"""Two tenants on one service: every route is walked with the other's credentials.

A new route takes part by itself. It fails here until its parameters have ids in ``alpha``, it says which scope it
takes (or is listed as one that takes none), and, where it needs one, a body in ``BODIES`` or ``FORMS``.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import select
from starlette.routing import Route

from agent.api.app import create_app
from agent.api.auth import Needs
from agent.api.gate import OPEN_FOLDERS, OPEN_PATHS
from agent.identity import SCOPES, Scope
from agent.integrations.remote import Reach
from agent.store.base import RunResult, Store
from agent.store.export import Export
from agent.store.mcp_servers import McpServerSettings, ProjectMcpServers
from agent.store.open import open_store
from agent.store.repos import Repos, RepoSettings
from agent.store.retention import Retention
from agent.store.secrets import SecretBox
from agent.store.skills import ProjectSkills, SkillSettings
from agent.store.tables import metadata
from agent.types import Status

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own key"
CANARY = "canary-of-alpha"
SECRET = "hunter2"
BASE = "http://mimo.example"
PATCH = f"diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-old\n+{CANARY}\n"

ANY_MEMBER = {
    "GET /v1/me": "says who one is",
    "GET /v1/projects": "shows one's own, or for operators all",
    "GET /v1/projects/{project_id}": "is one's own, or nobody's",
    "GET /v1/projects/{project_id}/api_keys": "asks for projects:admin once the project is known to be one's own",
    "POST /v1/projects/{project_id}/api_keys": "the same",
    "DELETE /v1/projects/{project_id}/api_keys/{key_id}": "the same",
    "GET /v1/projects/{project_id}/secrets": "the same",
    "PUT /v1/projects/{project_id}/secrets/{name}": "the same",
    "DELETE /v1/projects/{project_id}/secrets/{name}": "the same",
    "POST /sign-out": "takes a cookie away",
    "POST /mcp": "every call there is a request of its own",
    "GET /acp": "says how sockets come, whose scopes are looked at when they do",
}
"""Routes that take no scope, or look at it by themselves, and why."""

NEED_A_GIT_HOST = frozenset({"PUT /v1/repos/{name}", "POST /v1/tasks/{task_id}/pull_request"})
"""There is none here, so their owner is refused, too: 422, where it is not there for others."""

NEW_TASK = {"repository": "/repo", "problem_statement": "beta's own"}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/tasks": NEW_TASK,
    "POST /v1/tasks/{task_id}/messages": {"text": "hello"},
    "POST /v1/tasks/{task_id}/fork": {"at_event": 1},
    "POST /v1/tasks/{task_id}/rewind": {"to_step": 0},
    "POST /v1/tasks/{task_id}/artifact_links": {"name": "1/patch.diff"},
    "PATCH /v1/tasks/{task_id}": {"title": "mine"},
    "POST /v1/approvals/{approval_id}": {"decision": "allow"},
    "POST /v1/chat/completions": {
        "model": "mimo-native",
        "messages": [{"role": "user", "content": "beta's own"}],
        "metadata": {"repository": "/repo"},
    },
    "POST /v1/projects": {"id": "gamma"},
    "PATCH /v1/projects/{project_id}": {"weight": 2.0},
    "POST /v1/projects/{project_id}/api_keys": {"name": "mine", "scopes": ["tasks:read"]},
    "PUT /v1/projects/{project_id}/secrets/{name}": {"value": "mine"},
    "POST /v1/webhooks": {"url": "https://hooks.example/beta"},
    "PATCH /v1/webhooks/{webhook_id}": {"enabled": False},
    "POST /v1/evals": {"name": "mine", "tasks": [NEW_TASK]},
    "POST /v1/schedules": {"name": "mine", "cron": "0 0 * * *", "task": NEW_TASK},
    "PATCH /v1/schedules/{schedule_id}": {"enabled": False},
    "POST /v1/repos": {"name": "mine", "url": "https://git.example/beta.git"},
    "POST /v1/skills": {"name": "mine", "description": "mine", "text": "mine"},
    "POST /v1/mcp_servers": {"name": "mine", "url": "https://tools.example/beta"},
    "PUT /v1/mcp_servers/{name}": {"url": "https://tools.example/beta"},
    "PUT /v1/skills/{name}": {"description": "mine", "text": "mine"},
    "PUT /v1/repos/{name}": {"url": "https://git.example/beta.git"},
}
FORMS: dict[str, dict[str, str]] = {
    "POST /sign-out": {},
    "POST /settings/keys": {"name": "mine", "role": "viewer", "days": "1"},
    "POST /settings/keys/{key_id}/revoke": {},
    "POST /settings/secrets": {"name": "MINE", "value": "mine"},
    "POST /settings/secrets/{name}/delete": {},
    "POST /settings/skills": {"name": "other", "description": "mine", "text": "mine"},
    "POST /settings/skills/{name}": {"description": "mine", "text": "mine"},
    "POST /settings/skills/{name}/delete": {},
    "POST /settings/mcp_servers": {"name": "other", "url": "https://tools.example/beta"},
    "POST /settings/mcp_servers/{name}": {"url": "https://tools.example/beta"},
    "POST /settings/mcp_servers/{name}/delete": {},
    "POST /settings/schedules": {
        "name": "other",
        "cron": "0 0 * * *",
        "repository": "/repo",
        "problem_statement": "beta's own",
    },
    "POST /settings/schedules/{schedule_id}": {
        "name": "other",
        "cron": "0 0 * * *",
        "repository": "/repo",
        "problem_statement": "beta's own",
    },
    "POST /settings/schedules/{schedule_id}/enabled": {"enabled": "no"},
    "POST /settings/schedules/{schedule_id}/run": {},
    "POST /settings/schedules/{schedule_id}/delete": {},
    "POST /settings/webhooks": {"url": "https://hooks.example/beta", "events": "task.finished"},
    "POST /settings/webhooks/{webhook_id}/enabled": {"enabled": "false"},
    "POST /settings/webhooks/{webhook_id}/delete": {},
    "POST /settings/webhooks/{webhook_id}/deliveries/{delivery_id}": {},
    "POST /tasks/{task_id}/messages/{message_id}/take_back": {},
    "POST /tasks": {"repository": "/repo", "problem_statement": "beta's own", "attempts": "1"},
    "POST /tasks/{task_id}/messages": {"text": "hello"},
    "POST /tasks/{task_id}/update": {"title": "mine"},
    "POST /tasks/{task_id}/cancel": {},
    "POST /tasks/{task_id}/pause": {},
    "POST /tasks/{task_id}/resume": {},
    "POST /tasks/{task_id}/budget": {"max_steps": "900"},
    "POST /tasks/{task_id}/approvals/{approval_id}": {"decision": "allow once"},
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: str
    path: str
    scopes: frozenset[Scope]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def open(self) -> bool:
        return self.path in OPEN_PATHS or self.path.startswith(OPEN_FOLDERS)

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"\{(\w+)", self.path)

    def filled(self, ids: dict[str, str]) -> str:
        return re.sub(r"\{(\w+)[^}]*\}", lambda match: ids[match[1]], self.path)


@dataclass(frozen=True, slots=True)
class Tenants:
    http: httpx.AsyncClient
    endpoints: tuple[Endpoint, ...]
    alpha: str
    """Key of the first tenant with every scope a tenant can have."""
    beta: str
    ids: dict[str, str]
    """What alpha has, by the name of a path's parameter."""
    store: Store

    async def call(self, endpoint: Endpoint, credential: str | None) -> httpx.Response:
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        content: dict[str, Any] = {}
        if endpoint.name in FORMS:
            content = {"data": FORMS[endpoint.name] or {"from": "here"}}
            headers["Origin"] = BASE
        elif endpoint.method in ("POST", "PUT", "PATCH"):
            content = {"json": BODIES.get(endpoint.name, {})}
        return await self.http.request(endpoint.method, endpoint.filled(self.ids), headers=headers, **content)

    async def key(self, scopes: frozenset[Scope]) -> str:
        """One of alpha's with fewer scopes."""
        _, secret = await self.store.identities.create_key(
            "alpha", "weak", scopes, created_by="a test", expires_at=None
        )
        return secret

    async def state(self) -> Any:
        """All that alpha has and another could have changed."""
        mine = self.store.of("alpha")
        identities = self.store.identities
        task = await mine.get(self.ids["task_id"])
        headers = {"Authorization": f"Bearer {self.alpha}"}
        return (
            task.model_copy(update={"updated_at": task.created_at}),
            await mine.events(task.id),
            [key.model_copy(update={"last_used_at": None}) for key in await identities.keys("alpha")],
            await identities.secrets("alpha"),
            await self.store.project("alpha"),
            (await self.http.get("/v1/webhooks", headers=headers)).json(),
            (await self.http.get("/v1/schedules", headers=headers)).json(),
            (await self.http.get("/v1/evals", headers=headers)).json(),
            (await self.http.get("/v1/skills", headers=headers)).json(),
            (await self.http.get("/v1/mcp_servers", headers=headers)).json(),
            len((await mine.list_tasks()).tasks),
        )


@pytest.fixture
async def tenants(tmp_path: Path) -> AsyncIterator[Tenants]:
    async with open_store(f"sqlite:///{tmp_path}/mimo.db", artifacts=f"file://{tmp_path}/kept") as store:
        box = SecretBox(Fernet.generate_key().decode())
        reach = Reach(paths=(Path("/repo"),))
        app = create_app(store, _resolve, api_key=OPERATOR, secret_box=box, reach=reach, answer_wait_s=0.05)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
            alpha, beta = await _tenant(http, "alpha"), await _tenant(http, "beta")
            ids = await _belongings(http, store, alpha)
            yield Tenants(http, tuple(_endpoints(app)), alpha, beta, ids, store)


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40


async def _tenant(http: httpx.AsyncClient, project: str) -> str:
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    await http.post("/v1/projects", json={"id": project}, headers=headers)
    wanted = {"name": f"all of {project}", "scopes": sorted(SCOPES - {"service:admin"})}
    made = await http.post(f"/v1/projects/{project}/api_keys", json=wanted, headers=headers)
    return str(made.json()["secret"])


async def _belongings(http: httpx.AsyncClient, store: Store, key: str) -> dict[str, str]:
    """One of everything a tenant can have, the canary in whatever holds a text."""
    headers = {"Authorization": f"Bearer {key}"}

    async def post(path: str, **body: Any) -> Any:
        answer = await http.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    hook = await post("/v1/webhooks", url=f"https://hooks.example/{CANARY}")
    repo = RepoSettings(url=f"https://git.example/{CANARY}.git")
    await Repos(store.database).create("alpha", "TOKEN", repo, updated_by=CANARY)
    server = McpServerSettings(url=f"https://tools.example/{CANARY}")
    await ProjectMcpServers(store.database).create("alpha", "TOKEN", server, updated_by=CANARY)
    skill = SkillSettings(description=CANARY, text=CANARY)
    await ProjectSkills(store.database).create("alpha", "TOKEN", skill, updated_by=CANARY)
    wanted = {"repository": "/repo", "problem_statement": CANARY, "labels": {CANARY: CANARY}}
    task_id = (await post("/v1/tasks", **wanted))["id"]
    claim = await store.claim(CANARY, 60.0)
    assert claim is not None
    asked = {"step": 1, "approval_id": "first", "parts": [CANARY]}
    call = {"id": "1", "name": "bash", "arguments": CANARY}
    await store.append(claim.run_id, claim.generation, "approval.requested", asked | {"call": call})
    message = await post(f"/v1/tasks/{task_id}/messages", text=CANARY)
    assert store.artifacts is not None
    await store.artifacts.put(claim, "1/patch.diff", PATCH.encode())
    link = await post(f"/v1/tasks/{task_id}/artifact_links", name="1/patch.diff")
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.FAILED, error=CANARY, patch=PATCH))
    schedule = await post("/v1/schedules", name=CANARY, cron="0 0 * * *", task=wanted)
    evaluation = await post("/v1/evals", name=CANARY, tasks=[wanted])
    made = await post("/v1/projects/alpha/api_keys", name=CANARY, scopes=["tasks:read"])
    secret = await http.put("/v1/projects/alpha/secrets/TOKEN", json={"value": SECRET}, headers=headers)
    assert secret.is_success, secret.text
    deliveries = (await http.get(f"/v1/webhooks/{hook['webhook']['id']}/deliveries", headers=headers)).json()
    return {
        "task_id": task_id,
        "run_id": claim.run_id,
        "message_id": message["id"],
        "approval_id": f"{task_id}.first",
        "webhook_id": hook["webhook"]["id"],
        "schedule_id": schedule["id"],
        "eval_id": evaluation["id"],
        "delivery_id": deliveries["deliveries"][0]["id"],
        "project_id": "alpha",
        "key_id": made["key"]["id"],
        "name": "TOKEN",
        "artifact": "1/patch.diff",
        "attempt": "1",
        "token": link["url"].rpartition("/")[2],
    }


def _endpoints(app: FastAPI) -> Iterator[Endpoint]:
    for included in app.routes:
        router = getattr(included, "original_router", None)
        for route in router.routes if router is not None else [included]:
            if isinstance(route, APIRoute):
                needed = [part.call.scope for part in route.dependant.dependencies if isinstance(part.call, Needs)]
                for method in route.methods or ():
                    yield Endpoint(method, route.path, frozenset(needed))
            elif isinstance(route, Route):
                yield Endpoint("GET", route.path, frozenset())


def _ordered(endpoints: tuple[Endpoint, ...]) -> list[Endpoint]:
    """What takes something away comes last, what closes the project after all."""
    order = {"GET": 0, "PUT": 1, "PATCH": 1, "POST": 2, "DELETE": 3}
    return sorted(endpoints, key=lambda e: (order[e.method], "service:admin" in e.scopes, -len(e.path)))


async def test_every_route_says_which_scope_it_takes(tenants: Tenants) -> None:
    silent = {e.name for e in tenants.endpoints if not e.scopes and not e.open and e.path != "/openapi.json"}

    assert silent == set(ANY_MEMBER)


async def test_every_route_that_changes_something_takes_more_than_the_scope_to_read(tenants: Tenants) -> None:
    weak = {e.name for e in tenants.endpoints if e.method != "GET" and e.scopes == {"tasks:read"}}

    assert weak == set()


async def test_no_route_answers_without_a_credential(tenants: Tenants) -> None:
    closed = [endpoint for endpoint in tenants.endpoints if not endpoint.open]
    answers = {endpoint.name: (await tenants.call(endpoint, None)).status_code for endpoint in closed}

    assert {name: status for name, status in answers.items() if status != 401} == {}


async def test_no_route_lets_in_whoever_lacks_its_scope(tenants: Tenants) -> None:
    answers: dict[tuple[str, Scope], int] = {}
    for endpoint in tenants.endpoints:
        for scope in endpoint.scopes:
            weak = await tenants.key(SCOPES - {"service:admin", scope})
            answers[endpoint.name, scope] = (await tenants.call(endpoint, weak)).status_code

    assert answers
    assert {name: status for name, status in answers.items() if status != 403} == {}


async def test_keys_and_secrets_are_for_administrators_of_the_project(tenants: Tenants) -> None:
    weak = await tenants.key(SCOPES - {"service:admin", "projects:admin"})
    of_project = [e for e in tenants.endpoints if re.match(r"/v1/projects/\{project_id\}/.", e.path)]
    answers = {endpoint.name: (await tenants.call(endpoint, weak)).status_code for endpoint in of_project}

    assert answers
    assert set(answers.values()) == {403}, answers


async def test_nothing_of_another_tenant_is_found(tenants: Tenants) -> None:
    before = await tenants.state()
    answers = {}
    for endpoint in _ordered(tenants.endpoints):
        if endpoint.parameters and not endpoint.open:
            answer = await tenants.call(endpoint, tenants.beta)
            assert CANARY not in answer.text.replace(endpoint.filled(tenants.ids), ""), endpoint.name
            # Beta is no operator, and is told so before it is told that there is no such project.
            refused = answer.status_code == 404 or ("service:admin" in endpoint.scopes and answer.status_code == 403)
            if not refused:
                answers[endpoint.name] = answer.status_code

    assert answers == {}
    assert await tenants.state() == before


async def test_nothing_of_another_tenant_is_in_a_list(tenants: Tenants) -> None:
    before = await tenants.state()
    wrong = {}
    for endpoint in _ordered(tenants.endpoints):
        if not endpoint.parameters:
            answer = await tenants.call(endpoint, tenants.beta)
            if CANARY in answer.text or "alpha" in answer.text or answer.status_code >= 500:
                wrong[endpoint.name] = answer.status_code

    assert wrong == {}
    assert await tenants.state() == before


async def test_the_owner_finds_it_all(tenants: Tenants) -> None:
    """What the other tests walk is really there: an id that leads nowhere would hide anything."""
    wrong = {}
    for endpoint in _ordered(tenants.endpoints):
        # What the page deletes is what DELETE deletes, and cannot go twice. Hooks are signed, by no owner's key.
        passed_over = endpoint.path.endswith("/delete") or endpoint.path.startswith("/v1/hooks/")
        if endpoint.parameters and "service:admin" not in endpoint.scopes and not passed_over:
            answer = await tenants.call(endpoint, tenants.alpha)
            refused = {401, 403, 404, 415, 422} - ({422} if endpoint.name in NEED_A_GIT_HOST else set())
            if answer.status_code in refused or answer.status_code >= 500:
                wrong[endpoint.name] = (answer.status_code, answer.text[:200])

    assert wrong == {}


async def test_every_change_is_in_the_audit_log_and_so_is_the_attempt_of_who_may_not(tenants: Tenants) -> None:
    changes = [e for e in _ordered(tenants.endpoints) if e.method != "GET" and not e.open and e.path != "/mcp"]
    weak = await tenants.key(frozenset({"reasoning:read"}))
    silent, num_noted = {}, 0
    for who in (weak, tenants.alpha, OPERATOR):
        for endpoint in changes:
            before = await _deeds(tenants.store)
            status = (await tenants.call(endpoint, who)).status_code
            if status < 400 or status == 403:
                num_noted += 1
                if await _deeds(tenants.store) == before:
                    silent[endpoint.name] = status

    assert silent == {}
    assert num_noted > len(changes) * 3 / 2


async def _deeds(store: Store) -> list[str]:
    projects = ("alpha", "gamma", "default")
    pages = [await store.identities.audit(project_id, limit=1000) for project_id in projects]
    return [f"{entry.at} {entry.action} {entry.target}" for page in pages for entry in page.entries]


SEEN_AS = {
    "projects": "project",
    "tasks": "task",
    "runs": "task",
    "events": "event",
    "artifacts": "artifact",
    "api_keys": "api_key",
    "project_secrets": "secret",
    "repos": "repo",
    "skills": "skill",
    "mcp_servers": "mcp_server",
    "webhooks": "webhook",
    "schedules": "schedule",
    "evals": "eval",
    "audit_log": "deed",
    "idempotent_answers": None,
    "used_by_day": None,
}
"""As what the rows of a table are exported; None: not at all, as they only repeat what was answered, or sum up runs."""


async def test_an_export_holds_all_that_a_tenant_has_and_none_of_its_secrets(tenants: Tenants) -> None:
    with_project = {table.name for table in metadata.sorted_tables if "project_id" in table.c}
    export = Export(tenants.store.database, "alpha", tenants.store.artifacts)
    lines = [line async for line in export.lines(reasoning=True)]
    kinds = {next(iter(json.loads(line))) for line in lines}
    text = "".join(lines)

    assert set(SEEN_AS) == with_project
    assert kinds == {kind for kind in SEEN_AS.values() if kind is not None}
    assert not any(secret in text for secret in (SECRET, tenants.alpha, tenants.alpha.rpartition("_")[2], "whsec_"))
    assert CANARY in text


async def test_a_purge_leaves_no_row_of_a_tenant_but_what_was_done(tenants: Tenants) -> None:
    await Retention(tenants.store.database, tenants.store.artifacts).purge("alpha")

    left = {}
    async with tenants.store.database.reading() as db:
        for table in metadata.sorted_tables:
            rows = (await db.execute(select(table))).mappings().all()
            left[table.name] = sum("alpha" in str(dict(row)) or CANARY in str(dict(row)) for row in rows)
    assert {name for name, count in left.items() if count} == {"audit_log"}


async def test_events_of_another_tenant_are_not_streamed(tenants: Tenants) -> None:
    headers = {"Authorization": f"Bearer {tenants.beta}", "Accept": "text/event-stream"}
    answer = await tenants.http.get(f"/v1/tasks/{tenants.ids['task_id']}/events", headers=headers)

    assert answer.status_code == 404
    assert CANARY not in answer.text
