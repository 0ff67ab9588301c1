"""What begins with a slash, typed at the real program."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.testing import call, in_order
from agent.types import AssistantMessage, Message
from tests.integration.chat.conftest import Start, ready, say
from tests.integration.chat.terminal import BACKSPACE, CTRL_D, CTRL_G, CTRL_R, ENTER, ESCAPE, Terminal

EDIT = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")


def _repaired(start: Start, *answers: AssistantMessage) -> Terminal:
    """After one turn, in which the file was changed."""
    terminal = ready(start(in_order(EDIT, say("It adds now.", reasoning="A sign."), *answers), "--mode", "edits"))
    terminal.type("repair it", ENTER)
    terminal.see("It adds now.")
    terminal.see("tokens · /help")
    return terminal


def test_what_commands_print_stands_below_them_however_fast_they_are_typed(start: Start) -> None:
    terminal = _repaired(start)
    terminal.type(*(key for name in ("/diff", "/cost", "/context", "/permissions") for key in (name, ENTER)))
    terminal.see("nothing is always allowed")
    said = terminal.text.split("It adds now.", 1)[1]
    expected = ["> /diff", "+    return a + b", "> /cost", "tokens read", "> /context", "the agent", "> /permissions"]
    places = [said.index(words) for words in [*expected, "nothing is always allowed"]]
    assert places == sorted(places), said


def test_a_conversation_is_exported_and_no_file_is_written_over(start: Start, root: Path, tmp_path: Path) -> None:
    (root / "taken.md").write_text("mine")
    terminal = _repaired(start)
    terminal.type("/export taken.md", ENTER)
    terminal.see("is there already")
    terminal.type(f"/export {tmp_path}/talk.md", ENTER)
    terminal.see("written to")
    assert (root / "taken.md").read_text() == "mine"
    talk = (tmp_path / "talk.md").read_text()
    for words in ("## You\n\nrepair it", "`str_replace` ", "## MiMo\n\nIt adds now."):
        assert words in talk


def test_a_summary_a_question_aside_and_the_newest_thoughts_are_shown(start: Start) -> None:
    terminal = _repaired(start, say("In short: **mended**."), say("Forty-two."))
    terminal.type("/thinking", ENTER)
    terminal.see("A sign.")
    terminal.type("/compact", ENTER)
    terminal.see("In short: mended.")
    terminal.type("/btw what is six times seven?", ENTER)
    terminal.see("Forty-two.")
    terminal.type("/context", ENTER)
    terminal.see("turns 1 to 1 are summed up")


def test_files_go_back_to_before_a_call_and_that_is_undone(start: Start, root: Path) -> None:
    add = call("bash", command="echo noted > notes")
    terminal = ready(start(in_order(EDIT, add, say("Both done.")), "--mode", "auto"))
    terminal.type("repair it", ENTER)
    terminal.see("Both done.")
    terminal.see("tokens · /help")
    terminal.type("/rewind", ENTER)
    terminal.see("Back to before which turn?")
    terminal.type("1")
    terminal.see("4. files alone, to before one of its calls")
    terminal.type("4")
    terminal.see("2. $ echo noted > notes")
    terminal.type("2")
    terminal.see("files as before: $ echo noted > notes")
    assert not (root / "notes").exists()
    assert (root / "calc.py").read_text().endswith("a + b\n")

    terminal.type("/rewind", ENTER)
    terminal.see("2. the files as they were before the newest /rewind")
    terminal.type("2")
    terminal.see("the files are as they were")
    assert (root / "notes").read_text() == "noted\n"


def test_a_shell_or_a_pager_that_is_not_there_is_said(start: Start) -> None:
    count = call("bash", command="seq 100 > numbers")
    environment = {"SHELL": "/nowhere/shell", "PAGER": "/nowhere/pager 'of mine'"}
    terminal = ready(start(in_order(count, say("Counted.")), "--mode", "auto", **environment))
    terminal.type("count", ENTER)
    terminal.see("tokens · /help")
    terminal.type("!ls", ENTER)
    terminal.see("! [Errno 2] No such file or directory: '/nowhere/shell'")
    terminal.see("tokens · /help")
    terminal.type("/diff", ENTER)
    terminal.see("/nowhere/pager")
    terminal.see("tokens · /help")
    terminal.type("/cost", ENTER)
    terminal.see("tokens read")


@pytest.mark.parametrize("editor", ["'no end", "/nowhere/editor", "false", "rm"])
def test_an_editor_that_fails_loses_no_word(start: Start, editor: str) -> None:
    terminal = ready(start(in_order(say("received")), VISUAL="", EDITOR=editor))
    terminal.type("a beginning", CTRL_G)
    terminal.see("the editor failed, or there is none; EDITOR names one")
    terminal.type(" and an end", ENTER)
    terminal.see("> a beginning and an end")
    terminal.see("received")


def test_the_newest_answer_goes_to_the_terminals_clipboard(start: Start) -> None:
    terminal = _repaired(start)
    terminal.type("/copy", ENTER)
    terminal.see("12 characters were handed to the terminal")
    assert b"\x1b]52;c;" + b64encode(b"It adds now.") in terminal.raw


def test_what_was_typed_before_is_searched_and_sent_again(start: Start) -> None:
    terminal = ready(start(in_order(say("First."), say("Second."), say("Third."))))
    for words, answered in {"look at the parser": "First.", "something else": "Second."}.items():
        terminal.type(words, ENTER)
        terminal.see(answered)
        terminal.see("tokens · /help")
    terminal.type(CTRL_R)
    terminal.see("typed before:")
    terminal.type("PARS")
    terminal.see("> look at the parser\ntyped before: PARS")
    terminal.type(ENTER)
    terminal.see_no_more("typed before:")
    terminal.type(ENTER)
    terminal.see("Third.")
    terminal.see("> look at the parser", times=2)


def test_a_question_shows_the_line_that_a_part_of_is_asked_for(start: Start) -> None:
    terminal = ready(start(in_order(call("bash", command="cat calc.py; rm calc.py"), say("as you like"))))
    terminal.type("clean up", ENTER)
    terminal.see("$ cat calc.py; rm calc.py\n  rm calc.py  (can lose work)\n")
    terminal.type("3")
    terminal.see("as you like")


def test_before_the_first_turn_commands_say_that_there_is_nothing(start: Start, root: Path) -> None:
    terminal = ready(start(in_order()))
    nothing = {
        "/copy": "nothing was answered yet",
        "/rewind": "nothing to go back to",
        "/diff": "nothing was done yet",
        "/thinking": "(none)",
    }
    for name, words in nothing.items():
        terminal.type(name, ENTER)
        terminal.see(words)
    for times, name in enumerate(("/export", "/compact"), start=1):
        terminal.type(name, ENTER)
        terminal.see("nothing was said yet", times=times)
    terminal.type("/btw", ENTER)
    terminal.see("/btw QUESTION")
    terminal.type("/resume", ENTER)
    terminal.see("no other conversation")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    assert not list(root.glob("conversation-*"))


def test_a_grant_is_taken_back(start: Start) -> None:
    run = call("bash", command="python -V")
    terminal = ready(start(in_order(run, say("made"), run, say("as you like"))))
    terminal.type("make it", ENTER)
    terminal.see("2. yes, and always: python -V")
    terminal.type("2")
    terminal.see("tokens · /help")
    terminal.type("/permissions", ENTER)
    terminal.see("a number takes it back")
    terminal.type("1")
    terminal.see("asked again from now on: python -V")
    terminal.type("again", ENTER)
    terminal.see("May it do this?")
    terminal.type(ESCAPE)
    terminal.see_no_more("May it do this?")


def test_instructions_for_agents_are_written_on_demand(start: Start, root: Path) -> None:
    asked: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        asked.append(messages[-1]["content"])
        write = call("bash", command="echo Run pytest. > AGENTS.md")
        return write if len(asked) == 1 else say("written")

    terminal = ready(start(script, "--mode", "auto"))
    terminal.type("/init", ENTER)
    terminal.see("tokens · /help")
    assert asked[0].startswith("Write AGENTS.md")
    assert (root / "AGENTS.md").read_text() == "Run pytest.\n"


def test_binary_files_are_named_and_not_printed(start: Start, root: Path) -> None:
    (root / "blob").write_bytes(bytes(range(256)) * 40)
    change = call("bash", command=r"printf '\000\033[2J\377' >> blob; cat blob")
    terminal = ready(start(in_order(change, say("changed")), "--mode", "auto"))
    terminal.type("change it", ENTER)
    terminal.see("tokens · /help")
    terminal.type("/diff", ENTER)
    terminal.see("diff --git a/blob b/blob\n(a binary file)\n")
    assert b"\x1b[2J" not in terminal.raw
    assert (root / "blob").read_bytes().endswith(b"\x00\x1b[2J\xff")


def test_a_short_list_of_what_completes_a_word_has_no_empty_lines_after_a_long_one(start: Start) -> None:
    terminal = ready(start(in_order(), rows=30))
    terminal.type("/")
    terminal.see("/btw")
    terminal.type(BACKSPACE, "@calc")
    terminal.see("\n calc.py")
    listed = terminal.screen.split("@calc", 1)[1]
    terminal.see(" ask ")
    assert "calc.py\n ask " in listed.replace(" \n", "\n"), listed
