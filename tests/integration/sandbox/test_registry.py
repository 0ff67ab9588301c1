"""The registry of sandboxes in a real database."""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.registry import Record, Registry, open_registry
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.types import Resources, SandboxSpec

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
    async with open_registry(f"sqlite:///{tmp_path}/sandboxes.db") as registry:
        yield registry


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


async def test_a_record_comes_back_as_it_was_written(registry: Registry) -> None:
    await registry.put(record("a"))
    await registry.put(record("a", owner="two"))
    assert await registry.get("a") == record("a", owner="two")
    assert await registry.get("b") is None


async def test_a_lease_is_renewed_for_all_that_one_owner_has(registry: Registry) -> None:
    for name, owner in (("a", "one"), ("b", "one"), ("c", "two")):
        await registry.put(record(name, owner))
    await registry.renew("one", 200)
    assert {each.id: each.lease_until for each in await registry.all()} == {"a": 200, "b": 200, "c": 100.25}


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


async def test_two_processes_share_a_registry(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sandboxes.db"
    async with open_registry(url) as one, open_registry(url) as two:
        await one.put(record("a"))
        await two.put(record("b"))
        assert {each.id for each in await one.all()} == {"a", "b"}


def _modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
