"""What a conversation decided beside its turns: one JSON object a line, only ever added to.

The state is what the lines add up to, so a conversation that was cut off in the middle of anything is whole again when
it is opened.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agent.permissions.policy import Grant, Mode


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Opened(_Line):
    type: Literal["opened"] = "opened"
    root: str
    at: datetime
    forked_from: str | None = None


class TurnBegan(_Line):
    """The user said something; the rest is in the log of ``task_id``."""

    type: Literal["turn"] = "turn"
    task_id: str
    text: str
    before: str
    """Tree of the folder just before."""


class Kept(_Line):
    """The user changed files within a turn: ``tree`` is the folder just before the call ``intent_id`` was made."""

    type: Literal["kept"] = "kept"
    task_id: str
    intent_id: str
    tree: str


class Rewound(_Line):
    """Only the first ``turns`` turns count from now on."""

    type: Literal["rewound"] = "rewound"
    turns: int


class PutBack(_Line):
    """The files were made what they were; ``until_now`` is what they were before that."""

    type: Literal["put_back"] = "put_back"
    tree: str
    until_now: str


class Compacted(_Line):
    """The model reads ``summary`` in the place of the first ``turns`` turns."""

    type: Literal["compacted"] = "compacted"
    turns: int
    summary: str


class ModeChosen(_Line):
    type: Literal["mode"] = "mode"
    mode: Mode


class Granted(_Line):
    type: Literal["granted"] = "granted"
    grant: Grant


class Revoked(_Line):
    type: Literal["revoked"] = "revoked"
    grant: Grant


class Queued(_Line):
    type: Literal["queued"] = "queued"
    text: str


class Unqueued(_Line):
    """The oldest word in the queue, or the newest, is taken out of it."""

    type: Literal["unqueued"] = "unqueued"
    end: Literal["oldest", "newest"]


Line = Annotated[
    Opened | TurnBegan | Kept | Rewound | PutBack | Compacted | ModeChosen | Granted | Revoked | Queued | Unqueued,
    Field(discriminator="type"),
]

_LINE: TypeAdapter[Line] = TypeAdapter(Line)

_UNKNOWN = frozenset({"extra_forbidden", "union_tag_invalid", "enum", "literal_error"})
"""Faults of a line that was written as it should be, by a mimo that knows more of them."""


@dataclass(frozen=True, slots=True)
class State:
    """What a journal adds up to."""

    root: str = ""
    """Empty where nothing was written yet."""
    turns: tuple[TurnBegan, ...] = ()
    kept: tuple[Kept, ...] = ()
    compacted: Compacted | None = None
    mode: Mode = Mode.ASK
    grants: tuple[Grant, ...] = ()
    queue: tuple[str, ...] = ()
    put_back: tuple[PutBack, ...] = field(default=())


def apply(state: State, line: Line) -> State:
    """The state after one more line."""
    match line:
        case Opened():
            return replace(state, root=line.root)
        case TurnBegan():
            return replace(state, turns=(*state.turns, line))
        case Kept():
            return replace(state, kept=(*state.kept, line))
        case Rewound():
            compacted = state.compacted if state.compacted and state.compacted.turns <= line.turns else None
            return replace(state, turns=state.turns[: line.turns], compacted=compacted)
        case PutBack():
            return replace(state, put_back=(*state.put_back, line))
        case Compacted():
            return replace(state, compacted=line)
        case ModeChosen():
            return replace(state, mode=line.mode)
        case Granted():
            return replace(state, grants=tuple(dict.fromkeys((*state.grants, line.grant))))
        case Revoked():
            return replace(state, grants=tuple(grant for grant in state.grants if grant != line.grant))
        case Queued():
            return replace(state, queue=(*state.queue, line.text))
        case Unqueued():
            return replace(state, queue=state.queue[1:] if line.end == "oldest" else state.queue[:-1])


class JournalDamaged(Exception):
    """A line in the middle of a journal cannot be read."""


class JournalTooNew(JournalDamaged):
    """A newer mimo wrote a line of it."""


class Journal:
    """The file, and the state it adds up to."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            JournalDamaged: the file holds what no version of ours wrote, or one that is newer.
        """
        self._path = path
        self.state = reduce(apply, read(path), State()) if path.exists() else State()

    def add(self, line: Line) -> None:
        """Write a line; it is on the disk when this returns."""
        with self._path.open("ab") as file:
            file.write(line.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.state = apply(self.state, line)


def read(path: Path) -> Iterable[Line]:
    """The lines of a journal. One that was cut off while it was written, the last, counts as never written."""
    data = path.read_bytes()
    whole, _, torn = data.rpartition(b"\n")
    if torn:
        os.truncate(path, len(whole) + 1 if whole else 0)
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            yield _LINE.validate_json(line)
        except ValidationError as error:
            if all(each["type"] in _UNKNOWN for each in error.errors()):
                raise JournalTooNew(
                    f"{path}, line {number}: this mimo does not know it; a newer one wrote it"
                ) from error
            raise JournalDamaged(f"{path}, line {number}: {error.errors()[0]['msg']}") from error
