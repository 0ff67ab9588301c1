"""Writes the API's description to ``docs/openapi.json``, and names what a change of it would break.

python -m deploy.openapi
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.api.app import create_app
from agent.repository import check_repository
from agent.store.open import open_store

FILE = Path(__file__).parent.parent / "docs" / "openapi.json"

_Schema = dict[str, Any]


async def describe() -> _Schema:
    """What the API says of itself now."""
    async with open_store("sqlite://") as store:
        return create_app(store, check_repository).openapi()


def breaking(old: _Schema, new: _Schema) -> list[str]:
    """What a client of the old API would stumble over, one sentence each.

    Found are operations that are gone, parameters and members that became required or unknown, answers' members that
    are gone, and types and values that are not what they were. What a caller may now also send, or may now also get,
    breaks nothing: clients accept what they do not know.
    """
    found: list[str] = []
    for path, method, operation in _operations(old):
        name = f"{method.upper()} {path}"
        later = new["paths"].get(path, {}).get(method)
        if later is None:
            found.append(f"{name} is gone")
            continue
        found += _parameters(name, operation, later)
        found += _asked(f"{name}: body", _body(old, operation), _body(new, later), old, new, ())
        for status, answer in operation["responses"].items():
            if status not in later["responses"]:
                found.append(f"{name}: no answer {status} any more")
                continue
            where, then = f"{name}: answer {status}", later["responses"][status]
            found += _told(where, _content(answer), _content(then), old, new, ())
    return found


def _operations(description: _Schema) -> Iterator[tuple[str, str, _Schema]]:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _parameters(name: str, old: _Schema, new: _Schema) -> Iterator[str]:
    before = {(p["in"], p["name"]): p for p in old.get("parameters", ())}
    after = {(p["in"], p["name"]): p for p in new.get("parameters", ())}
    for key in before.keys() - after.keys():
        yield f"{name}: parameter {key[1]} is gone"
    for key, parameter in after.items():
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"{name}: parameter {key[1]} is required"


def _body(description: _Schema, operation: _Schema) -> _Schema:
    return _content(operation.get("requestBody", {}))


def _content(holder: _Schema) -> _Schema:
    schema: _Schema = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _asked(
    where: str, old: _Schema, new: _Schema, olds: _Schema, news: _Schema, seen: tuple[str, ...]
) -> Iterator[str]:
    """What is stricter in what callers send."""
    yield from _same_kind(where, old, new, olds, news)
    before, after = _resolved(old, olds), _resolved(new, news)
    for member in set(after.get("required", ())) - set(before.get("required", ())):
        yield f"{where}: {member} is required"
    values: list[Any] = before.get("enum", [])
    for value in values:
        if value not in after.get("enum", values):
            yield f"{where}: {value!r} is refused"
    yield from _members(where, old, before, after, olds, news, seen, _asked)


def _told(where: str, old: _Schema, new: _Schema, olds: _Schema, news: _Schema, seen: tuple[str, ...]) -> Iterator[str]:
    """What is missing in what callers get."""
    yield from _same_kind(where, old, new, olds, news)
    yield from _members(where, old, _resolved(old, olds), _resolved(new, news), olds, news, seen, _told)


def _members(
    where: str,
    old: _Schema,
    before: _Schema,
    after: _Schema,
    olds: _Schema,
    news: _Schema,
    seen: tuple[str, ...],
    walk: Any,
) -> Iterator[str]:
    reference = str(old.get("$ref", ""))
    if reference and reference in seen:
        return
    seen = (*seen, reference) if reference else seen
    for member, schema in before.get("properties", {}).items():
        if member not in after.get("properties", {}):
            yield f"{where}: {member} is gone"
        else:
            yield from walk(f"{where}.{member}", schema, after["properties"][member], olds, news, seen)
    if "items" in before and "items" in after:
        yield from walk(f"{where}[]", before["items"], after["items"], olds, news, seen)


def _same_kind(where: str, old: _Schema, new: _Schema, olds: _Schema, news: _Schema) -> Iterator[str]:
    before, after = _kinds(old, olds), _kinds(new, news)
    if before and after and not before <= after:
        yield f"{where}: {' or '.join(sorted(before))} became {' or '.join(sorted(after))}"


def _kinds(schema: _Schema, description: _Schema) -> set[str]:
    schema = _resolved(schema, description)
    choices = schema.get("anyOf") or schema.get("oneOf") or ()
    if choices:
        return set().union(*(_kinds(choice, description) for choice in choices))
    return {str(schema["type"])} if "type" in schema else set()


def _resolved(schema: _Schema, description: _Schema) -> _Schema:
    while "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def main() -> None:
    new = asyncio.run(describe())
    if FILE.exists():
        for sentence in breaking(json.loads(FILE.read_text("utf-8")), new):
            print(f"breaks clients: {sentence}")  # noqa: T201 - a command's answer
    FILE.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
