"""However a turn is cut into tokens, its message and the events of its stream are the same.

Among the turns are those that the detector of SGLang 0.5.23 for this format loses, doubles or changes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import count, groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.chat.markers import CONTROL_MARKERS
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import AssistantTurn, CallDelta, Delta, TurnParser, assemble
from tests.unit.model_server.small_tokenizer import small_tokenizer

TOKENIZER = ChatTokenizer(small_tokenizer())
TOKENS = {
    TOKENIZER.token_bytes(token_id): token_id
    for token_id in range(TOKENIZER.vocab_size)
    if token_id not in TOKENIZER.special_ids
}
LONGEST = 6
"""Bytes of a token in these tests."""
TYPES: dict[str, Any] = {"text": "string", "count": "integer", "ratio": "number", "shape": "object"}
PROPERTIES = {name: {"type": kind} for name, kind in TYPES.items()} | {"maybe": {"type": ["integer", "null"]}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": PROPERTIES}}}


def function(**values: str) -> str:
    written = "".join(f"<parameter={name}>{text}</parameter>\n" for name, text in values.items())
    return f"\n<function=f>\n{written}</function>\n"


def call(**values: str) -> str:
    return f"<tool_call>{function(**values)}</tool_call>"


def pieces(text: str) -> list[bytes]:
    """Markers, and the text between them."""
    markers = "|".join(map(re.escape, CONTROL_MARKERS))
    return [piece.encode() for piece in re.split(f"({markers})", text) if piece]


def token_ids(text: str, data: st.DataObject | None = None) -> Iterator[int]:
    """Tokens as drawn, or one for every byte."""
    for piece in pieces(text):
        if piece.decode() in CONTROL_MARKERS:
            yield TOKENIZER.marker_id(piece.decode())
            continue
        while piece:
            fitting = [length for length in range(1, LONGEST + 1) if piece[:length] in TOKENS]
            length = data.draw(st.sampled_from(fitting)) if data is not None else 1
            yield TOKENS[piece[:length]]
            piece = piece[length:]


def streamed(ids: Sequence[int], parser: TurnParser) -> list[Delta]:
    decoder = TOKENIZER.stream()
    deltas = [delta for token_id in ids for span in decoder.push(token_id) for delta in parser.push(span)]
    return deltas + [delta for span in decoder.finish() for delta in parser.push(span)] + parser.finish()


def events(deltas: Sequence[Delta]) -> list[object]:
    """What a client is told, with pieces of the same text put together."""
    told: list[object] = []
    for kind, alike in groupby(deltas, type):
        group = list(alike)
        text = "".join(delta.text for delta in group if not isinstance(delta, CallDelta))
        told += group if kind is CallDelta else [(kind, text)]
    return told


def read(ids: Sequence[int]) -> tuple[AssistantTurn, list[object]]:
    names = (f"call_{number}" for number in count())
    parser = TurnParser(True, [TOOL], call_id=lambda: next(names))
    deltas = streamed(ids, parser)
    return assemble(deltas, parser), events(deltas)


TURNS: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
    "a call after text": ("ok " + call(text="ls"), "ok ", [{"text": "ls"}]),
    "two calls": (call(text="a") + call(text="b"), "", [{"text": "a"}, {"text": "b"}]),
    "two calls with a line between": (call(text="a") + "\n" + call(text="b"), "\n", [{"text": "a"}, {"text": "b"}]),
    "two functions in a block": (
        f"<tool_call>{function(text='a')}{function(count='2')}</tool_call>",
        "",
        [{"text": "a"}, {"count": 2}],
    ),
    "text after a call": (call(text="a") + "after", "after", [{"text": "a"}]),
    "the closing tag of a value within it": (
        call(text="echo '</parameter>' x"),
        "",
        [{"text": "echo '</parameter>' x"}],
    ),
    "the closing tag of a function within a value": (call(text="</function>x"), "", [{"text": "</function>x"}]),
    "the closing marker within a value": (
        call(text="a</tool_call>b</parameter>c"),
        "",
        [{"text": "a</tool_call>b</parameter>c"}],
    ),
    "the opening marker within a value": (
        call(text="<tool_call>\n<function=f>"),
        "",
        [{"text": "<tool_call>\n<function=f>"}],
    ),
    "null as text": (call(text="null", maybe="null"), "", [{"text": "null", "maybe": None}]),
    "entities": (call(text="&lt;a&gt; &amp;amp; &#39;"), "", [{"text": "&lt;a&gt; &amp;amp; &#39;"}]),
    "numbers": (call(ratio="2.0", count="-7", text="007"), "", [{"ratio": 2.0, "count": -7, "text": "007"}]),
    "nested JSON": (
        call(shape='{"a": [{"b": "</parameter>"}, null, "😀"]}', text='{"a": 1}'),
        "",
        [{"shape": {"a": [{"b": "</parameter>"}, None, "😀"]}, "text": '{"a": 1}'}],
    ),
    "code points of two, three and four bytes": ("é€😀" + call(text="é€😀\n👩‍💻"), "é€😀", [{"text": "é€😀\n👩‍💻"}]),
    "lines and blanks around a value": (call(text="\n  a\n\n"), "", [{"text": "\n  a\n\n"}]),
    "an unfinished call": (call(text="a")[:-20], call(text="a")[:-20], []),
}


@pytest.mark.parametrize(("text", "content", "arguments"), TURNS.values(), ids=TURNS)
def test_a_turn_cut_at_every_byte_loses_and_changes_nothing(
    text: str, content: str, arguments: list[dict[str, Any]]
) -> None:
    turn, told = read(list(token_ids(f"<think>thé</think>{text}")))
    assert (turn.reasoning, turn.content) == ("thé", content)
    assert [call.arguments for call in turn.calls] == [json.dumps(each, ensure_ascii=False) for each in arguments]
    assert [call.index for call in turn.calls] == list(range(len(arguments)))
    assert [event for event in told if isinstance(event, CallDelta)] == list(turn.calls)


SAID = st.sampled_from([text for text, _, _ in TURNS.values()]) | st.sampled_from(
    (*CONTROL_MARKERS, "\n", "<function=f>", "</parameter>", "é", "😀", "<tool_", "null")
)


@given(st.booleans(), st.lists(SAID, max_size=5).map("".join), st.data())
def test_any_tokens_of_the_same_turn_give_the_same_message_and_events(
    thinks: bool, text: str, data: st.DataObject
) -> None:
    turn = f"<think>a😀</think>{text}" if thinks else text
    assert read(list(token_ids(turn, data))) == read(list(token_ids(turn)))


@given(st.binary(max_size=12), st.integers(0, 12))
def test_bytes_that_are_no_text_never_reach_past_a_marker(data: bytes, at: int) -> None:
    ids = [TOKENS[bytes([byte])] for byte in data]
    marker = TOKENIZER.marker_id("</think>")
    turn, _ = read([TOKENIZER.marker_id("<think>"), *ids[:at], marker, *ids[at:]])
    assert turn.reasoning == data[:at].decode("utf-8", "replace")
    assert turn.content == data[at:].decode("utf-8", "replace")
