"""What the model of one run is writing, for who watches its task."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from agent.model import Delta
from agent.store.drafts import PIECE_CHARS, DraftPiece, Drafts

_EVERY_S = 0.1
_LOOK_S = 1.0
"""How often is looked whether somebody watches by now."""


class Draft:
    """Sent a few times a second while somebody watches; who begins to watch gets what was written before."""

    def __init__(self, drafts: Drafts, task_id: str, run_id: str) -> None:
        self._drafts = drafts
        self._task_id = task_id
        self._run_id = run_id
        self._step = 0
        self._unsent: list[Delta] = []
        self._written: Counter[tuple[str, int]] = Counter()
        """Characters that were sent, by kind and index."""
        self._due: asyncio.TimerHandle | None = None

    def hear(self, step: int, delta: Delta) -> None:
        if step != self._step or delta.kind == "restart":
            self._step = step
            self._unsent = [Delta("restart")]
            self._written.clear()
        if delta.kind != "restart":
            self._unsent.append(delta)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_EVERY_S, self._send)

    def _send(self) -> None:
        if not self._drafts.watched(self._task_id):
            self._due = asyncio.get_running_loop().call_later(_LOOK_S, self._send)
            return
        self._due = None
        self._drafts.say(self._task_id, tuple(self._pieces()))
        self._unsent.clear()

    def close(self) -> None:
        """Send nothing more."""
        if self._due is not None:
            self._due.cancel()

    def _pieces(self) -> Iterator[DraftPiece]:
        for (kind, index), deltas in groupby(self._unsent, lambda delta: (delta.kind, delta.index)):
            text = "".join(delta.text for delta in deltas)
            for start in range(0, max(len(text), 1), PIECE_CHARS):
                part = text[start : start + PIECE_CHARS]
                offset = self._written[kind, index]
                self._written[kind, index] += len(part)
                yield DraftPiece(run_id=self._run_id, step=self._step, kind=kind, index=index, offset=offset, text=part)
