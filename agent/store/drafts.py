"""Answers while the model writes them: told from the worker to whoever watches, kept nowhere.

A draft may lose pieces on its way; the event ``step.message`` that ends it never does. While nobody watches a task,
nothing of it is sent.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict

PIECE_CHARS = 300
"""Longest text of one piece: sealed and in any script it fits a notification of Postgres (8,000 bytes), and as it is
what a pipe takes as a whole (4,096 on Linux)."""


class DraftPiece(BaseModel):
    """What was added to an answer. A draft begins with ``restart``, and ``step.message`` ends it."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    step: int
    kind: Literal["reasoning", "content", "tool_call", "restart"]
    """``restart``: what came before of this run is void, the model begins."""
    index: int = 0
    """Which tool call, from 0; its text is that of the arguments."""
    offset: int = 0
    """Characters of this kind and index before it: where that is more than was received, pieces were lost."""
    text: str = ""


Hear = Callable[[DraftPiece], None]


class Drafts:
    """Within one process; others go between processes."""

    def __init__(self) -> None:
        self._hearers: dict[str, Counter[Hear]] = {}

    def watched(self, task_id: str) -> bool:
        """Whether anybody, in any process, would hear; cheap."""
        return task_id in self._hearers

    def say(self, task_id: str, pieces: Sequence[DraftPiece]) -> None:
        """Send without waiting; what cannot be sent is lost."""
        for piece in pieces:
            self._tell(task_id, piece)

    @asynccontextmanager
    async def listening(self, task_id: str, hear: Hear) -> AsyncIterator[None]:
        """``hear`` is called with every piece of the task's runs; once, also where it listens several times."""
        hearers = self._hearers.get(task_id)
        if hearers is None:
            hearers = self._hearers[task_id] = Counter()
            self._begin(task_id)
        hearers[hear] += 1
        try:
            yield
        finally:
            hearers[hear] -= 1
            hearers += Counter()  # Takes away those who are gone.
            if not hearers:
                del self._hearers[task_id]
                self._end(task_id)

    def _tell(self, task_id: str, piece: DraftPiece) -> None:
        for hear in tuple(self._hearers.get(task_id, ())):
            hear(piece)

    def _begin(self, task_id: str) -> None:
        """Somebody of this process listens to the task now."""

    def _end(self, task_id: str) -> None:
        """Nobody of this process listens to it any more."""
