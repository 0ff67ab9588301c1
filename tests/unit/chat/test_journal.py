"""A conversation's journal adds up to the same state, however its process ended."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.cli.chat.journal import (
    Compacted,
    Granted,
    Journal,
    JournalDamaged,
    JournalTooNew,
    ModeChosen,
    Opened,
    Queued,
    Revoked,
    Rewound,
    TurnBegan,
    Unqueued,
)
from agent.permissions.policy import Grant, Mode

GRANT = Grant(words=("git", "commit"), exact=False)


def turn(number: int) -> TurnBegan:
    return TurnBegan(task_id=f"task_{number}", text=f"text {number}", before="0" * 40)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(Opened(root="/project", at=datetime.now(UTC)))
    return journal


def test_the_state_is_the_same_when_it_is_read_again(journal: Journal, tmp_path: Path) -> None:
    for line in (turn(1), turn(2), ModeChosen(mode=Mode.PLAN), Granted(grant=GRANT), Queued(text="next"), turn(3)):
        journal.add(line)
    assert Journal(tmp_path / "journal.jsonl").state == journal.state
    assert journal.state.mode is Mode.PLAN
    assert journal.state.queue == ("next",)


def test_a_line_that_was_cut_off_counts_as_never_written(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal.add(turn(1))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "turn", "task')
    again = Journal(path)
    assert again.state == journal.state
    again.add(turn(2))
    assert len(Journal(path).state.turns) == 2


def test_a_damaged_line_is_named(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(JournalDamaged, match="line 2"):
        Journal(path)


@pytest.mark.parametrize("line", ['{"type": "of_tomorrow"}', '{"type": "queued", "text": "next", "of_tomorrow": 1}'])
def test_a_line_of_a_newer_mimo_is_said_to_be_one(journal: Journal, tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes() + f"{line}\n".encode())
    with pytest.raises(JournalTooNew, match=r"line 2.*a newer one wrote it"):
        Journal(path)


def test_rewinding_behind_a_summary_shows_what_it_summed_up(journal: Journal) -> None:
    for line in (turn(1), turn(2), Compacted(turns=2, summary="short")):
        journal.add(line)
    assert journal.state.compacted is not None
    journal.add(Rewound(turns=1))
    assert journal.state.compacted is None
    assert [line.text for line in journal.state.turns] == ["text 1"]


def test_a_grant_is_kept_once_and_can_be_taken_back(journal: Journal) -> None:
    journal.add(Granted(grant=GRANT))
    journal.add(Granted(grant=GRANT))
    assert journal.state.grants == (GRANT,)
    journal.add(Revoked(grant=GRANT))
    assert not journal.state.grants


def test_the_queue_gives_the_oldest_to_the_agent_and_the_newest_to_the_user(journal: Journal) -> None:
    for text in ("a", "b", "c"):
        journal.add(Queued(text=text))
    journal.add(Unqueued(end="newest"))
    journal.add(Unqueued(end="oldest"))
    assert journal.state.queue == ("b",)
