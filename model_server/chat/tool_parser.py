"""Tool calls as the model writes them, back to names and typed arguments.

A block is recognised by the ids of its wrappers; inside it only structure counts, so that a value may hold any text::

    <tool_call>
    <function=NAME>
    <parameter=P>value, verbatim, may hold </parameter> and &lt;</parameter>
    </function>
    </tool_call>

A value ends at ``</parameter>`` only where the end of the function, or a parameter that its schema has and the call
has not given yet, follows. A block ends at the ``</tool_call>`` marker only after ``</function>``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_server.chat.markers import END_TOOL_CALL, TOOL_CALL
from model_server.chat.template import Span

JsonObject = Mapping[str, Any]

_HEADER = "<function="
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>")
_END_FUNCTION = re.compile(r"\s*</function>")
_END_VALUE = re.compile(r"</parameter>(?:\s*<parameter=([^>\n]+)>|\s*</function>\s*(?:\Z|<function=))")


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One call. ``arguments`` are in the order written."""

    name: str
    arguments: dict[str, Any]
    mistyped: tuple[str, ...] = ()
    """Arguments whose text does not fit their schema's type; they stay strings."""


class CallBlock:
    """What follows a ``<tool_call>`` marker, until it turns out to be calls, or not to be."""

    def __init__(self, tools: Sequence[JsonObject]) -> None:
        self._schemas = parameter_schemas(tools)
        self._pieces: list[str] = []
        self.opened = False
        """The block begins like a call; until then a marker cannot belong to it."""

    @property
    def text(self) -> str:
        """Everything the block holds, its opening marker included."""
        return TOOL_CALL + "".join(self._pieces)

    def push(self, span: Span) -> list[ParsedCall] | None:
        """Calls, if this span completes them; an empty list while the end is open; None if these are no calls."""
        if span.control and span.text == END_TOOL_CALL:
            calls = parse_block("".join(self._pieces), self._schemas)
            if calls:
                return calls
        self._pieces.append(span.text)
        if self.opened:
            return []
        opening = "".join(self._pieces).lstrip()
        self.opened = opening.startswith(_HEADER)
        return [] if self.opened or _HEADER.startswith(opening) else None


def parse_block(text: str, schemas: Mapping[str, JsonObject]) -> list[ParsedCall] | None:
    """The calls of a block's inner text, or None where the text is not whole."""
    if not text.rstrip().endswith("</function>"):
        return None
    calls: list[ParsedCall] = []
    position = 0
    while header := _FUNCTION.match(text, position):
        written = _written_arguments(text, header.end(), schemas.get(header[1]))
        if written is None:
            return None
        arguments, position = written
        calls.append(_typed_call(header[1], arguments, schemas.get(header[1])))
    return calls if calls and not text[position:].strip() else None


def parameter_schemas(tools: Sequence[JsonObject]) -> dict[str, JsonObject]:
    """JSON schema of the arguments, by function name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions}


def typed_value(text: str, schema: JsonObject, root: JsonObject) -> tuple[Any, bool]:
    """The value a text stands for under a schema, and whether it fits; what does not fit stays a string.

    Strings are taken as they are. ``null`` is null only where the schema allows null and no string.
    """
    kinds = list(allowed_kinds(schema, root))
    if not kinds:
        return text, True
    for kind in kinds:
        if kind == "string":
            return text, True
        if kind == "null" and "string" in kinds:
            continue
        fits, value = _read(text, kind)
        if fits:
            return value, True
    return text, False


def allowed_kinds(schema: object, root: JsonObject, followed: set[str] | None = None) -> Iterator[str]:
    """The types a schema allows, in its order; none where it does not say.

    A reference is followed once: ``followed`` holds those that were, and those that many places name, or that lead
    back to themselves, take no time.
    """
    followed = set() if followed is None else followed
    if not isinstance(schema, Mapping):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in followed:
        followed.add(reference)
        yield from allowed_kinds(_resolve(reference, root), root, followed)
    kind = schema.get("type")
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, list | tuple):
        yield from (name for name in kind if isinstance(name, str))
    for union in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(union)
        for choice in choices if isinstance(choices, list | tuple) else ():
            yield from allowed_kinds(choice, root, followed)


def _written_arguments(text: str, position: int, schema: JsonObject | None) -> tuple[dict[str, str], int] | None:
    """Arguments as text and the position after ``</function>``; None where a value or the function does not end."""
    arguments: dict[str, str] = {}
    while parameter := _PARAMETER.match(text, position):
        end = _value_end(text, parameter.end(), schema, {*arguments, parameter[1]})
        if end is None:
            return None
        arguments[parameter[1]] = text[parameter.end() : end]
        position = end + len("</parameter>")
    end_function = _END_FUNCTION.match(text, position)
    return (arguments, end_function.end()) if end_function else None


def _value_end(text: str, start: int, schema: JsonObject | None, given: set[str]) -> int | None:
    known = None if schema is None else schema.get("properties") or {}
    for end in re.finditer("</parameter>", text[start:]):
        following = _END_VALUE.match(text, start + end.start())
        if following is None:
            continue
        name = following[1]
        if name is None or (name not in given and (known is None or name in known)):
            return start + end.start()
    return None


def _typed_call(name: str, arguments: Mapping[str, str], schema: JsonObject | None) -> ParsedCall:
    properties = (schema or {}).get("properties") or {}
    typed = {key: typed_value(text, properties.get(key, {}), schema or {}) for key, text in arguments.items()}
    mistyped = tuple(key for key, (_, fits) in typed.items() if not fits)
    return ParsedCall(name, {key: value for key, (value, _) in typed.items()}, mistyped)


def _resolve(reference: str, root: JsonObject) -> object:
    found: object = root
    for key in reference.removeprefix("#/").split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _read(text: str, kind: str) -> tuple[bool, Any]:
    try:
        value = _json(text)
    except (ValueError, RecursionError):
        return False, None
    match kind:
        case "null":
            return value is None, value
        case "boolean":
            return isinstance(value, bool), value
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool), value
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool), value
        case "object":
            return isinstance(value, dict), value
        case "array":
            return isinstance(value, list), value
        case _:
            return False, None


def _json(text: str) -> Any:
    """JSON, and the Python spellings that the template writes into history.

    What JSON over UTF-8 cannot carry, infinity and half a surrogate pair, is refused.
    """
    python = {"True": True, "False": False, "None": None}
    if text.strip() in python:
        return python[text.strip()]
    value = json.loads(text)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return value
