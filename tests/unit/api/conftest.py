from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from agent.api.app import create_app
from agent.errors import RepositoryError
from agent.store.base import Store
from agent.store.open import open_store

COMMIT = "c" * 40


async def resolve_commit(path: Path, commit: str) -> str:
    if path == Path("/missing"):
        raise RepositoryError("/missing does not exist; give the path of a git repository")
    return COMMIT


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/mimo.db") as opened:
        yield opened


@pytest.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(store, resolve_commit, hosts=frozenset({"127.0.0.1", "localhost"}))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client
