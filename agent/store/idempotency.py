"""Answers that were given under a caller's key, so that a request that is sent twice is done once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from agent.errors import IdempotencyConflict, RequestUnderWay
from agent.store.database import Database, Transaction, whole
from agent.store.tables import idempotent_answers as answers

_ABANDONED_AFTER = timedelta(minutes=2)
"""A request that has no answer for so long died with its process; whoever comes next does it."""


class Answer(BaseModel):
    """What a caller was told."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    status: int
    location: str | None
    body: str


_Made = TypeVar("_Made")
_Other = TypeVar("_Other")


@final
@dataclass(frozen=True, slots=True)
class Keyed(Generic[_Made]):
    """The key that a request came with, and what to answer to it once something is made."""

    key: str
    answer: Callable[[_Made], Answer]

    def of(self, made: Callable[[_Other], _Made]) -> "Keyed[_Other]":
        """The same key, where it is something else that is made."""
        return Keyed(self.key, lambda other: self.answer(made(other)))


async def keep_answer(transaction: Transaction, project_id: str, keyed: Keyed[_Made] | None, made: _Made) -> None:
    """Part of the transaction that makes something: whoever asks again is answered, whatever becomes of who made it.

    Raises:
        RequestUnderWay: the request was taken for abandoned, and done again meanwhile.
    """
    if keyed is None:
        return
    unanswered = and_(_its(project_id, keyed.key), answers.c.status.is_(None))
    kept = await transaction.db.execute(update(answers).where(unanswered).values(keyed.answer(made).model_dump()))
    if kept.rowcount == 0:
        raise RequestUnderWay(f"the request with the key {keyed.key!r} was sent twice, and the other was done first")


class Idempotency:
    """On a database whose tables exist."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @whole
    async def begin(self, project_id: str, key: str, fingerprint: str) -> Answer | None:
        """The answer that was given under this key; None where the caller of this is to find it.

        Args:
            fingerprint: a hash of all that makes the request what it is.

        Raises:
            IdempotencyConflict: the key came with another request.
            RequestUnderWay: the same request is being answered now.
        """
        row: dict[str, Any] = {"project_id": project_id, "key": key, "fingerprint": fingerprint}
        try:
            async with self.database.writing() as transaction:
                old = and_(_its(project_id, key), answers.c.status.is_(None))
                abandoned = answers.c.at < transaction.now - _ABANDONED_AFTER
                await transaction.db.execute(delete(answers).where(old, abandoned))
                await transaction.db.execute(insert(answers).values(row | {"at": transaction.now}))
        except IntegrityError:
            return await self._given(project_id, key, fingerprint)
        return None

    @whole
    async def finish(self, project_id: str, key: str, answer: Answer) -> None:
        """Keep the answer for those who ask again."""
        async with self.database.writing() as transaction:
            await transaction.db.execute(update(answers).where(_its(project_id, key)).values(answer.model_dump()))

    @whole
    async def forget(self, project_id: str, key: str) -> None:
        """Nothing was done under this key; it may be used again."""
        async with self.database.writing() as transaction:
            await transaction.db.execute(delete(answers).where(_its(project_id, key), answers.c.status.is_(None)))

    async def _given(self, project_id: str, key: str, fingerprint: str) -> Answer:
        async with self.database.reading() as db:
            row = (await db.execute(select(answers).where(_its(project_id, key)))).mappings().first()
        if row is not None and row["fingerprint"] != fingerprint:
            raise IdempotencyConflict(f"the key {key!r} came before with another request")
        if row is None or row["status"] is None:
            raise RequestUnderWay(f"the request with the key {key!r} is being answered now")
        return Answer.model_validate({name: row[name] for name in Answer.model_fields})


def _its(project_id: str, key: str) -> Any:
    return and_(answers.c.project_id == project_id, answers.c.key == key)
