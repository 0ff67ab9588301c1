"""All that comes with a task is there when the task is, or neither is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.errors import RequestUnderWay, StoreUnavailable, TaskOver
from agent.events import MessageAdded
from agent.identity import DEFAULT_PROJECT
from agent.store.artifacts import NewImage
from agent.store.base import ProjectStore, Store, TaskRecord
from agent.store.evals import Evals, Submitted
from agent.store.idempotency import Answer, Idempotency, Keyed
from agent.store.open import open_store
from agent.store.sql import SqlStore
from agent.types import Event, TaskRequest
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")
MESSAGE = MessageAdded(message_id="m", text="It looks like this.")
IMAGES = [NewImage("image/png", b"first"), NewImage("image/jpeg", b"second")]
KEY, FINGERPRINT = "mine", "f00"


@pytest.fixture
async def store(url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(url, clock=clock, artifacts=f"file://{tmp_path / 'kept'}") as opened:
        yield opened


def users(store: Store) -> ProjectStore:
    return store.of(DEFAULT_PROJECT)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_worker_that_claims_a_new_task_finds_the_images_it_came_with(store: SqlStore) -> None:
    task = await users(store).submit(REQUEST, message=MESSAGE, images=IMAGES)

    assert task.last_seq == 2
    (said,) = await store.user_events(task.id)
    shown = MessageAdded.model_validate(said.body)
    assert store.artifacts is not None
    kept = {artifact.name: artifact for artifact in await store.artifacts.of_task(DEFAULT_PROJECT, task.id)}
    assert [image.task_id for image in shown.images] == [task.id, task.id]
    for image, given in zip(shown.images, IMAGES, strict=True):
        pieces = store.artifacts.read(DEFAULT_PROJECT, task.id, kept[image.name])
        assert (b"".join([piece async for piece in pieces]), kept[image.name].media_type) == (
            given.data,
            given.media_type,
        )


async def test_task_whose_images_cannot_be_kept_is_none(store: SqlStore, tmp_path: Path) -> None:
    (tmp_path / "kept").rmdir()
    (tmp_path / "kept").write_text("no folder")

    with pytest.raises(StoreUnavailable):
        await users(store).submit(REQUEST, message=MESSAGE, images=IMAGES)

    assert (await users(store).list_tasks()).tasks == ()
    assert await store.claim("worker", 15) is None


async def test_images_of_a_task_that_cannot_be_written_are_forgotten(store: SqlStore, tmp_path: Path) -> None:
    def refuse(task: TaskRecord) -> Answer:
        raise TaskOver("whatever goes wrong in the end")

    with pytest.raises(TaskOver):
        await users(store).submit(REQUEST, message=MESSAGE, images=IMAGES, keyed=Keyed(KEY, refuse))

    assert (await users(store).list_tasks()).tasks == ()
    assert files(tmp_path / "kept") == []


@pytest.mark.parametrize("door", ["say", "fork"])
async def test_message_and_its_images_are_there_together_or_not_at_all(store: SqlStore, door: str) -> None:
    def refuse(_: object) -> Answer:
        raise StoreUnavailable("whatever goes wrong in the end")

    async def say(keyed: Keyed[Event] | None = None, of_fork: Keyed[TaskRecord] | None = None) -> str:
        if door == "say":
            return (await users(store).say(task.id, MESSAGE, IMAGES, keyed=keyed)).task_id
        return (await users(store).fork(task.id, 1, message=MESSAGE, images=IMAGES, keyed=of_fork)).id

    assert store.artifacts is not None
    task = await users(store).submit(REQUEST)
    with pytest.raises(StoreUnavailable):
        await say(Keyed(KEY, refuse), Keyed(KEY, refuse))
    assert await store.artifacts.of_task(DEFAULT_PROJECT, task.id) == ()
    assert await store.user_events(task.id) == ()
    assert len((await users(store).list_tasks()).tasks) == 1

    told = await say()

    (word,) = await store.user_events(told)
    kept = await store.artifacts.of_task(DEFAULT_PROJECT, told)
    shown = MessageAdded.model_validate(word.body).images
    assert [(image.task_id, image.name) for image in shown] == [(told, artifact.name) for artifact in kept]
    assert len(kept) == len(IMAGES)


def answer_of(task_id: str, body: str) -> Answer:
    return Answer(task_id=task_id, status=202, location=None, body=body)


def of_task(task: TaskRecord) -> Answer:
    return answer_of(task.id, "a task")


def of_event(event: Event) -> Answer:
    return answer_of(event.task_id, f"event {event.seq}")


def of_eval(submitted: Submitted) -> Answer:
    return answer_of(submitted[1][0].id, f"{len(submitted[1])} tasks of {submitted[0].name}")


@pytest.mark.parametrize("door", ["submit", "fork", "tell", "eval"])
async def test_request_whose_process_died_after_it_was_done_is_not_done_again(
    store: SqlStore, clock: Clock, door: str
) -> None:
    idempotency = Idempotency(store.database)
    task = await users(store).submit(REQUEST)
    assert await idempotency.begin(DEFAULT_PROJECT, KEY, FINGERPRINT) is None
    match door:
        case "submit":
            answer = of_task(await users(store).submit(REQUEST, keyed=Keyed(KEY, of_task)))
        case "fork":
            answer = of_task(await users(store).fork(task.id, 1, keyed=Keyed(KEY, of_task)))
        case "tell":
            body = MESSAGE.model_dump(mode="json")
            answer = of_event(await users(store).tell(task.id, "message.added", body, keyed=Keyed(KEY, of_event)))
        case _:
            made = await Evals(store.database).submit(
                DEFAULT_PROJECT, "mine", [REQUEST] * 3, suite=None, created_by="me", keyed=Keyed(KEY, of_eval)
            )
            answer = of_eval(made)

    # Here it dies. A request that was not answered may be made again after two minutes.
    clock.advance(3600)

    assert await idempotency.begin(DEFAULT_PROJECT, KEY, FINGERPRINT) == answer
    await idempotency.forget(DEFAULT_PROJECT, KEY)
    assert await idempotency.begin(DEFAULT_PROJECT, KEY, FINGERPRINT) == answer


async def test_request_that_took_so_long_that_it_was_made_again_is_done_once(store: SqlStore, clock: Clock) -> None:
    idempotency = Idempotency(store.database)
    for _ in range(2):
        assert await idempotency.begin(DEFAULT_PROJECT, KEY, FINGERPRINT) is None
        clock.advance(3600)
    first = await users(store).submit(REQUEST, keyed=Keyed(KEY, of_task))

    with pytest.raises(RequestUnderWay):
        await users(store).submit(REQUEST, keyed=Keyed(KEY, of_task))

    assert [task.id for task in (await users(store).list_tasks()).tasks] == [first.id]
    assert await idempotency.begin(DEFAULT_PROJECT, KEY, FINGERPRINT) == of_task(first)
