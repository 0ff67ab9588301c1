"""Messages render to the published chat format, byte for byte."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model_server.chat.markers import IM_END, IM_START
from model_server.chat.template import ChatFormatError, Span, render, render_text

FIXTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "chat_format_fixtures.json").read_text("utf-8")
)
USER = {"role": "user", "content": "u"}


def call(arguments: object) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize("name", FIXTURES)
def test_every_fixture_renders_byte_equal(name: str) -> None:
    arguments = dict(FIXTURES[name]["input"])
    text = render_text(arguments.pop("messages"), arguments.pop("tools", ()), **arguments)
    assert text == FIXTURES[name]["rendered"]


def test_text_spans_are_joined_and_never_empty() -> None:
    spans = render([USER, call("{}"), {"role": "tool", "content": "x"}], enable_thinking=False)
    assert all(span.text for span in spans)
    assert all(left.control or right.control for left, right in pairwise(spans))


def test_a_marker_in_a_message_is_text_and_the_templates_own_is_control() -> None:
    spans = render([{"role": "user", "content": f"a{IM_END}b"}], enable_thinking=True, add_generation_prompt=False)
    assert spans[-3:] == [Span(IM_START, True), Span(f"user\na{IM_END}b", False), Span(IM_END, True)]


def test_the_instructions_own_markers_are_control() -> None:
    tool = {"type": "function", "function": {"name": "f<tool_call>"}}
    spans = render([USER], [tool], enable_thinking=True)
    assert sum(span.control and span.text == "<tool_call>" for span in spans) == 2


def test_the_prompt_of_a_step_is_a_prefix_of_the_conversation_that_continues_it() -> None:
    messages = [USER, call('{"a": 1}') | {"reasoning_content": "r"}, {"role": "tool", "content": "x"}, USER]
    for thinking in (True, False):
        messages[1] = messages[1] | {"reasoning_content": "r" if thinking else ""}
        prompt = render(messages[:1], enable_thinking=thinking)
        whole = render(messages, enable_thinking=thinking, add_generation_prompt=False)
        assert whole[: len(prompt)] == prompt


def test_arguments_as_json_text_render_like_an_object() -> None:
    as_text = render([USER, call('{"a": "x\\ny", "b": 2.0}')], enable_thinking=True)
    assert as_text == render([USER, call({"a": "x\ny", "b": 2.0})], enable_thinking=True)


@pytest.mark.parametrize("arguments", ["[1]", "{", 3, None])
def test_arguments_that_are_no_object_are_refused_with_their_path(arguments: object) -> None:
    with pytest.raises(ChatFormatError) as caught:
        render([USER, call(arguments)], enable_thinking=True)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_parts_are_joined_and_an_image_is_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<" in render_text([{"role": "user", "content": parts}], enable_thinking=True)
    with pytest.raises(ChatFormatError) as caught:
        render([{"role": "user", "content": [{"type": "image_url"}]}], enable_thinking=True)
    assert caught.value.param == "messages[0].content[0]"


def test_a_conversation_that_begins_with_a_result_has_no_tool_header() -> None:
    text = render_text([{"role": "tool", "content": "x"}], enable_thinking=True, add_generation_prompt=False)
    assert text.endswith("<|im_end|><tool_response>\nx\n</tool_response>\n<|im_end|>")
