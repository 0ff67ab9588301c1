"""What a run leaves beside its events: full outputs of commands, its patch, logs of checks, files the task names.

The bytes are blobs named by their SHA-256 below their project and task, so what belongs to a task is deleted with it
and no task can reach another's; the names are rows, written under the run's lease.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, delete, insert, select

from agent.errors import LeaseLost, SettingsError, UnknownArtifact
from agent.events import KeptImage, MediaType, MessageAdded
from agent.store.base import Claim
from agent.store.blobs import Blobs
from agent.store.database import Database, Transaction, whole
from agent.store.rows import owned_run, verify_owner
from agent.store.tables import artifacts, runs

MAX_BYTES = 64 * 1024 * 1024
"""Of one artifact; of what is longer, the beginning is kept."""

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


def media_type_of(name: str) -> str:
    """Text for what a run writes about itself, and for files nothing: nobody should show them as what they say."""
    return BINARY if "files/" in name else TEXT


def holds_tokens(name: str) -> bool:
    """Whether it says what the model thought, as ids: it is sealed as reasoning is, and for the same readers."""
    return name.partition("/")[2].startswith("tokens/")


class Artifact(BaseModel):
    """One of them, without its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Unique in the task: ``1/patch.diff``, ``1/outputs/3-0.txt``; the number is that of the attempt."""
    run_id: str
    media_type: str
    size: int
    """Bytes."""
    sha256: str
    """Of the bytes, in hexadecimal digits."""
    created_at: datetime
    sealed_size: int | None = Field(None, exclude=True)
    """Bytes that are stored in place of these; None where they are stored as they are."""


@dataclass(frozen=True, slots=True)
class NewImage:
    """One that comes with what a user says."""

    media_type: MediaType
    data: bytes


class Artifacts:
    """On a database whose tables exist, and a storage."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database = database
        self._blobs = blobs

    @whole
    async def put(self, claim: Claim, name: str, data: bytes, media_type: str = TEXT) -> None:
        """Keep bytes under a name, in place of those it had.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
            StoreUnavailable: the database or the storage went away.
        """
        data, project_id, task_id = data[:MAX_BYTES], claim.task.project_id, claim.task.id
        await self._verify(claim)
        sealed = None
        if holds_tokens(name) and self.database.box is not None:
            sealed = self.database.box.seal(task_id, name, data.decode())
        await self._blobs.put(_path(project_id, task_id, _digest(data)), data if sealed is None else sealed)
        async with self.database.writing() as transaction:
            await owned_run(transaction.db, claim.run_id, claim.generation)
            size = None if sealed is None else len(sealed)
            await _write(transaction, project_id, task_id, claim.run_id, name, data, media_type, sealed_size=size)

    async def put_images(
        self, project_id: str, task_id: str, message: MessageAdded, images: Sequence[NewImage]
    ) -> MessageAdded:
        """The message with the images, whose bytes are kept; :func:`write_images` makes them the task's.

        Raises:
            StoreUnavailable: the storage went away.
        """
        for image in images:
            await self._blobs.put(_path(project_id, task_id, _digest(image.data)), image.data)
        kept = (
            KeptImage(task_id=task_id, name=_name(message, number, image), media_type=image.media_type)
            for number, image in enumerate(images)
        )
        return message.model_copy(update={"images": tuple(kept)})

    @whole
    async def of_task(self, project_id: str, task_id: str) -> tuple[Artifact, ...]:
        """All of a task's, by name."""
        query = select(*_COLUMNS).where(_of(project_id, task_id)).order_by(artifacts.c.name)
        async with self.database.reading() as db:
            rows = (await db.execute(query)).mappings()
            return tuple(Artifact.model_validate(dict(row)) for row in rows)

    @whole
    async def get(self, project_id: str, task_id: str, name: str) -> Artifact:
        """
        Raises:
            UnknownArtifact: the task has none of this name.
        """
        its = and_(_of(project_id, task_id), artifacts.c.name == name)
        async with self.database.reading() as db:
            row = (await db.execute(select(*_COLUMNS).where(its))).mappings().first()
        if row is None:
            raise UnknownArtifact(f"task {task_id} has no artifact {name[:200]!r}")
        return Artifact.model_validate(dict(row))

    async def read(
        self, project_id: str, task_id: str, artifact: Artifact, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Its bytes from ``start`` up to ``stop``, in pieces.

        Raises:
            SettingsError: it is sealed, and this process has no key that opens it.
        """
        path, stop = _path(project_id, task_id, artifact.sha256), artifact.size if stop is None else stop
        if start >= stop:
            return
        if artifact.sealed_size is not None:
            if self.database.box is None:
                raise SettingsError(f"the artifact {artifact.name} of {task_id} is sealed; set MIMO_SECRETS_KEY")
            sealed = b"".join([piece async for piece in self._blobs.read(path, 0, artifact.sealed_size)])
            yield self.database.box.open(task_id, artifact.name, sealed).encode()[start:stop]
            return
        async for piece in self._blobs.read(path, start, stop):
            yield piece

    async def forget(self, project_id: str, task_id: str | None = None) -> None:
        """Delete the bytes of a task, or of a whole project; their rows are the caller's to delete, afterwards."""
        await self._blobs.delete(project_id if task_id is None else f"{project_id}/{task_id}")

    async def _verify(self, claim: Claim) -> None:
        """So that a worker who lost its run leaves no bytes behind, not even of a task that is deleted by now."""
        async with self.database.reading() as db:
            row = (await db.execute(select(runs).where(runs.c.run_id == claim.run_id))).mappings().first()
        if row is None:
            raise LeaseLost(f"no run {claim.run_id}")
        verify_owner(row, claim.generation)


async def write_images(
    transaction: Transaction, project_id: str, task_id: str, message: MessageAdded, images: Sequence[NewImage]
) -> None:
    """Part of a transaction: the rows of new images of a message, which name the run of the newest attempt."""
    if not images:
        return
    newest = select(runs.c.run_id).where(runs.c.task_id == task_id).order_by(runs.c.attempt.desc()).limit(1)
    run_id = (await transaction.db.execute(newest)).scalar_one()
    for kept, image in zip(message.images, images, strict=True):
        await _write(transaction, project_id, task_id, run_id, kept.name, image.data, image.media_type)


async def _write(
    transaction: Transaction,
    project_id: str,
    task_id: str,
    run_id: str,
    name: str,
    data: bytes,
    media_type: str,
    *,
    sealed_size: int | None = None,
) -> None:
    """In the place of one of the same name."""
    artifact = Artifact(
        name=name,
        run_id=run_id,
        media_type=media_type,
        size=len(data),
        sha256=_digest(data),
        created_at=transaction.now,
    )
    earlier = delete(artifacts).where(artifacts.c.task_id == task_id, artifacts.c.name == name)
    await transaction.db.execute(earlier)
    values = {"project_id": project_id, "task_id": task_id, "sealed_size": sealed_size, **artifact.model_dump()}
    await transaction.db.execute(insert(artifacts).values(values))


_COLUMNS = [artifacts.c[name] for name in Artifact.model_fields]


def _of(project_id: str, task_id: str) -> ColumnElement[bool]:
    return and_(artifacts.c.project_id == project_id, artifacts.c.task_id == task_id)


def _name(message: MessageAdded, number: int, image: NewImage) -> str:
    return f"messages/{message.message_id}/{number}.{image.media_type.removeprefix('image/')}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _path(project_id: str, task_id: str, digest: str) -> str:
    return f"{project_id}/{task_id}/{digest}"
