"""The drafts of one task's runs, as a stream sends them."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from agent.api.schemas import DRAFT, DraftView
from agent.store.drafts import DraftPiece
from agent.types import Event

_SIZE = 1000
"""Pieces that are kept for who begins to watch in the middle of an answer: a minute or two of writing."""


@dataclass(frozen=True, slots=True)
class DraftFrame:
    """A piece as it is sent, made once for all who get it. It has no id: nobody comes back to it."""

    number: int
    """From 1, among those of its task."""
    piece: DraftPiece
    text: bytes


class DraftTail:
    """What each run has written of the answer that it is waiting for."""

    def __init__(self, *, reasoning: bool) -> None:
        """
        Args:
            reasoning: whether it is shown.
        """
        self._reasoning = reasoning
        self._frames: deque[DraftFrame] = deque(maxlen=_SIZE)
        self._num_pieces = 0
        self._answered: dict[str, int] = {}
        """The newest step that has its answer, by run."""

    def take(self, piece: DraftPiece) -> bool:
        """False for a piece that is not shown, or comes after the event that ended its draft."""
        hidden = piece.kind == "reasoning" and not self._reasoning
        if hidden or piece.step <= self._answered.get(piece.run_id, 0):
            return False
        if piece.kind == "restart":
            self._forget(piece.run_id)
        self._num_pieces += 1
        data = DraftView(**piece.model_dump()).model_dump_json()
        text = f"event: {DRAFT}\ndata: {data}\n\n".encode()
        self._frames.append(DraftFrame(self._num_pieces, piece, text))
        return True

    def end(self, event: Event) -> None:
        """The answer is in the log: what was written of it is over."""
        if event.type == "step.message" and event.run_id is not None:
            self._forget(event.run_id)
            if event.body.get("aborted") is None:
                self._answered[event.run_id] = event.body["step"]

    def since(self, number: int) -> Sequence[DraftFrame]:
        """What came after ``number``, as far as it is kept."""
        return tuple(takewhile(lambda frame: frame.number > number, reversed(self._frames)))[::-1]

    def _forget(self, run_id: str) -> None:
        self._frames = deque((frame for frame in self._frames if frame.piece.run_id != run_id), _SIZE)
