"""A turn is the same message however its stream is cut, and nothing the model wrote is lost."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.chat.markers import CONTROL_MARKERS
from model_server.chat.stop_strings import StopStrings
from model_server.chat.template import Span
from model_server.chat.turn import AssistantTurn, CallDelta, ContentDelta, Flag, TurnParser, assemble, parse_turn

CALL = "\n<function=bash>\n<parameter=command>ls</parameter>\n</function>\n"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "bash", "parameters": {"properties": {"command": {"type": "string"}}}},
    }
]


def spans(text: str) -> list[Span]:
    """Split text at markers, as decoding does."""
    pieces, rest = [], text
    while rest:
        marker = next((marker for marker in CONTROL_MARKERS if rest.startswith(marker)), None)
        pieces.append(Span(marker or rest[0], marker is not None))
        rest = rest[len(marker or rest[0]) :]
    return pieces


def parsed(text: str, *, thinking: bool = True, parse_calls: bool = True) -> AssistantTurn:
    return parse_turn(spans(text), TOOLS, enable_thinking=thinking, parse_calls=parse_calls)


@pytest.mark.parametrize(
    ("text", "thinking", "reasoning"),
    [("hi", False, None), ("<think></think>hi", True, ""), ("hi", True, ""), ("<think>r</think>hi", True, "r")],
)
def test_reasoning_has_three_states(text: str, thinking: bool, reasoning: str | None) -> None:
    turn = parsed(text, thinking=thinking)
    assert (turn.reasoning, turn.content) == (reasoning, "hi")


def test_thinking_that_was_not_asked_for_is_reasoning_all_the_same() -> None:
    assert parsed("<think>r</think>hi", thinking=False).reasoning == "r"


def test_a_think_marker_after_the_start_is_text() -> None:
    turn = parsed("<think>a</think>b<think>c</think>d")
    assert (turn.reasoning, turn.content) == ("a", "b<think>c</think>d")


def test_unended_thinking_stays_reasoning() -> None:
    turn = parsed("<think>r")
    assert (turn.reasoning, turn.content) == ("r", "")


def test_a_complete_call_inside_thinking_ends_it() -> None:
    turn = parsed(f"<think>r<tool_call>{CALL}</tool_call>after")
    assert (turn.reasoning, turn.content, len(turn.calls)) == ("r", "after", 1)
    assert turn.flags == {Flag.CALL_IN_REASONING}


@pytest.mark.parametrize("inner", ["<tool_call>", "<tool_call>?", "<tool_call></tool_call>", f"<tool_call>{CALL[:-5]}"])
def test_a_mention_of_a_call_inside_thinking_stays_thinking(inner: str) -> None:
    turn = parsed(f"<think>a{inner}</think>b<tool_call>{CALL}</tool_call>")
    assert (turn.reasoning, turn.content, len(turn.calls)) == (f"a{inner}", "b", 1)
    assert turn.flags == {Flag.MALFORMED_CALL}


@pytest.mark.parametrize("end", range(1, len(CALL)))
def test_an_unfinished_call_comes_back_as_flagged_text(end: int) -> None:
    turn = parsed(f"<think>r</think>ok<tool_call>{CALL[:end]}")
    assert (turn.content, turn.calls) == (f"ok<tool_call>{CALL[:end]}", ())
    assert Flag.UNFINISHED_CALL in turn.flags


def test_a_block_that_is_no_call_comes_back_as_flagged_text_and_a_later_call_is_found() -> None:
    turn = parsed(f'<think></think><tool_call>{{"name": "bash"}}</tool_call><tool_call><tool_call>{CALL}</tool_call>')
    assert turn.content == '<tool_call>{"name": "bash"}</tool_call><tool_call>'
    assert (len(turn.calls), turn.flags) == (1, frozenset({Flag.MALFORMED_CALL}))


def test_without_tools_a_call_is_text() -> None:
    text = f"<tool_call>{CALL}</tool_call>"
    assert parsed(text, thinking=False, parse_calls=False).content == text


PIECES = st.sampled_from((*CONTROL_MARKERS, CALL, f"<tool_call>{CALL}</tool_call>", "\n", "<function=", "a", "é", "<"))


@given(st.lists(PIECES, max_size=12).map("".join), st.data())
def test_any_split_of_the_stream_gives_the_same_message(text: str, data: st.DataObject) -> None:
    whole: list[Span] = []
    for span in spans(text):
        if whole and not span.control and not whole[-1].control:
            whole[-1] = Span(whole[-1].text + span.text, False)
        else:
            whole.append(span)
    split = [piece for span in whole for piece in cut(span, data)]
    turns = []
    for stream in (whole, split, spans(text)):
        ids = count()
        parser = TurnParser(True, TOOLS, call_id=lambda ids=ids: f"call_{next(ids)}")  # type: ignore[misc]
        deltas = [delta for span in stream for delta in parser.push(span)]
        turns.append(assemble(deltas + parser.finish(), parser))
    assert turns[0] == turns[1] == turns[2]


@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_no_call_is_kept_in_order(text: str) -> None:
    parser = TurnParser(False, TOOLS)
    deltas = [delta for span in spans(text) for delta in parser.push(span)] + parser.finish()
    if not any(isinstance(delta, CallDelta) for delta in deltas) and not text.startswith("<think>"):
        assert "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta)) == text


@given(st.text("ab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_cut_at_the_first_one_however_the_text_is_split(
    text: str, strings: list[str], data: st.DataObject
) -> None:
    stop = StopStrings(strings)
    released = [kept.text for span in cut(Span(text, False), data) for kept in stop.push(span)]
    released += [span.text for span in stop.finish()]
    ends = [index for index in map(text.find, strings) if index >= 0]
    assert "".join(released) == text[: min(ends, default=len(text))]
    assert stop.stopped == bool(ends)


def test_a_marker_is_never_part_of_a_stop_string() -> None:
    stop = StopStrings(["ab"])
    assert stop.push(Span("a", False)) == []
    assert stop.push(Span("<think>", True)) == [Span("a", False), Span("<think>", True)]
    assert stop.push(Span("b", False)) == [Span("b", False)]


def cut(span: Span, data: st.DataObject) -> list[Span]:
    if span.control or len(span.text) < 2:
        return [span] if span.text else []
    at = data.draw(st.integers(0, len(span.text)))
    if at in (0, len(span.text)):
        return [span]
    return [Span(span.text[:at], False), *cut(Span(span.text[at:], False), data)]
