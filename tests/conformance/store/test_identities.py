"""Keys, secrets and the audit log, on every store."""

from datetime import timedelta

import anyio
import pytest

from agent.identity import Deed
from agent.store.base import Project
from agent.store.sql import SqlStore

from .conftest import Clock

pytestmark = pytest.mark.anyio


async def _key(store: SqlStore, clock: Clock, project: str = "web") -> tuple[str, str]:
    if project not in [known.project_id for known in await store.projects()]:
        await store.make_project(Project(project_id=project))
    expires_at = clock.now + timedelta(days=1)
    key, secret = await store.identities.create_key(
        project, "Ünïcode ключ", frozenset({"tasks:read"}), created_by="company:ann", expires_at=expires_at
    )
    return key.id, secret


async def test_key_is_found_by_what_only_its_owner_has(store: SqlStore, clock: Clock) -> None:
    key_id, secret = await _key(store, clock)
    found = await store.identities.key_of(secret)

    assert found is not None
    assert (found.id, found.project_id, found.name, found.scopes) == (key_id, "web", "Ünïcode ключ", ("tasks:read",))
    assert (await store.identities.keys("web"))[0].last_used_at == clock.now
    assert await store.identities.key_of(secret[:-1] + "x") is None
    assert await store.identities.key_of("\0") is None


async def test_key_ends_with_its_time_its_revocation_or_its_project(store: SqlStore, clock: Clock) -> None:
    revoked_id, revoked = await _key(store, clock)
    _, closed = await _key(store, clock, "data")
    _, kept = await _key(store, clock)
    await store.identities.revoke_key("web", revoked_id)
    await store.identities.close_project("data")

    assert [await store.identities.key_of(secret) is None for secret in (revoked, closed, kept)] == [True, True, False]
    assert (await store.identities.is_open("web"), await store.identities.is_open("data")) == (True, False)
    clock.advance(86_400)
    assert await store.identities.key_of(kept) is None


async def test_key_of_another_project_is_not_revoked(store: SqlStore, clock: Clock) -> None:
    key_id, secret = await _key(store, clock)

    assert await store.identities.revoke_key("default", key_id) is None
    assert await store.identities.key_of(secret) is not None


async def test_secret_that_two_set_at_once_is_one_of_theirs(store: SqlStore, clock: Clock) -> None:
    values = [bytes([number]) * 100 for number in range(5)]

    async def put(value: bytes) -> None:
        await store.identities.put_secret("default", "TOKEN", value, updated_by="company:ann")

    async with anyio.create_task_group() as group:
        for value in values:
            group.start_soon(put, value)

    assert await store.identities.sealed_secret("default", "TOKEN") in values
    assert [note.name for note in await store.identities.secrets("default")] == ["TOKEN"]
    assert await store.identities.delete_secret("default", "TOKEN")
    assert not await store.identities.delete_secret("default", "TOKEN")


async def test_audit_log_keeps_order_and_projects_apart(store: SqlStore, clock: Clock) -> None:
    await store.make_project(Project(project_id="web"))
    for number in range(3):
        for project in ("web", "data"):
            deed = Deed(
                project_id=project,
                subject="local",
                kind="local",
                action="POST /v1/tasks",
                target=f"/v1/tasks/{number}",
                status=202,
                request_id="req_0",
            )
            await store.identities.record(deed)
        clock.advance(1)
    first = await store.identities.audit("web", limit=2)
    second = await store.identities.audit("web", limit=2, cursor=first.next_cursor)

    assert [entry.target[-1] for entry in (*first.entries, *second.entries)] == ["2", "1", "0"]
    assert second.next_cursor is None
    assert first.entries[0].at == clock.now - timedelta(seconds=1)
