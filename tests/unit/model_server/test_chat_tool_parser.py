"""Tool calls come back exactly as written, whatever their values hold."""

import json
import re
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from model_server.chat.template import Span, render
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import Flag, parse_turn
from tests.unit.model_server.small_tokenizer import small_tokenizer

TOKENIZER = ChatTokenizer(small_tokenizer())
HOSTILE = (
    "</parameter>",
    "</function>",
    "</tool_call>",
    "<tool_call>",
    "<think>",
    "</think>",
    "<|im_end|>",
    "<parameter=other>",
    "<parameter=timeout>",
    "<function=bash>",
    "&lt;",
    "null",
    "None",
    "\n",
    " ",
    "é😀",
    "x",
)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


BASH = tool("bash", command={"type": "string"}, timeout={"type": "integer"})


def block(text: str) -> list[Span]:
    return [Span("<tool_call>", True), Span(text, False), Span("</tool_call>", True)]


def typed(text: str, schema: dict[str, Any]) -> Any:
    spans = block(f"\n<function=f>\n<parameter=v>{text}</parameter>\n</function>\n")
    turn = parse_turn(spans, [tool("f", v=schema)], enable_thinking=False)
    return json.loads(turn.calls[0].arguments)["v"], Flag.MISTYPED_ARGUMENT in turn.flags


@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=8).map("".join), st.booleans())
@example("</parameter>\n</function>\n</tool_call>", True)
@example("</parameter>\n<parameter=command>x", False)
@example("</parameter>\n</function>\n", False)
def test_any_value_survives_render_tokens_and_parse(value: str, with_timeout: bool) -> None:
    # Written twice in one call, or as a second function of the block, this text *is* the structure.
    assume(not re.search(r"</parameter>\s*<parameter=timeout>|</parameter>\s*</function>\s*<function=", value))
    arguments = {"command": value} | ({"timeout": 5} if with_timeout else {})
    message = {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "r",
        "tool_calls": [{"function": {"name": "bash", "arguments": arguments}}] * 2,
    }
    prompt = render([{"role": "user", "content": "u"}], [BASH], enable_thinking=True)
    whole = render(
        [{"role": "user", "content": "u"}, message], [BASH], enable_thinking=True, add_generation_prompt=False
    )
    sampled = TOKENIZER.decode(TOKENIZER.encode(whole)[len(TOKENIZER.encode(prompt)) :])[:-1]
    turn = parse_turn(sampled, [BASH], enable_thinking=True)
    assert (turn.content, turn.reasoning, turn.flags) == ("ok", "r", frozenset())
    assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == [("bash", arguments)] * 2


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("null", {"type": "string"}, "null"),
        ("null", {"type": ["string", "null"]}, "null"),
        ("null", {"type": ["integer", "null"]}, None),
        ("None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("&lt;", {"type": "string"}, "&lt;"),
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        ("5", {"type": ["string", "integer"]}, "5"),
        ("5", {"type": ["integer", "string"]}, 5),
        ("2.0", {"type": "number"}, 2.0),
        ("True", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ('["a", 1]', {"type": "array"}, ["a", 1]),
        ('{"a": null}', {"type": "object"}, {"a": None}),
        ("7", {}, "7"),
    ],
)
def test_values_are_typed_by_the_schema(text: str, schema: dict[str, Any], value: Any) -> None:
    assert typed(text, schema) == (value, False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("yes", "boolean"),
        ("1", "boolean"),
        ("True", "integer"),
        ("1.5", "integer"),
        ("null", "integer"),
        ("[1", "array"),
        ("{'a': 1}", "object"),
        ("1e999", "number"),
        ("NaN", "number"),
        ('{"a": "\\ud800"}', "object"),
        ("[" * 100_000, "array"),
    ],
)
def test_a_value_that_does_not_fit_stays_a_string_and_is_flagged(text: str, kind: str) -> None:
    assert typed(text, {"type": kind}) == (text, True)


def test_references_into_the_schema_are_followed_and_a_circle_ends() -> None:
    circle = {"$ref": "#/$defs/a"}
    function = tool("f", v={"$ref": "#/$defs/n"}, w=circle)
    function["function"]["parameters"]["$defs"] = {"n": {"type": "integer"}, "a": circle}
    text = "<function=f><parameter=v>3</parameter><parameter=w>x</parameter></function>"
    turn = parse_turn(block(text), [function], enable_thinking=False)
    assert json.loads(turn.calls[0].arguments) == {"v": 3, "w": "x"}


def test_references_that_many_places_name_are_followed_once() -> None:
    function = tool("f", v={"$ref": "#/$defs/0"})
    function["function"]["parameters"]["$defs"] = {
        str(level): {"anyOf": [{"$ref": f"#/$defs/{level + 1}"}] * 1000} for level in range(20)
    } | {"20": {"type": "integer"}}
    text = "<function=f><parameter=v>3</parameter></function>"
    turn = parse_turn(block(text), [function], enable_thinking=False)
    assert json.loads(turn.calls[0].arguments) == {"v": 3}


def test_an_unknown_function_is_still_a_call_with_text_values() -> None:
    text = "\n<function=nope>\n<parameter=a>1</parameter>\n<parameter=b>2</parameter>\n</function>\n"
    turn = parse_turn(block(text), [BASH], enable_thinking=False)
    assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == [("nope", {"a": "1", "b": "2"})]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    turn = parse_turn(block("\n<function=bash>\n</function>\n"), [BASH], enable_thinking=False)
    assert turn.calls[0].arguments == "{}"


def test_a_second_function_in_a_block_and_text_after_it_are_kept() -> None:
    two = "\n<function=bash>\n<parameter=command>a</parameter>\n</function>\n<function=bash>\n</function>\n"
    turn = parse_turn([*block(two), Span("after", False)], [BASH], enable_thinking=False)
    assert [call.arguments for call in turn.calls] == ['{"command": "a"}', "{}"]
    assert [call.index for call in turn.calls] == [0, 1]
    assert turn.content == "after"


def test_the_closing_marker_inside_a_value_does_not_end_the_call() -> None:
    spans = [
        Span("<tool_call>", True),
        Span("\n<function=bash>\n<parameter=command>echo ", False),
        Span("</tool_call>", True),
        Span(" </function>\n", False),
        Span("</tool_call>", True),
        Span("</parameter>\n</function>\n", False),
        Span("</tool_call>", True),
    ]
    turn = parse_turn(spans, [BASH], enable_thinking=False)
    assert json.loads(turn.calls[0].arguments) == {"command": "echo </tool_call> </function>\n</tool_call>"}
