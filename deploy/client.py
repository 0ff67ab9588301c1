"""Writes a client of the API, from its description, to ``agent/client/operations.py``.

python -m deploy.client

One method for each operation, one typed dictionary for each shape: what comes is not checked again, so members that a
later service adds are no error, and importing it costs next to nothing.
"""

import builtins
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.openapi import FILE as DESCRIPTION

FILE = Path(__file__).parent.parent / "agent" / "client" / "operations.py"

_Schema = dict[str, Any]
_HEAD = '''\
"""Every operation of the REST API. Written by ``python -m deploy.client``; what is changed here is lost."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NotRequired, TypedDict
from urllib.parse import quote

Send = Callable[[str, str, dict[str, Any], dict[str, str], Any], Awaitable[bytes]]
"""Sends a request, and returns the body of an answer that is none of an error: method, path, parameters of the query,
headers, and what is sent as JSON, None for nothing."""
'''
_CLASS = '''\
class Operations:
    """The API of one service."""

    def __init__(self, send: Send) -> None:
        self._send = send
'''
_TAIL = '''\
def _in(value: object) -> str:
    """As it stands in a path."""
    return quote(str(value), safe="")


def _given(**values: object) -> dict[str, Any]:
    return {name.removesuffix("_"): value for name, value in values.items() if value is not None}


def _headers(**values: object) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in _given(**values).items()}
'''


def write(description: _Schema) -> str:
    """The module, as it is formatted here."""
    shapes = [_shape(name, schema) for name, schema in sorted(description["components"]["schemas"].items())]
    operations = [
        _operation(path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    text = "\n\n".join([_HEAD, *shapes, _CLASS + "\n" + "\n".join(operations), _TAIL])
    formatter = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FILE), "-"]
    return subprocess.run(formatter, input=text, capture_output=True, text=True, check=True).stdout


def _shape(name: str, schema: _Schema) -> str:
    if "properties" not in schema:
        return f"{name} = {_type(schema)}"
    required = schema.get("required", ())
    members = [
        f"    {member}: {_type(kind) if member in required else f'NotRequired[{_type(kind)}]'}"
        for member, kind in schema["properties"].items()
    ]
    return "\n".join([f"class {name}(TypedDict):", *_docstring(schema.get("description", "")), "", *members])


def _operation(path: str, method: str, operation: _Schema) -> str:
    parameters = operation.get("parameters", [])
    inside, query, headers = (
        [each for each in parameters if each["in"] == place] for place in ("path", "query", "header")
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    positional = ["self", *(f"{each['name']}: {_type(each['schema'])}" for each in inside)]
    positional += [f"body: {_type(body)}"] if body else []
    named = [f"{_name(each)}: {_optional(each)} = None" for each in (*query, *headers)]
    arguments = ", ".join([*positional, *(["*", *named] if named else [])])
    address = re.sub(r"\{(\w+)\}", r"{_in(\1)}", path)
    sent = [
        f'"{method.upper()}"',
        f'f"{address}"' if inside else f'"{path}"',
        _dictionary("_given", query),
        _dictionary("_headers", headers),
        "body" if body else "None",
    ]
    kind = _answer(operation)
    lines = [f"    async def {operation['operationId']}({arguments}) -> {kind}:"]
    lines += _docstring(operation.get("description", ""), "        ")
    call = f"await self._send({', '.join(sent)})"
    match kind:
        case "None":
            lines.append(f"        {call}")
        case "bytes":
            lines.append(f"        return {call}")
        case _:
            lines += [f"        answer: {kind} = json.loads({call})", "        return answer"]
    return "\n".join([*lines, ""])


def _answer(operation: _Schema) -> str:
    """What a call returns: of the good answers the first."""
    content = next(answer.get("content", {}) for status, answer in operation["responses"].items() if status < "3")
    if "application/json" in content:
        return _type(content["application/json"]["schema"])
    return "bytes" if content else "None"


def _type(schema: _Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema or "const" in schema:
        return f"Literal[{', '.join(map(json.dumps, schema.get('enum') or [schema['const']]))}]"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _union(choices)
    match schema.get("type"):
        case "array":
            return f"list[{_type(schema['items'])}]" if "items" in schema else "list[Any]"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"dict[str, {_type(schema['additionalProperties'])}]"
        case "object":
            return "dict[str, Any]"
        case kind:
            return _PLAIN.get(str(kind), "Any")


_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def _union(choices: list[_Schema]) -> str:
    return " | ".join(dict.fromkeys(map(_type, choices)))


def _optional(parameter: _Schema) -> str:
    kind = _type(parameter["schema"])
    return kind if kind.endswith("None") else f"{kind} | None"


def _dictionary(function: str, parameters: list[_Schema]) -> str:
    return f"{function}({', '.join(f'{_name(each)}={_name(each)}' for each in parameters)})" if parameters else "{}"


def _name(parameter: _Schema) -> str:
    """As Python may call it: ``range_`` for ``range``."""
    name = str(parameter["name"]).lower().replace("-", "_")
    return f"{name}_" if hasattr(builtins, name) else name


def _docstring(text: str, indent: str = "    ") -> Iterator[str]:
    """The first paragraph."""
    if text:
        paragraph = f'"""{" ".join(text.partition(chr(10) * 2)[0].split())}"""'
        yield from textwrap.wrap(paragraph, 119, initial_indent=indent, subsequent_indent=indent)


def main() -> None:
    FILE.write_text(write(json.loads(DESCRIPTION.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
