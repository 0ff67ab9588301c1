"""Messages to prompt text, byte for byte as the MiMo-V2 chat template writes them.

The result is a list of spans: markers the template itself writes are control, everything a caller supplies is text.
``ChatTokenizer`` encodes the two differently, so that a file that holds ``<|im_end|>`` cannot close the user's turn.

Messages and tools are OpenAI's JSON objects. Turns are joined with no newline after ``<|im_end|>``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from model_server.chat.markers import CONTROL_MARKERS, END_THINK, END_TOOL_CALL, IM_END, IM_START, THINK, TOOL_CALL

JsonObject = Mapping[str, Any]

DEFAULT_SYSTEM_PROMPT = "You are MiMo, a helpful AI assistant engineered by Xiaomi."
"""Used where the first message is not a system message."""

TOOLS_INTRODUCTION = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You have access to the following functions:\n\n<tools>"
)

TOOLS_INSTRUCTIONS = """

For each function call, output the function name and arguments in the following format:
<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>value_1</parameter>
<parameter=example_parameter_2>This is the value for the second parameter
that can span
multiple lines</parameter>
</function>
</tool_call>

<IMPORTANT>
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within \
<tool_call></tool_call> XML tags
- DO NOT use function calls inside <think></think> tags.
- The value enclosed between parameter tags is preserved exactly as-is, including newlines and spaces.
</IMPORTANT>"""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt: one control marker, or text in which markers mean nothing."""

    text: str
    control: bool


def text_spans(text: str) -> list[Span]:
    """None where there is no text."""
    return [Span(text, control=False)] if text else []


class ChatFormatError(ValueError):
    """A message or tool that the format cannot express; ``param`` is its path, such as ``messages[3].content``."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class UnsupportedContent(ChatFormatError):
    """Content that is not text."""


def render(
    messages: Sequence[JsonObject],
    tools: Sequence[JsonObject] = (),
    *,
    enable_thinking: bool,
    keep_all_reasoning: bool = True,
    add_generation_prompt: bool = True,
) -> list[Span]:
    """The prompt of a conversation; neighbouring spans are never both text.

    Args:
        enable_thinking: False ends the generation prompt with an empty think pair; with True the model opens its own.
        keep_all_reasoning: False drops the reasoning of assistant messages before the last user message.

    Raises:
        ChatFormatError: content that is not text, or call arguments that are not a JSON object.
    """
    pieces = _conversation(messages, tools, keep_all_reasoning)
    prompt = _generation_prompt(enable_thinking) if add_generation_prompt else ()
    return _merged([*pieces, *prompt])


def render_text(
    messages: Sequence[JsonObject],
    tools: Sequence[JsonObject] = (),
    *,
    enable_thinking: bool,
    keep_all_reasoning: bool = True,
    add_generation_prompt: bool = True,
) -> str:
    """:func:`render` as one string, for people; it does not tell a marker from a file that holds one."""
    spans = render(
        messages,
        tools,
        enable_thinking=enable_thinking,
        keep_all_reasoning=keep_all_reasoning,
        add_generation_prompt=add_generation_prompt,
    )
    return "".join(span.text for span in spans)


def content_text(content: object, param: str) -> str:
    """Message content as text: a string, nothing, or a list of text parts joined without separator."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ChatFormatError("content must be a string or a list of text parts", param)
    return "".join(_part_text(part, f"{param}[{index}]") for index, part in enumerate(content))


def call_arguments(arguments: object, param: str) -> JsonObject:
    """Arguments of a past call as an object; the protocol sends them as JSON text."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ChatFormatError(f"arguments are not valid JSON ({error}); send a JSON object", param) from error
    if not isinstance(arguments, Mapping):
        raise ChatFormatError("arguments must be a JSON object", param)
    return arguments


def _conversation(
    messages: Sequence[JsonObject], tools: Sequence[JsonObject], keep_all_reasoning: bool
) -> Iterator[Span]:
    first = 1 if messages and messages[0].get("role") == "system" else 0
    system = content_text(messages[0].get("content"), "messages[0].content") if first else DEFAULT_SYSTEM_PROMPT
    yield from _turn("system", [_text(system), *_tools(tools)])
    kept_from = 0 if keep_all_reasoning else _last_user(messages) + 1
    indexed = list(enumerate(messages))[first:]
    for is_tool, group in groupby(indexed, key=lambda item: item[1].get("role") == "tool"):
        if is_tool:
            yield from _tool_results(list(group), first)
            continue
        for index, message in group:
            yield from _message(message, index, keep_reasoning=index >= kept_from)


def _message(message: JsonObject, index: int, *, keep_reasoning: bool) -> Iterator[Span]:
    role, path = message.get("role"), f"messages[{index}]"
    if not isinstance(role, str):
        raise ChatFormatError("every message needs a role", f"{path}.role")
    content = content_text(message.get("content"), f"{path}.content")
    if role != "assistant":
        yield from _turn(role, [_text(content)])
        return
    reasoning, content = _split_reasoning(message.get("reasoning_content"), content)
    body = [_control(THINK), _text(reasoning if keep_reasoning else ""), _control(END_THINK), _text(content)]
    for position, call in enumerate(message.get("tool_calls") or ()):
        body += _call(call, f"{path}.tool_calls[{position}].function")
    yield from _turn(role, body)


def _split_reasoning(reasoning: object, content: str) -> tuple[str, str]:
    """Reasoning and content; a message without the field may carry its thinking inside the content."""
    if isinstance(reasoning, str):
        return reasoning, content
    if END_THINK not in content:
        return "", content
    return content.split(END_THINK)[0].split(THINK)[-1], content.split(END_THINK)[-1]


def _call(call: JsonObject, path: str) -> list[Span]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ChatFormatError("a tool call needs a function with a name", path)
    arguments = call_arguments(function.get("arguments", {}), f"{path}.arguments")
    values = "".join(f"<parameter={name}>{_value(value)}</parameter>\n" for name, value in arguments.items())
    return [
        _control(TOOL_CALL),
        _text(f"\n<function={function['name']}>\n{values}</function>\n"),
        _control(END_TOOL_CALL),
    ]


def _tool_results(messages: Sequence[tuple[int, JsonObject]], first: int) -> Iterator[Span]:
    """One turn for a run of results; order alone links them to calls."""
    results = "".join(
        f"<tool_response>\n{content_text(message.get('content'), f'messages[{index}].content')}\n</tool_response>\n"
        for index, message in messages
    )
    # The template looks at the previous message before it opens the turn, so a conversation that begins with a
    # result has no header. Kept, since the trained model has only ever seen it so.
    if messages[0][0] == first:
        yield _text(results)
        yield _control(IM_END)
    else:
        yield from _turn("tool", [_text(results)])


def _tools(tools: Sequence[JsonObject]) -> Iterator[Span]:
    if not tools:
        return
    yield _text(TOOLS_INTRODUCTION)
    for index, tool in enumerate(tools):
        yield _text(_tool(tool, f"tools[{index}]"))
    yield _text("\n</tools>")
    yield from _own_markup(TOOLS_INSTRUCTIONS)


def _tool(tool: JsonObject, path: str) -> str:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ChatFormatError("a tool needs a function with a name", path)
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    return "".join(
        (
            f"\n<function>\n<name>{function['name']}</name>",
            _described(function),
            "\n<parameters>",
            *(_property(name, schema) for name, schema in properties.items()),
            _extra_keys(parameters, ("type", "properties")),
            "\n</parameters>",
            _extra_keys(function, ("type", "name", "description", "parameters")),
            "\n</function>",
        )
    )


def _property(name: str, schema: object) -> str:
    if not isinstance(schema, Mapping):
        return f"\n<parameter>\n<name>{name}</name>\n</parameter>"
    kind = f"\n<type>{schema['type']}</type>" if "type" in schema else ""
    extra = _extra_keys(schema, ("name", "type", "description"))
    return f"\n<parameter>\n<name>{name}</name>{kind}{_described(schema)}{extra}\n</parameter>"


def _described(schema: JsonObject) -> str:
    description = schema.get("description")
    return "" if description is None else f"\n<description>{str(description).strip()}</description>"


def _extra_keys(schema: JsonObject, handled: Sequence[str]) -> str:
    return "".join(f"\n<{key}>{_value(value)}</{key}>" for key, value in schema.items() if key not in handled)


def _value(value: object) -> str:
    """JSON for objects and arrays, else the Python string form: true is ``True``, null is ``None``."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _generation_prompt(enable_thinking: bool) -> Iterator[Span]:
    yield _control(IM_START)
    yield _text("assistant\n")
    if not enable_thinking:
        yield _control(THINK)
        yield _control(END_THINK)


def _turn(role: str, body: Sequence[Span]) -> Iterator[Span]:
    yield _control(IM_START)
    yield _text(f"{role}\n")
    yield from body
    yield _control(IM_END)


def _own_markup(text: str) -> Iterator[Span]:
    """The template's own text, whose markers are control tokens as the published tokenizer reads them."""
    for piece in re.split(f"({'|'.join(map(re.escape, CONTROL_MARKERS))})", text):
        yield Span(piece, piece in CONTROL_MARKERS)


def _last_user(messages: Sequence[JsonObject]) -> int:
    return max((index for index, message in enumerate(messages) if message.get("role") == "user"), default=-1)


def _part_text(part: object, param: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise UnsupportedContent("only text parts are supported; remove images, audio and files", param)


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Join neighbouring text: a tokenizer must see "user", a newline and the message together."""
    merged: list[Span] = []
    for span in spans:
        if span.control or not merged or merged[-1].control:
            merged.append(span)
        else:
            merged[-1] = Span(merged[-1].text + span.text, control=False)
    return [span for span in merged if span.text]


def _text(text: str) -> Span:
    return Span(text, control=False)


def _control(text: str) -> Span:
    return Span(text, control=True)
