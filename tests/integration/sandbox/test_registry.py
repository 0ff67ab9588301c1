"""The registry of sandboxes in a real database."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sandbox.errors import NoRoom
from sandbox.registry import Record, RecordedBackend, Registry, open_registry
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.testing.simulated import SimulatedBackend, SimulatedHosts
from sandbox.types import Resources, SandboxSpec
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    """Address of an empty database."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/sandboxes.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def registry(request: pytest.FixtureRequest, kind: str) -> AsyncIterator[Registry]:
    if kind == "memory":
        yield MemoryRegistry()
        return
    async with open_registry(request.getfixturevalue("url")) as registry:
        yield registry


every_registry = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
every_database = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


def record(name: str, owner: str = "one") -> Record:
    spec = SandboxSpec(image="python@sha256:" + "0" * 64, resources=Resources(memory_mib=7), lifetime_s=12.5)
    return Record(
        id=name,
        spec=spec,
        address="/run/socket",
        boot_id="boot",
        key=bytes(range(32)),
        run="",
        tenant="",
        owner=owner,
        lease_until=100.25,
    )


@every_registry
async def test_a_record_comes_back_as_it_was_written(registry: Registry) -> None:
    await registry.put(record("a"))
    await registry.put(record("a", owner="two"))
    assert await registry.get("a") == record("a", owner="two")
    assert await registry.get("b") is None


@every_registry
async def test_a_lease_is_renewed_for_all_that_one_owner_has(registry: Registry) -> None:
    for name, owner in (("a", "one"), ("b", "one"), ("c", "two")):
        await registry.put(record(name, owner))
    await registry.renew("one", 200)
    assert {each.id: each.lease_until for each in await registry.all()} == {"a": 200, "b": 200, "c": 100.25}


@every_registry
async def test_a_sandbox_changes_hands_and_runs_and_is_forgotten(registry: Registry) -> None:
    await registry.put(record("a"))
    await registry.assign("a", "run-1", "tenant-1")
    await registry.hand_over("a", "three", 300)
    changed = await registry.get("a")
    assert changed is not None
    assert (changed.run, changed.tenant, changed.owner, changed.lease_until) == ("run-1", "tenant-1", "three", 300)
    await registry.forget("a")
    await registry.hand_over("a", "four", 400)
    assert await registry.all() == []


async def test_nobody_else_may_read_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "sandboxes.db"
    before = os.umask(0)
    try:
        async with open_registry(f"sqlite:///{path}") as registry:
            await registry.put(record("a"))
            modes = _modes(tmp_path)
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes


@every_database
async def test_two_processes_make_and_share_a_registry(url: str) -> None:
    async with AsyncExitStack() as stack:
        one, two = await asyncio.gather(*(stack.enter_async_context(open_registry(url)) for _ in range(2)))
        await one.put(record("a"))
        await two.put(record("b"))
        assert {each.id for each in await one.all()} == {"a", "b"}


@every_database
async def test_many_write_at_once_and_all_of_it_is_kept(url: str) -> None:
    async with open_registry(url) as one, open_registry(url) as two:
        names = {str(number) for number in range(200)}
        await asyncio.gather(*((one if int(name) % 2 else two).put(record(name)) for name in names))
        await asyncio.gather(*(one.hand_over(name, "other", 300.0) for name in names), two.renew("other", 400.0))
        assert {each.id for each in await two.all()} == names


async def test_a_server_that_was_restarted_is_used_again(postgres: PostgresServer) -> None:
    async with open_registry(postgres.new_database()) as registry:
        await registry.put(record("a"))
        postgres.stop(at_once=True)
        postgres.start()
        assert await registry.get("a") == record("a")


async def test_a_lease_is_renewed_again_when_a_server_that_was_away_comes_back(postgres: PostgresServer) -> None:
    async with (
        open_registry(postgres.new_database()) as registry,
        RecordedBackend.open(SimulatedBackend(SimulatedHosts()), registry, owner="one", lease_s=0.3) as recorded,
    ):
        sandbox = await recorded.acquire(SandboxSpec())
        postgres.stop(at_once=True)
        with pytest.raises(NoRoom, match=r"registry of sandboxes at postgresql.* does not answer"):
            await registry.all()
        await asyncio.sleep(0.5)  # meanwhile it was not renewed
        postgres.start()
        began = time.time()
        while (await registry.all())[0].lease_until < began:  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.05)
        await sandbox.close()


async def test_another_kind_of_database_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'mysql'; name one of sqlite:/// or postgresql://"):
        async with open_registry("mysql://somewhere/sandboxes"):
            pass


def _modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
