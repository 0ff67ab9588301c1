"""What callers are told while the service's disk is full."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from agent.api.app import create_app
from agent.identity import ROLES
from agent.store.open import open_store
from tests.disk import fill, small_disk

pytestmark = pytest.mark.anyio

NEW_TASK = {"repository": "/repo", "problem_statement": "add() subtracts"}


@dataclass(frozen=True, slots=True)
class Service:
    http: httpx.AsyncClient
    ballast: Path
    """Fills the disk, until it is deleted."""


@pytest.fixture(params=["the operator", "a key that was never used"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async def resolve(path: Path, commit: str) -> str:
        return "c" * 40

    with small_disk(tmp_path / "disk") as disk:
        async with open_store(f"sqlite:///{disk}/mimo.db") as store:
            _, key = await store.identities.create_key(
                "default", "ci", ROLES["operator"], created_by="a test", expires_at=None
            )
            shown = "the operator's own" if request.param == "the operator" else key
            transport = httpx.ASGITransport(create_app(store, resolve, api_key="the operator's own"))
            headers = {"Authorization": f"Bearer {shown}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://mimo.example", headers=headers) as http:
                yield Service(http, disk / "ballast")


async def test_full_disk_is_said_reading_goes_on_and_so_does_the_rest_once_there_is_room(service: Service) -> None:
    fill(service.ballast)
    refused = await service.http.post("/v1/tasks", json=NEW_TASK)
    read = await service.http.get("/v1/tasks")
    service.ballast.unlink()
    accepted = await service.http.post("/v1/tasks", json=NEW_TASK)

    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert "full" in refused.json()["detail"]
    assert (read.status_code, read.json()["tasks"]) == (200, [])
    assert accepted.status_code == 202
