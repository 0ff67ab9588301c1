"""From the laptop to the service and back: ``mimo push`` and ``mimo pull``."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from agent.cli.chat.journal import Journal, Opened
from agent.cli.chat.record import add_turn, said_in
from agent.events import StepMessage, StepStarted
from agent.testing import ScriptedEndpoint, in_order
from agent.types import AssistantMessage, ModelOptions, Usage
from tests.integration.chat.terminal import ENTER, Terminal
from tests.integration.cli.conftest import Mimo

from .conftest import Hosted, git

CALC = "def add(a, b):\n    return a - b\n\n\ndef sub(a, b):\n    return -b + a\n\n\nEND = 'end'\n"
FIXED = CALC.replace("a - b", "a + b", 1)


@pytest.fixture
def checkout(serving: str, mimo: Mimo, hosted: Hosted) -> Path:
    """A person's checkout of a repository that the service knows, with a commit and files that its host has not."""
    hosted.commit("calc.py", CALC.replace("a - b", "a -  b", 1))
    git(hosted.checkout, "remote", "add", "origin", hosted.url)
    git(hosted.checkout, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(hosted.checkout, "commit", "-q", "--allow-empty", "-m", "of mine alone")
    (hosted.checkout / "calc.py").write_text(CALC)
    (hosted.checkout / "new.txt").write_text("untracked\n")
    added = mimo("repo", "add", "calculator", hosted.url, "--credential", "GIT_TOKEN")
    assert added.code == 0, added.err
    return hosted.checkout


@pytest.fixture
def conversation(checkout: Path, tmp_path: Path) -> Path:
    """The folder of a conversation of one turn about the checkout."""
    folder = tmp_path / "home" / "conversations" / "yesterday"
    folder.mkdir(parents=True)
    Journal(folder / "journal.jsonl").add(Opened(root=str(checkout), at=datetime.now(UTC)))
    answer = AssistantMessage(content="add() subtracts.", reasoning_content="a - b, hm")
    said = StepMessage(step=1, message=answer, usage=Usage(), duration_s=0.0, temperature=0.3, thinking=True)
    steps = [("step.started", StepStarted(step=1)), ("step.message", said)]
    written = [(kind, body.model_dump(mode="json")) for kind, body in steps]
    # In a thread of its own: this one may have a loop that tests share.
    with start_blocking_portal() as portal:
        options = ModelOptions(name="mimo-v2-flash")
        portal.call(add_turn, folder, checkout, "the first", "what is wrong here?", written, options)
    return folder


@pytest.fixture
def pushed(checkout: Path, mimo: Mimo) -> Callable[[], str]:
    """Hands the checkout over and waits for the end; the task's id."""

    def push() -> str:
        handed = mimo("push", "repair it", "--repo", checkout)
        assert handed.code == 0, handed.err
        task_id = handed.out.strip()
        assert mimo("task", "watch", task_id).code == 0
        return task_id

    return push


def test_what_the_task_changed_comes_back_beside_what_was_changed_meanwhile(
    conversation: Path, checkout: Path, mimo: Mimo, pushed: Callable[[], str]
) -> None:
    task_id = pushed()
    (checkout / "calc.py").write_text(CALC.replace("'end'", "'changed meanwhile'"))
    pulled = mimo("pull", task_id)

    assert pulled.code == 0, pulled.err
    assert (checkout / "calc.py").read_text() == FIXED.replace("'end'", "'changed meanwhile'")
    assert (checkout / "new.txt").read_text() == "untracked\n"
    assert git(checkout, "log", "-1", "--format=%s").strip() == "of mine alone"
    assert "mimo --resume yesterday" in pulled.err
    with start_blocking_portal() as portal:
        said = portal.call(said_in, conversation)
    assert [message.content for message in said[:3]] == ["what is wrong here?", "add() subtracts.", "repair it"]
    assert {message.model for message in said[3:] if message.role == "assistant"} == {"mimo-v2-nano"}
    assert said[1].model == "mimo-v2-flash"
    assert "str_replace" in str(said[3:])


def test_a_conversation_is_pushed_and_pulled_where_it_goes_on(
    serving: str, conversation: Path, checkout: Path, mimo: Mimo, tmp_path: Path
) -> None:
    with ScriptedEndpoint(in_order()).running() as model:
        options = ("--model-url", model, "--model", "scripted", "--resume", conversation.name)
        with Terminal(*options, home=tmp_path / "home", MIMO_SERVER_URL=serving) as terminal:
            terminal.see("/help")
            terminal.type("/push repair it", ENTER)
            terminal.see("Handed over as ")
            assert mimo("task", "watch", terminal.text.split("Handed over as ")[1].split(".")[0]).code == 0
            terminal.see_either("scripted")
            terminal.type("/tasks", ENTER)
            terminal.see("succeeded")
            terminal.see_either("scripted")
            terminal.type("/pull", ENTER)
            terminal.see("Applied to")
            terminal.see("> repair it")
            terminal.see("✓ edit calc.py")
    assert (checkout / "calc.py").read_text() == FIXED


def test_lines_that_both_changed_are_left_as_they_are(checkout: Path, mimo: Mimo, pushed: Callable[[], str]) -> None:
    task_id = pushed()
    mine = CALC.replace("a - b", "sum((a, b))", 1)
    (checkout / "calc.py").write_text(mine)
    pulled = mimo("pull", task_id)

    assert (pulled.code, "same lines of calc.py" in pulled.err) == (1, True)
    assert (checkout / "calc.py").read_text() == mine
