"""Paths that name what no database can hold."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from agent.api.app import create_app
from agent.store.open import open_store
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
async def app(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[FastAPI]:
    async def resolve(path: Path, commit: str) -> str:
        raise AssertionError((path, commit))

    async with open_store(postgres.new_database(), artifacts=f"file://{tmp_path}") as store:
        yield create_app(store, resolve, api_key="key")


async def test_id_with_a_character_that_no_database_holds_is_of_nothing(app: FastAPI) -> None:
    paths = {path: methods for path, methods in app.openapi()["paths"].items() if "{" in path}
    assert paths

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://mimo.example",
        headers={"Authorization": "Bearer key"},
    ) as http:
        for path, methods in paths.items():
            for method in methods:
                answer = await http.request(method.upper(), re.sub(r"{[^}]*}", "a%00b", path), json={})
                assert (method, path, answer.status_code) == (method, path, 404)
