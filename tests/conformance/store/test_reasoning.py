"""What the model thought: sealed where it is stored, and read by who may."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select

from agent.errors import SettingsError
from agent.events import StepMessage
from agent.store.base import Claim
from agent.store.export import Export
from agent.store.open import open_store
from agent.store.secrets import SecretBox
from agent.store.sql import SqlStore
from agent.store.tables import events, tasks
from agent.types import AssistantMessage, Said, TaskRequest, Usage

pytestmark = pytest.mark.anyio

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
THOUGHT = 'first "this",\n\tthen\u2028that, 🧮'


@asynccontextmanager
async def opened(url: str, *keys: str) -> AsyncIterator[SqlStore]:
    async with open_store(url, box=SecretBox(",".join(keys)) if keys else None) as store:
        yield store


async def claimed(store: SqlStore) -> Claim:
    await store.of("default").submit(TaskRequest(repository="/repository", problem_statement="Repair it."))
    claim = await store.claim("worker", 60)
    assert claim is not None
    return claim


async def think(store: SqlStore, claim: Claim, thought: str | None) -> None:
    message = AssistantMessage(content="done", reasoning_content=thought)
    answer = StepMessage(
        step=1, message=message, usage=Usage(), duration_s=0.0, temperature=0.0, thinking=thought is not None
    )
    await store.append(claim.run_id, claim.generation, "step.message", answer.model_dump(mode="json"))


async def stored(store: SqlStore) -> list[Any]:
    """The reasoning as the database has it."""
    async with store.database.reading() as db:
        bodies = (await db.execute(select(events.c.body).where(events.c.type == "step.message"))).scalars()
        return [body["message"]["reasoning_content"] for body in bodies]


async def thoughts(store: SqlStore, task_id: str, *, reasoning: bool = True) -> list[str | None]:
    found = await store.of("default", reasoning=reasoning).events(task_id, types=["step.message"])
    return [event.body["message"]["reasoning_content"] for event in found]


async def test_reasoning_is_sealed_and_comes_back_to_the_byte(url: str) -> None:
    async with opened(url, NEW) as store:
        claim = await claimed(store)
        for thought in (THOUGHT, "", None):
            await think(store, claim, thought)
        await store.release(claim.run_id, claim.generation)
        again = await store.claim("another", 60)
        forked = await store.of("default").fork(claim.task.id, 10_000)

        first, second, third = await stored(store)
        assert "then" not in json.dumps([first, second])
        assert third is None
        assert await thoughts(store, claim.task.id) == [THOUGHT, "", None]
        assert again is not None
        read = [event.body["message"]["reasoning_content"] for event in again.events if event.type == "step.message"]
        assert read == [THOUGHT, "", None]
        assert await thoughts(store, forked.id) == []


async def test_whoever_may_not_see_it_reads_the_log_without_it(url: str) -> None:
    async with opened(url) as store:
        claim = await claimed(store)
        await think(store, claim, THOUGHT)

        assert await thoughts(store, claim.task.id, reasoning=False) == [None]
        assert await thoughts(store, claim.task.id) == [THOUGHT]


async def test_key_is_replaced_and_what_was_not_sealed_stays_readable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    for keys in ((), (OLD,), (NEW, OLD)):
        async with opened(url, *keys) as store:
            await think(store, await claimed(store), f"with {len(keys)} keys")
            tasks = (await store.of("default").list_tasks()).tasks
            read = [(await thoughts(store, task.id))[0] for task in reversed(tasks)]

    assert read == ["with 0 keys", "with 1 keys", "with 2 keys"]
    async with opened(url) as store:
        with pytest.raises(SettingsError, match="MIMO_SECRETS_KEY"):
            await thoughts(store, tasks[0].id)
    async with opened(url, NEW) as store:
        assert await thoughts(store, tasks[0].id) == ["with 2 keys"]
        with pytest.raises(SettingsError, match="no key"):
            await thoughts(store, tasks[1].id)


async def test_reasoning_is_exported_on_request_only(url: str) -> None:
    async with opened(url, NEW) as store:
        await think(store, await claimed(store), THOUGHT)
        export = Export(store.database, "default")
        plain = [line async for line in export.lines()]
        full = [line async for line in export.lines(reasoning=True)]

    assert "then" not in "".join(plain)
    assert [json.loads(line)["event"]["body"]["message"]["reasoning_content"] for line in full[-1:]] == [THOUGHT]


HANDED_OVER = TaskRequest(
    repository="/repository",
    problem_statement="Go on.",
    conversation=(
        Said(role="user", content="Repair it."),
        Said(role="assistant", content="How?", reasoning_content=THOUGHT),
        Said(role="assistant", content="So.", reasoning_content=""),
    ),
)


async def test_what_was_thought_before_the_task_is_sealed_and_comes_back_to_the_worker(url: str) -> None:
    async with opened(url, NEW) as store:
        await store.of("default").submit(HANDED_OVER, idempotency_key="once")
        again = await store.of("default").submit(HANDED_OVER, idempotency_key="once")
        forked = await store.of("default").fork(again.id, 1)
        claims = [await store.claim("worker", 60) for _ in range(2)]
        async with store.database.reading() as db:
            kept = [*(await db.execute(select(tasks.c.request))).scalars()]
            kept += (await db.execute(select(events.c.body).where(events.c.type == "task.submitted"))).scalars()

        assert len(kept) == 4
        assert "then" not in json.dumps(kept)
        assert {claim.task.id for claim in claims if claim} == {again.id, forked.id}
        assert [claim.task.request for claim in claims if claim] == [HANDED_OVER, HANDED_OVER]


@pytest.mark.parametrize("keys", [(), (NEW,)])
async def test_what_was_thought_before_the_task_is_read_by_who_may(url: str, keys: tuple[str, ...]) -> None:
    async with opened(url, *keys) as store:
        task = await store.of("default").submit(HANDED_OVER)
        shown = [await store.of("default", reasoning=may).events(task.id) for may in (True, False)]
        export = Export(store.database, "default")
        plain = [line async for line in export.lines()]
        full = [line async for line in export.lines(reasoning=True)]

    first, second = (events[0].body["request"]["conversation"] for events in shown)
    assert [said["reasoning_content"] for said in first] == [None, THOUGHT, ""]
    assert [said["reasoning_content"] for said in second] == [None, None, None]
    assert ["then" in "".join(lines) for lines in (plain, full)] == [False, True]
