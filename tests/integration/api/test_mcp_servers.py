"""Servers of tools of a project, by REST."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from agent.api.app import create_app
from agent.store.base import Store
from agent.store.secrets import SecretBox

pytestmark = pytest.mark.anyio

SERVER = {"name": "tracker", "url": "https://tracker.example/mcp"}
SHOWN = {"Authorization": "Bearer ${TRACKER_TOKEN}", "X-Team": "web"}


@pytest.fixture
async def http(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async def resolve(path: Path, commit: str) -> str:
        return "c" * 40

    app = create_app(store, resolve, secret_box=SecretBox(Fernet.generate_key().decode()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


async def test_a_server_is_made_read_changed_and_forgotten(http: httpx.AsyncClient) -> None:
    await http.put("/v1/projects/default/secrets/TRACKER_TOKEN", json={"value": "hush"})
    made = await http.post("/v1/mcp_servers", json=SERVER | {"headers": SHOWN, "tools": ["find", "open"]})
    assert (made.status_code, made.headers["location"]) == (201, "/v1/mcp_servers/tracker")
    assert (made.json()["headers"], made.json()["tools"], made.json()["timeout_s"]) == (SHOWN, ["find", "open"], 60.0)
    assert (await http.get("/v1/mcp_servers/tracker")).json() == made.json()

    changed = await http.put("/v1/mcp_servers/tracker", json={"url": "https://tracker.example/v2"})
    assert (changed.status_code, changed.json()["headers"], changed.json()["tools"]) == (200, {}, None)
    assert (await http.get("/v1/mcp_servers")).json() == {"mcp_servers": [changed.json()]}
    again = await http.post("/v1/mcp_servers", json=SERVER)
    assert (again.status_code, again.json()["code"]) == (409, "mcp_server_exists")

    assert (await http.delete("/v1/mcp_servers/tracker")).status_code == 204
    gone = await http.get("/v1/mcp_servers/tracker")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_mcp_server")


async def test_a_program_is_refused_and_what_to_do_is_said(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/mcp_servers", json={"name": "db", "command": ["db-tools"]})

    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"pointer": "#/command", "detail": "A service starts no programs"}]
    assert "speaks HTTP" in refused.json()["remedy"]


async def test_a_reference_to_a_secret_that_is_not_there_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/mcp_servers", json=SERVER | {"headers": SHOWN})

    problem = refused.json()
    assert (refused.status_code, problem["errors"][0]["pointer"]) == (422, "#/headers")
    assert "no secret TRACKER_TOKEN" in problem["detail"]
    assert "/v1/projects/default/secrets/TRACKER_TOKEN" in problem["remedy"]


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        ({"Authorization": "Bearer abc"}, "secret of the project"),
        ({"x-api-key": "abc"}, "secret of the project"),
        ({"X-Team": "${team"}, "write ${NAME}"),
        ({"Host": "elsewhere"}, "not yours to set"),
        ({"X-Team\r\nHost": "web"}, "match pattern"),
        ({"X-Team": "web\r\nHost: elsewhere"}, "match pattern"),
    ],
)
async def test_headers_that_are_readable_secrets_or_no_headers_are_refused(
    http: httpx.AsyncClient, headers: dict[str, str], what: str
) -> None:
    refused = await http.post("/v1/mcp_servers", json=SERVER | {"headers": headers})

    assert refused.status_code == 422
    assert what in refused.json()["detail"]
    assert "abc" not in refused.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a b"),
        ("url", "file:///etc/passwd"),
        ("url", "https://"),
        ("url", "https://ada:hush@tracker.example/"),
        ("tools", [""]),
        ("timeout_s", 0),
    ],
)
async def test_what_could_not_be_called_is_refused(http: httpx.AsyncClient, field: str, value: Any) -> None:
    refused = await http.post("/v1/mcp_servers", json=SERVER | {field: value})

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"].startswith(f"#/{field}")
