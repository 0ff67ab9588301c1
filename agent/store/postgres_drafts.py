"""Drafts between the processes of a service: notifications of Postgres, which are in no table and no backup."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from pydantic import ValidationError
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from agent.errors import SettingsError
from agent.store.drafts import DraftPiece, Drafts
from agent.store.notifications import listen

if TYPE_CHECKING:
    from agent.store.secrets import SecretBox

WATCHED_CHANNEL = "mimo_watched"
"""Says which tasks are watched; every process listens, since any may work on one."""

_DRAFTS_CHANNEL = "mimo_drafts"
"""Only processes listen that watched something."""

_REMIND_S = 5.0
_FORGET_S = 12.0
"""Who was not named for so long is watched no more."""

_MOST_UNSENT = 1000
_PURPOSE = "draft"

_NOTIFY = text(
    "SELECT pg_notify(channel, message)"
    " FROM unnest(CAST(:channels AS text[]), CAST(:messages AS text[])) AS said(channel, message)"
)

_logger = logging.getLogger(__name__)


class PostgresDrafts(Drafts):
    """Everything that a process has to say goes in one transaction after the other, which write nothing."""

    def __init__(self, url: URL, engine: AsyncEngine, box: "SecretBox | None") -> None:
        """
        Args:
            box: seals what is sent; None sends it as it is.
        """
        super().__init__()
        self._url = url
        self._engine = engine
        self._box = box
        self._watched: dict[str, float] = {}
        """Until when, by task."""
        self._unsent: deque[tuple[str, str]] = deque(maxlen=_MOST_UNSENT)
        self._something = asyncio.Event()
        self._works: list[asyncio.Future[None]] = []
        self._listening = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Sends while it is open."""
        self._works += map(asyncio.ensure_future, (self._send(), self._remind()))
        try:
            yield
        finally:
            for work in self._works:
                work.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait(self._works)

    def hear_watched(self, task_id: str) -> None:
        now = time.monotonic()
        self._watched[task_id] = now + _FORGET_S
        self._watched = {task: until for task, until in self._watched.items() if until > now}

    def watched(self, task_id: str) -> bool:
        return self._watched.get(task_id, 0.0) > time.monotonic()

    def say(self, task_id: str, pieces: Sequence[DraftPiece]) -> None:
        for piece in pieces:
            message = piece.model_dump_json()
            if self._box is not None:
                message = self._box.seal(task_id, _PURPOSE, message).decode("ascii")
            self._put(_DRAFTS_CHANNEL, f"{task_id} {message}")

    def _put(self, channel: str, message: str) -> None:
        self._unsent.append((channel, message))
        self._something.set()

    def _begin(self, task_id: str) -> None:
        if self._listening:
            self._put(WATCHED_CHANNEL, task_id)
            return
        self._listening = True
        # Workers begin to send as soon as they know; they are told once it would be heard.
        hearing = listen(self._url, {_DRAFTS_CHANNEL: self._hear}, lambda is_connected: self._say_watched())
        self._works.append(asyncio.ensure_future(hearing))

    def _say_watched(self) -> None:
        for watched in self._hearers:
            self._put(WATCHED_CHANNEL, watched)

    def _hear(self, payload: str) -> None:
        task_id, _, message = payload.partition(" ")
        if task_id not in self._hearers:
            return
        try:
            if self._box is not None:
                message = self._box.open(task_id, _PURPOSE, message.encode())
            piece = DraftPiece.model_validate_json(message)
        except (SettingsError, ValidationError) as error:  # Of a process with another key, or of another release.
            _logger.warning("action=skip_draft task=%s error=%s", task_id, type(error).__name__)
        else:
            self._tell(task_id, piece)

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            said = list(self._unsent)
            self._unsent.clear()
            notifying = asyncio.ensure_future(self._notify(said))
            try:
                await asyncio.shield(notifying)
            except asyncio.CancelledError:  # Half a conversation would leave a connection open.
                await asyncio.wait([notifying])
                raise

    async def _remind(self) -> None:
        """Of what is watched: workers that began since must know, and others forget."""
        while True:
            await asyncio.sleep(_REMIND_S)
            self._say_watched()

    async def _notify(self, said: Sequence[tuple[str, str]]) -> None:
        channels, messages = zip(*said, strict=True)
        try:
            async with self._engine.begin() as db:
                await db.execute(_NOTIFY, {"channels": list(channels), "messages": list(messages)})
        except DBAPIError as error:
            _logger.warning("action=lose_drafts num=%d error=%r", len(said), str(error.orig))
