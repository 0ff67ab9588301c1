"""``mimo`` as a person sees it: the real program on a real terminal, a scripted endpoint."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.testing import Stalled, call, in_order
from agent.types import AssistantMessage, Message
from tests.integration.chat import tool_server
from tests.integration.chat.conftest import Start, ready, say
from tests.integration.chat.terminal import (
    CTRL_C,
    CTRL_D,
    CTRL_G,
    CTRL_O,
    CTRL_S,
    CTRL_V,
    ENTER,
    ESCAPE,
    SHIFT_TAB,
    TAB,
    UP,
    Terminal,
)

EDIT = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")


@pytest.mark.parametrize("columns", [40, 100])
def test_a_turn_is_seen_from_question_to_answer(start: Start, root: Path, columns: int) -> None:
    answer = "# Done\n\nIt *adds* now.\n\n- one\n- two\n"
    terminal = ready(start(in_order(EDIT, say(answer, reasoning="Let me think.")), columns=columns))
    terminal.type("repair it", ENTER)
    terminal.see("May it do this?")
    terminal.see("+ a + b")
    terminal.see("4. no, and tell it why")
    terminal.type("1")
    terminal.see("✓ edit calc.py")
    terminal.see("• two")
    terminal.see("✻ thought")
    terminal.see("> repair it")
    assert (root / "calc.py").read_text().endswith("a + b\n")
    assert max(map(len, terminal.text.splitlines())) <= columns
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    assert "To go on: mimo --resume " in terminal.text


def test_screen_scrollback_and_mouse_stay_the_terminals_own(start: Start) -> None:
    long = "\n\n".join(f"paragraph {number}" for number in range(60))
    terminal = ready(start(in_order(say(long))))
    terminal.type("tell me", ENTER)
    terminal.see("tokens · /help")
    assert [terminal.text.count(f"paragraph {number}\n") for number in range(59)] == [1] * 59
    for takes_over in (b"\x1b[?1049h", b"\x1b[2J", b"\x1b[3J", b"\x1b[?1000h", b"\x1b[?1003h"):
        assert takes_over not in terminal.raw


def test_a_refusal_with_its_reason_reaches_the_model(start: Start, root: Path) -> None:
    heard: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        heard.append(messages[-1]["content"])
        return call("bash", command="rm calc.py") if len(heard) == 1 else say("as you like")

    terminal = ready(start(script))
    terminal.type("clean up", ENTER)
    terminal.see("rm calc.py  (can lose work)")
    terminal.type("4")
    terminal.see("Tell it why:")
    terminal.type("I need it", ENTER)
    terminal.see("as you like")
    assert "I need it" in heard[1]
    assert (root / "calc.py").exists()


def test_enter_in_the_middle_of_words_allows_nothing(start: Start, root: Path) -> None:
    typed = threading.Event()

    def script(messages: Sequence[Message]) -> AssistantMessage:
        typed.wait(240)
        return EDIT if messages[-1]["role"] == "user" else say("as you like")

    terminal = ready(start(script))
    terminal.type("repair it", ENTER)
    terminal.see("asking the model")
    terminal.type("and then")
    terminal.see("> and then")
    typed.set()
    terminal.see("May it do this?")
    terminal.type(ENTER, ENTER, "3")
    terminal.see("as you like")
    terminal.see("> and then")
    assert (root / "calc.py").read_text().endswith("a - b\n")


def test_words_typed_at_a_question_allow_nothing(start: Start, root: Path) -> None:
    terminal = ready(start(in_order(call("bash", command="rm calc.py"), say("as you like"))))
    terminal.type("clean up", ENTER)
    terminal.see("4. no, and tell it why")
    terminal.type("5", "I need it", ENTER)
    terminal.see_no_more("❯")
    terminal.type("3")
    terminal.see("as you like")
    terminal.see("> I need it")
    assert (root / "calc.py").exists()


def test_an_answer_to_the_agents_question_stands_below_it_also_when_it_is_shown_again(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text('profile = "assistant"\n')
    ask = call("ask_user", question="Which database, of all that there are in this world?", options=["one", "two"])
    terminal = ready(start(in_order(ask, say("a good choice")), columns=40))
    terminal.type("choose", ENTER)
    terminal.see("3. something else")
    terminal.type("2")
    exchange = "\n\n> two\n\n  a good choice\n"
    terminal.see(f"\n\n  ? Which database, of all that there\n    are in this world?{exchange}")
    terminal.see("tokens · /help")
    terminal.type("/fork", ENTER)
    terminal.see(exchange, times=2)
    assert terminal.text.count("are in this world?") == 2


def test_a_call_that_cannot_be_made_is_named(start: Start) -> None:
    missing = call("str_replace", path="/workspace/nowhere.py", old_str="a", new_str="b")
    terminal = ready(start(in_order(missing, say("as you see"))))
    terminal.type("repair it", ENTER)
    terminal.see("✗ edit /workspace/nowhere.py: ")
    terminal.see("as you see")


def test_a_narrower_window_shows_no_blank_lines_where_there_were_none(start: Start) -> None:
    terminal = ready(start(in_order(say("| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n")), columns=100))
    terminal.type("show me", ENTER)
    terminal.see("tokens · /help")
    terminal.type("/help", ENTER)
    terminal.see("the agent is not told")
    printed = terminal.raw.split(b"show me", 1)[1].decode()
    assert not [line for line in printed.split("\r\n") if line.endswith(" ")]


def test_what_was_begun_before_a_question_in_words_is_no_part_of_the_answer(start: Start) -> None:
    typed = threading.Event()
    heard: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        typed.wait(240)
        heard.append(messages[-1]["content"])
        return call("bash", command="rm calc.py") if len(heard) == 1 else say("as you like")

    terminal = ready(start(script))
    terminal.type("clean up", ENTER)
    terminal.see("asking the model")
    terminal.type("and then")
    terminal.see("> and then")
    typed.set()
    terminal.see("4. no, and tell it why")
    terminal.type("4")
    terminal.see("Tell it why:")
    terminal.type("I need it", ENTER)
    terminal.see("as you like")
    terminal.see("> and then")
    assert "I need it" in heard[1]
    assert "and then" not in heard[1]


def test_the_badge_says_how_far_the_agent_may_go(start: Start) -> None:
    terminal = ready(start(in_order(), "--no-sandbox"))
    terminal.see("NO SANDBOX")
    for mode in (" accept edits ", " auto ", " plan ", " ask "):
        terminal.type(SHIFT_TAB)
        terminal.see(mode)


def test_what_is_typed_meanwhile_waits_can_be_taken_back_and_steers(start: Start) -> None:
    seen: list[list[str]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        seen.append([message["content"] for message in messages if message["role"] == "user"])
        return EDIT if len(seen) == 1 else say(f"answer {len(seen)}")

    terminal = ready(start(script))
    terminal.type("first", ENTER)
    terminal.see("May it do this?")
    terminal.type("1")
    terminal.see("answer 2")
    terminal.type("/help", ENTER)
    terminal.see("Shift-Tab")
    terminal.type("second", ENTER)
    terminal.see("answer 3")
    assert seen[-1] == ["first", "second"]


def test_words_are_queued_taken_back_and_steered_while_the_model_is_silent(start: Start) -> None:
    terminal = ready(start(in_order(say("after all")), faults=[Stalled()]))
    terminal.type("first", ENTER)
    terminal.see("asking the model")
    terminal.type("second", ENTER)
    terminal.see("⋯ second")
    terminal.type(UP)
    terminal.see_no_more("⋯ second")
    terminal.see("> second")
    terminal.type(CTRL_C)
    terminal.see("interrupted")
    terminal.type(ENTER)
    terminal.see("after all")


def test_an_enter_sends_while_lines_are_printed_too(start: Start) -> None:
    heard: list[str] = []
    long = " ".join(f"{draw(40):x}" for draw in [random.Random(0).getrandbits] * 20_000)

    def script(messages: Sequence[Message]) -> AssistantMessage:
        heard.append(messages[-1]["content"])
        return say(long if len(heard) == 1 else "understood")

    terminal = ready(start(script))
    terminal.type("tell me", ENTER)
    terminal.fill()
    terminal.type("and more", ENTER)
    terminal.see("understood")
    assert heard == ["tell me", "and more"]


def test_words_sent_into_a_turn_are_shown_there(start: Start) -> None:
    sleep = call("bash", command="sleep 2; echo slept")
    terminal = ready(start(in_order(sleep, say("understood")), "--mode", "auto"))
    terminal.type("wait", ENTER)
    terminal.see("$ sleep 2")
    terminal.type("hurry up", CTRL_S)
    terminal.see("understood")
    terminal.see("> hurry up")
    assert terminal.text.index("✓ $ sleep 2") < terminal.text.index("understood")


def test_a_killed_conversation_goes_on_with_its_question(start: Start, root: Path, tmp_path: Path) -> None:
    terminal = ready(start(in_order(EDIT)))
    terminal.type("repair it", ENTER)
    terminal.see("May it do this?")
    terminal.kill()
    terminal = start(in_order(say("repaired")), "--continue")
    terminal.see("The last turn was not finished.")
    terminal.see("> repair it")
    terminal.type("1")
    terminal.see("May it do this?")
    terminal.type("1")
    terminal.see("repaired")
    assert (root / "calc.py").read_text().endswith("a + b\n")


def test_leaving_in_the_middle_and_resuming_keeps_what_was_said(start: Start, tmp_path: Path) -> None:
    terminal = ready(start(in_order(), faults=[Stalled()]))
    terminal.type("think hard", ENTER)
    terminal.see("asking the model")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    name = terminal.text.split("mimo --resume ")[1].split()[0]
    terminal = start(in_order(say("here again")), "--resume", name)
    terminal.see("The last turn was not finished.")
    terminal.type("2")
    terminal.see_no_more("The last turn")
    terminal.type("hello", ENTER)
    terminal.see("here again")


def test_a_conversation_that_is_told_to_end_ends_in_order_and_goes_on_later(start: Start) -> None:
    terminal = start(in_order(), faults=[Stalled()])
    before = terminal.settings
    ready(terminal).type("think hard", ENTER)
    terminal.see("asking the model")
    terminal.send(signal.SIGTERM)
    assert terminal.ended() == 130
    assert terminal.settings == before
    assert "ended by a signal" in terminal.text
    name = terminal.text.split("To go on: mimo --resume ")[1].split()[0]
    terminal = start(in_order(say("here again")), "--resume", name)
    terminal.see("The last turn was not finished.")
    terminal.type("1")
    terminal.see("here again")


def test_a_conversation_of_a_newer_mimo_says_what_to_do(start: Start, tmp_path: Path) -> None:
    terminal = ready(start(in_order(say("said before"))))
    terminal.type("hello there", ENTER)
    terminal.see("tokens · /help")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    name = terminal.text.split("To go on: mimo --resume ")[1].split()[0]
    (journal,) = tmp_path.rglob(f"{name}/journal.jsonl")
    with journal.open("a") as file:
        file.write('{"type": "of_tomorrow"}\n')

    terminal = start(in_order(), "--resume", name)

    terminal.see("update mimo to that release")
    assert terminal.ended() == 1


def test_a_conversation_is_resumed_from_the_list(start: Start) -> None:
    terminal = ready(start(in_order(say("said before"))))
    terminal.type("hello there", ENTER)
    terminal.see("tokens · /help")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    terminal = start(in_order(), "--resume", "list")
    terminal.see("1. hello there")
    terminal.see("Which?")
    terminal.type("1", ENTER)
    terminal.see("said before")


@pytest.mark.parametrize("columns", [40, 100])
def test_code_in_an_answer_stands_between_single_blank_lines_in_the_terminals_colours(
    start: Start, columns: int
) -> None:
    code = "Like this:\n\n```python\ndef f():\n    return 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThat is all.\n"
    terminal = ready(start(in_order(say(code)), columns=columns))
    terminal.type("how?", ENTER)
    terminal.see(
        "\n\n  Like this:\n\n    def f():\n        return 1\n\n  a  b\n  ────\n  1  2\n\n  That is all.\n\n",
    )
    terminal.see("tokens · /help")
    terminal.type("/fork", ENTER)
    terminal.see("  a  b\n  ────\n  1  2\n\n  That is all.\n\n", times=2)
    shown = terminal.text.rsplit("> how?", 1)[1]
    assert "Like this:\n\n    def f():\n        return 1\n\n  a  b\n  ────\n  1  2\n\n  That is all." in shown
    assert not any(len(color) == 6 for color in terminal.colors)  # as pyte writes those that are no names


PNG = b"\x89PNG\r\n\x1a\n\x00\xff rest"


def test_an_image_is_shown_to_the_model_in_its_turn_and_in_later_ones(start: Start, tmp_path: Path) -> None:
    shown: list[list[Message]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        shown.append([part for each in messages if isinstance(each["content"], list) for part in each["content"]])
        return say(f"seen in turn {len(shown)}")

    (tmp_path / "a button.png").write_bytes(PNG)
    (tmp_path / "project" / "shot.png").write_bytes(PNG + b"2")
    terminal = ready(start(script, MIMO_MODEL_IMAGES="1"))
    terminal.type("What is this? ")
    terminal.paste(str(tmp_path / "a button.png").replace(" ", "\\ "))
    terminal.see("What is this? [image a-button.png]")
    terminal.type(ENTER)
    terminal.see("seen in turn 1")
    terminal.type("/image shot.png", ENTER)
    terminal.see("> [image shot.png]")
    terminal.type("and this?", ENTER)
    terminal.see("seen in turn 2")
    first, second = (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}
        for data in (PNG, PNG + b"2")
    )
    assert shown[0] == [{"type": "text", "text": "What is this? [image a-button.png]"}, first]
    assert [part for part in shown[1] if part["type"] == "image_url"] == [first, second]


def test_the_image_of_the_clipboard_is_taken(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(PNG)
    (tmp_path / "wl-paste").write_text(f"#!/bin/sh\ncat {tmp_path}/clip\n")
    (tmp_path / "wl-paste").chmod(0o700)
    path = f"{tmp_path}:{os.environ['PATH']}"
    terminal = ready(start(in_order(say("seen")), MIMO_MODEL_IMAGES="1", PATH=path))
    terminal.type(CTRL_V)
    terminal.see("> [image clipboard.png]")


def test_a_model_that_takes_text_alone_is_shown_no_image(start: Start, root: Path) -> None:
    (root / "shot.png").write_bytes(PNG)
    (root / "words.png").write_text("words")
    terminal = ready(start(in_order(), columns=300))
    terminal.type("/image shot.png", ENTER)
    terminal.see("! scripted takes text alone; say in words what the images show")
    terminal.type("/image words.png", ENTER)
    terminal.see("words.png is no PNG, JPEG or WebP")
    terminal.paste(str(root / "shot.png"))
    terminal.see(f"> {root}/shot.png")


@pytest.mark.parametrize("keys", [("!echo begun; exec sleep 600", ENTER), ("a word", CTRL_G)])
def test_a_conversation_that_is_told_to_end_ends_what_has_the_terminal(
    start: Start, tmp_path: Path, keys: Sequence[str]
) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho begun; exec sleep 600\n")
    editor.chmod(0o700)
    terminal = start(in_order(), VISUAL=str(editor))
    before = terminal.settings
    ready(terminal).type(*keys)
    terminal.see("\nbegun")
    terminal.send(signal.SIGTERM)
    assert terminal.ended() == 130
    assert terminal.settings == before


def test_an_interrupt_from_elsewhere_is_as_that_of_the_keyboard(start: Start) -> None:
    terminal = ready(start(in_order()))
    terminal.type("begun")
    terminal.see("> begun")
    terminal.send(signal.SIGINT)
    terminal.see_no_more("> begun")


def test_what_was_written_in_the_editor_is_sent(start: Start, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "%s and more" "$(cat "$1")" > "$1"\n')
    editor.chmod(0o700)
    terminal = ready(start(in_order(say("well written")), VISUAL=str(editor)))
    terminal.type("a beginning", CTRL_G)
    terminal.see("a beginning and more")
    terminal.type(ENTER)
    terminal.see("well written")
    terminal.see("> a beginning and more")


def test_what_is_shown_again_is_over(start: Start) -> None:
    terminal = ready(start(in_order(say("said before"))))
    terminal.type("hello", ENTER)
    terminal.see("tokens · /help")
    terminal.type("/fork", ENTER)
    terminal.see("said before", times=2)
    terminal.see("% cached")
    terminal.see_no_more("asking the model")


def test_a_long_command_is_seen_whole_before_it_is_allowed(start: Start) -> None:
    command = f"make {'very ' * 22}long; rm -rf everything"
    terminal = ready(start(in_order(call("bash", command=command), say("as you like")), columns=40))
    terminal.type("clean up", ENTER)
    terminal.see("4. no, and tell it why")
    asked = terminal.screen[terminal.screen.index("May it do this?") :].replace("\n", "").replace(" ", "")
    assert f"make{'very' * 22}long" in asked
    assert "rm-rfeverything(canlosework)" in asked
    terminal.type("3")
    terminal.see("as you like")


def test_what_a_long_question_leaves_out_is_shown_on_demand(start: Start) -> None:
    command = "; ".join(f"touch file{number}" for number in range(30))
    terminal = ready(start(in_order(call("bash", command=command), say("as you like"))))
    terminal.type("make files", ENTER)
    terminal.see("Ctrl-O shows all of it")
    assert "file29" not in terminal.text
    terminal.type(CTRL_O)
    terminal.see("touch file29")
    terminal.type("3")
    terminal.see("as you like")


def test_the_beginning_of_a_command_will_do_where_no_other_begins_so(start: Start) -> None:
    terminal = ready(start(in_order()))
    terminal.type("/cont", ENTER)
    terminal.see("characters, 0%")
    terminal.type("/co", ENTER)
    terminal.see("it could be /compact, /context, /cost")


def test_rewind_brings_back_files_and_words(start: Start, root: Path) -> None:
    terminal = ready(start(in_order(EDIT, say("done")), "--mode", "edits"))
    terminal.type("repair it", ENTER)
    terminal.see("done")
    terminal.see("tokens · /help")
    terminal.type("/rewind", ENTER)
    terminal.see("Back to before which turn?")
    terminal.type("1")
    terminal.see("files and conversation")
    terminal.type("1")
    terminal.see("back to before: repair it")
    assert (root / "calc.py").read_text().endswith("a - b\n")


def test_a_long_paste_is_folded_and_sent_whole(start: Start) -> None:
    heard: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        heard.append(messages[-1]["content"])
        return say("all taken in")

    terminal = ready(start(script))
    text = "\n".join(f"line {number}" for number in range(50))
    terminal.type(f"look: \x1b[200~{text}\x1b[201~", ENTER)
    terminal.see("all taken in")
    assert heard == [f"look: {text}"]


def test_a_paste_is_sent_whole_again_by_a_later_conversation(start: Start) -> None:
    heard: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        heard.append(messages[-1]["content"])
        return say("all taken in")

    pasted = "\n".join(f"line {number}" for number in range(50))
    terminal = ready(start(script))
    terminal.paste(pasted)
    terminal.see("> [paste 1: 50 lines]")
    terminal.type(" and sum it up", ENTER)
    terminal.see("all taken in")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0

    terminal = ready(start(script))
    terminal.paste(pasted.replace("line", "row"))
    terminal.see("> [paste 1: 50 lines]")
    terminal.type(UP)
    terminal.see("> [earlier paste 1: 50 lines] and sum it up")
    terminal.type(ENTER)
    terminal.see("all taken in")
    assert heard == [f"{pasted} and sum it up"] * 2


@pytest.mark.parametrize(
    ("text", "size"), [("x" * 1_000_000, "1,000,000 characters"), ("word\n" * 200_000, "200001 lines")]
)
def test_a_megabyte_is_folded_and_refused_in_words(start: Start, text: str, size: str) -> None:
    terminal = ready(start(in_order(say("after all"))))
    terminal.paste(text)
    terminal.see(f"> [paste 1: {size}]")
    terminal.type(" and more")
    terminal.see(f"> [paste 1: {size}] and more")
    terminal.type(ENTER)
    terminal.see("are too many")
    terminal.type(CTRL_C, "hello", ENTER)
    terminal.see("after all")


def test_what_the_terminal_says_of_its_cursor_is_no_part_of_a_paste(start: Start) -> None:
    terminal = ready(start(in_order()))
    terminal.paste("one\x1b[6;1R two")
    terminal.see("> one two")


def test_what_was_typed_before_the_screen_stood_is_in_the_line_and_was_not_sent(start: Start) -> None:
    heard: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        heard.append(messages[-1]["content"])
        return say("as you say")

    terminal = start(script)
    terminal.type("repair it", ENTER, "and test it", ENTER)
    ready(terminal)
    terminal.see("> repair it")
    assert heard == []
    terminal.type(ENTER)
    terminal.see("as you say")
    assert heard == ["repair it\nand test it"]


def test_what_was_typed_before_a_question_is_no_answer_to_it(start: Start, root: Path) -> None:
    (root / "AGENTS.md").write_text("Be kind.")
    terminal = start(in_order(say("as you say")))
    terminal.type("y", ENTER)
    terminal.see("Do you trust this folder?")
    terminal.type("n", ENTER)
    ready(terminal).see("> y")
    assert not next(iter(json.loads((root.parent / "home" / "trusted.json").read_text()).values()))


def test_a_question_without_an_answer_ends_it_in_words(start: Start, root: Path) -> None:
    (root / "AGENTS.md").write_text("Be kind.")
    terminal = start(in_order())
    terminal.see("Do you trust this folder?")
    terminal.type(CTRL_D)
    assert terminal.ended() == 130
    assert "no answer was given" in terminal.text


def test_another_conversation_is_begun_and_the_first_gone_back_to(start: Start) -> None:
    heard: list[int] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        heard.append(sum(message["role"] == "user" for message in messages))
        return say(f"answer {len(heard)}")

    terminal = ready(start(script))
    terminal.type("hello there", ENTER)
    terminal.see("answer 1")
    terminal.see("tokens · /help")
    terminal.type("/clear", ENTER)
    terminal.see("The conversation so far stays: mimo --resume ")
    terminal.see("can be typed", times=2)
    terminal.see_no_more("tokens · /help")
    terminal.type("anew", ENTER)
    terminal.see("answer 2")
    terminal.see("tokens · /help")
    terminal.type("/resume", ENTER)
    terminal.see("1. hello there  (")
    terminal.type("1")
    terminal.see("answer 1", times=2)
    terminal.see("can be typed", times=3)
    terminal.type("and again", ENTER)
    terminal.see("answer 3")
    assert heard == [1, 1, 2]


def test_a_conversation_that_another_terminal_has_open_is_not_gone_over_to(start: Start) -> None:
    first = ready(start(in_order(say("done"))))
    first.type("hello there", ENTER)
    first.see("tokens · /help")
    second = ready(start(in_order(say("still here"))))
    second.type("/resume", ENTER)
    second.see("1. hello there  (")
    second.type("1")
    second.see("is open in another terminal; leave it there first")
    second.type("and you?", ENTER)
    second.see("still here")


def test_a_conversation_that_another_terminal_has_open_is_refused_with_what_to_do(start: Start) -> None:
    first = ready(start(in_order(say("done"))))
    first.type("hello there", ENTER)
    first.see("tokens · /help")
    second = start(in_order(), "--continue", "--model-url", "http://127.0.0.1:9/v1")
    assert second.ended() == 1
    assert "is open in another terminal" in second.text
    assert "leave it there first, or begin another: mimo" in second.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_a_question_before_the_screen_ends_it(start: Start, root: Path, number: signal.Signals) -> None:
    (root / "AGENTS.md").write_text("Be kind.")
    terminal = start(in_order())
    terminal.see("Do you trust this folder?")
    terminal.send(number)
    assert terminal.ended() == 130
    assert "error: no answer was given" in terminal.text


def test_escape_twice_asks_where_to_go_back_to(start: Start) -> None:
    terminal = ready(start(in_order(say("done"))))
    terminal.type("repair it", ENTER)
    terminal.see("tokens · /help")
    terminal.type(ESCAPE, ESCAPE)
    terminal.see("Back to before which turn?")
    terminal.type(ESCAPE)
    terminal.see_no_more("Back to before which turn?")


def test_leaving_by_a_command_takes_the_live_lines_away(start: Start) -> None:
    terminal = ready(start(in_order(say("done"))))
    terminal.type("repair it", ENTER)
    terminal.see("tokens · /help")
    terminal.type("/exit", ENTER)
    assert terminal.ended() == 0
    left = terminal.screen.split("done")[1].split()
    assert left[:5] == [">", "/exit", "To", "go", "on:"]


def test_leaving_while_a_command_runs_ends_both(start: Start, root: Path) -> None:
    terminal = ready(start(in_order(call("bash", command="touch begun; sleep 600")), "--mode", "auto", "--no-sandbox"))
    terminal.type("wait", ENTER)
    terminal.see("$ touch begun")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    assert "To go on: mimo --resume " in terminal.text


@pytest.mark.parametrize("columns", [40, 100])
def test_the_newest_words_of_a_thought_are_seen_in_one_line_and_folded_after(start: Start, columns: int) -> None:
    thought = "The sign is wrong. 这个符号是错的，应该改成加号，然后再运行一次测试。 " * 8 + "So I turn it around"
    thinking = Stalled(AssistantMessage(content="", reasoning_content=thought))
    terminal = ready(start(in_order(say("done", reasoning="Short.")), faults=[thinking], columns=columns))
    terminal.type("repair it", ENTER)
    terminal.see("I turn it around")
    rows = [line for line in terminal.screen.splitlines() if "thinking" in line or "turn it around" in line]
    assert len(rows) == 1
    assert rows[0].startswith("  ")
    assert rows[0].endswith("I turn it around")
    terminal.type(ESCAPE)
    terminal.see("interrupted")
    assert "turn it around" not in terminal.screen
    terminal.type("again", ENTER)
    terminal.see("✻ thought")
    terminal.see("done")


def test_the_last_line_says_the_mode_and_the_sandbox_in_a_narrow_window(start: Start) -> None:
    terminal = start(in_order(), "--no-sandbox", "--mode", "edits", columns=40)
    terminal.see(" accept edits ")
    terminal.see("NO SANDBOX")
    terminal.type(CTRL_C)
    terminal.see("Ctrl-C again to leave")
    terminal.type(CTRL_C)
    assert terminal.ended() == 0


def test_without_colour_nothing_is_coloured(start: Start) -> None:
    terminal = ready(start(in_order(EDIT, say("**done**")), NO_COLOR="1"))
    terminal.type("repair it", ENTER)
    terminal.see("May it do this?")
    terminal.type("1")
    terminal.see("done")
    assert terminal.colors == {"default"}


def test_escape_sequences_of_a_model_or_a_file_do_nothing(start: Start, root: Path) -> None:
    (root / "evil").write_text("\x1b]0;stolen\x07\x1b[2J\x1b[31mred")
    script = in_order(call("bash", command="cat evil; false"), say("see \x1b[2J\x1b]52;c;eA==\x07 there"))
    terminal = ready(start(script, "--mode", "auto"))
    terminal.type("look", ENTER)
    terminal.see("there")
    terminal.type(CTRL_O)
    terminal.see("\\x1b]0;stolen", times=2)
    assert b"\x1b]0;stolen" not in terminal.raw
    assert b"\x1b]52" not in terminal.raw


def test_an_endpoint_that_is_away_is_said_and_the_conversation_stays(start: Start, root: Path, tmp_path: Path) -> None:
    options = ("--repo", root, "--model-url", "http://127.0.0.1:9/v1")
    with Terminal(*options, home=tmp_path / "home") as terminal:
        ready(terminal)
        terminal.type("hello", ENTER)
        terminal.see("127.0.0.1:9")
        terminal.type("/cost", ENTER)
        terminal.see("0 tokens read")
        terminal.type(CTRL_C, CTRL_C)
        assert terminal.ended() == 0


def test_instructions_of_a_folder_are_read_only_where_the_user_trusts_it(start: Start, root: Path) -> None:
    (root / "AGENTS.md").write_text("Always say {please}.")
    prompts: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        prompts.append(messages[0]["content"])
        return say("well")

    for answer in ("n", "y"):
        terminal = start(script)
        terminal.see("Do you trust this folder?")
        terminal.type(answer, ENTER)
        ready(terminal).type("hi", ENTER)
        terminal.see("well")
        (root.parent / "home" / "trusted.json").unlink()
    assert ["Always say {please}." in prompt for prompt in prompts] == [False, True]


def test_another_programs_tool_is_asked_for_even_in_auto_and_granted_by_its_name(start: Start, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    program = json.dumps([sys.executable, tool_server.__file__])
    (tmp_path / "home" / "config.toml").write_text(f"[mcp_servers.peer]\ncommand = {program}\n")
    repeat = call("mcp_call", server="peer", tool="repeat", arguments={"text": "tick"})
    script = in_order(call("mcp_list"), repeat, repeat, say("twice"))
    terminal = ready(start(script, "--mode", "auto"))
    terminal.type("/mcp", ENTER)
    terminal.see("not started")
    terminal.type("go", ENTER)
    terminal.see("(outside the sandbox)")
    terminal.see("yes, and always: peer repeat")
    terminal.type("2")
    terminal.see("twice")
    terminal.type("/mcp", ENTER)
    terminal.see("running, 4 tools")


def test_a_resource_is_read_once_it_is_allowed_and_then_without_a_question(start: Start, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    program = json.dumps([sys.executable, tool_server.__file__])
    (tmp_path / "home" / "config.toml").write_text(f"[mcp_servers.peer]\ncommand = {program}\n")
    read = call("mcp_read", server="peer", uri="notes://today")
    terminal = ready(start(in_order(read, read, say("I see")), "--mode", "auto"))
    terminal.type("what does @peer:notes://today say?", ENTER)
    terminal.see("read peer notes://today  (outside the sandbox)")
    terminal.see("yes, and always: peer mcp_read")
    terminal.type("2")
    terminal.see("✓ mcp_read peer", times=2)
    terminal.see("I see")


def test_what_another_program_has_to_read_is_completed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    program = json.dumps([sys.executable, tool_server.__file__])
    (tmp_path / "home" / "config.toml").write_text(f"[mcp_servers.peer]\ncommand = {program}\n")
    terminal = ready(start(in_order(say("I see"))))
    terminal.type("say what @pe")
    terminal.see("peer:")
    terminal.type(TAB)
    terminal.see("> say what @peer:")
    terminal.type("tod")
    terminal.see("notes://today")
    terminal.type(TAB)
    terminal.see("> say what @peer:notes://today")
    terminal.type(" says", ENTER)
    terminal.see("> say what @peer:notes://today says")
    terminal.see("I see")


def test_skills_commands_and_hooks_of_a_trusted_folder_are_used(start: Start, root: Path) -> None:
    (root / ".agents" / "skills" / "greet").mkdir(parents=True)
    (root / ".agents" / "skills" / "greet" / "SKILL.md").write_text(
        "---\nname: greet\ndescription: to greet\n---\nBow."
    )
    (root / ".mimo" / "commands").mkdir(parents=True)
    (root / ".mimo" / "commands" / "ship.md").write_text("Ship $ARGUMENTS now.")
    hook = 'on = "before_tool"\ntool = "bash"\ncommand = "echo not on Fridays; exit 1"\n'
    (root / ".mimo" / "config.toml").write_text(f"[[hooks]]\n{hook}")
    prompts: list[str] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        prompts.append(messages[0]["content"])
        return [call("skill", skill="greet"), call("bash", command="ls"), say("well then")][len(prompts) - 1]

    terminal = start(script, "--mode", "auto")
    terminal.see("Do you trust this folder?")
    terminal.type("y", ENTER)
    ready(terminal).type("/skills", ENTER)
    terminal.see("to greet")
    terminal.type("/ship it", ENTER)
    terminal.see("> Ship it now.")
    terminal.see("refused by a hook: not on Fridays")
    terminal.see("well then")
    assert "- greet: to greet" in prompts[0]
    assert "Bow." not in prompts[0]


def test_the_users_own_shell_runs_on_the_machine_itself(start: Start, root: Path) -> None:
    terminal = ready(start(in_order()))
    terminal.type("!cat secret; touch made", ENTER)
    terminal.see("1234")
    assert terminal.text.index("> !cat secret") < terminal.text.index("1234")
    terminal.see_either(
        "scripted"
    )  # The screen stands again: what is typed before that goes to whoever has the terminal.
    terminal.type("/exit", ENTER)
    terminal.ended()
    assert (root / "made").exists()


def test_without_a_terminal_it_says_what_to_use(root: Path) -> None:
    command = [sys.executable, "-m", "agent.cli.app", "--repo", str(root)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "mimo run" in ended.stderr
