"""The folders of conversations: made, copied, listed, and each open in one terminal at a time."""

import fcntl
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.cli.chat.journal import Journal, JournalDamaged, Rewound


class ConversationBusy(Exception):
    """Another terminal has the conversation open."""


def new_folder(conversations: Path) -> Path:
    """For a conversation that begins now."""
    return conversations / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def fork(folder: Path, *, turns: int | None = None) -> Path:
    """A copy of a conversation that goes its own way from here. The conversation must not be in a turn."""
    copy = new_folder(folder.parent)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("lock", "checkpoints"))
    journal = Journal(copy / "journal.jsonl")
    if turns is not None:
        journal.add(Rewound(turns=turns))
    return copy


@dataclass(frozen=True, slots=True)
class Listed:
    """A conversation in a list."""

    folder: Path
    root: str
    title: str
    turns: int
    changed_at: float
    """Seconds since the epoch."""


def list_conversations(conversations: Path, root: Path | None = None) -> list[Listed]:
    """Conversations with at least one turn, newest first; those about ``root`` where it is given."""
    found = []
    for path in conversations.glob("*/journal.jsonl"):
        try:
            state = Journal(path).state
        except JournalDamaged:
            continue  # It says so when it is opened by name.
        if state.turns and (root is None or state.root == str(root)):
            title = state.turns[0].text.strip().split("\n")[0]
            found.append(Listed(path.parent, state.root, title, len(state.turns), path.stat().st_mtime))
    return sorted(found, key=lambda listed: listed.changed_at, reverse=True)


def expect_free(folder: Path) -> None:
    """
    Raises:
        ConversationBusy: a terminal has the conversation open.
    """
    with alone(folder):
        pass


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One terminal at a time; the kernel lets go of the lock however the process ends."""
    with (folder / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConversationBusy(f"conversation {folder.name} is open in another terminal") from error
        yield
