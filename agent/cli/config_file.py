"""The user's own ``config.toml``, changed a value at a time: comments and order stay as they are."""

import json
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError

from agent.cli.failure import ExitCode, Failure
from agent.cli.settings import Settings, check
from agent.integrations.mcp_server import McpServer
from agent.tools.hook import Hook

_ALLOWED = "mimo config show lists every setting with its value"


def value_of(settings: Settings, key: str) -> str:
    """What a setting is: text as it stands, all else as JSON; empty where it has no value.

    Args:
        key: its name; inside a table with dots, such as ``mcp_servers.db.url``.

    Raises:
        Failure: there is no such setting.
    """
    value: Any = settings.model_dump(mode="json")
    for at, part in enumerate(parts := key.split(".")):
        if not isinstance(value, dict) or part not in value:
            raise _unknown(key, value if at and isinstance(value, dict) else Settings.model_fields, parts[:at])
        value = value[part]
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def put(path: Path, key: str, text: str) -> None:
    """Write a value into the file, which is made where it is missing.

    Args:
        text: a value of TOML, such as ``true`` or ``["a", "b"]``; anything else is taken as a string.

    Raises:
        Failure: the file is broken, or may not hold this.
    """
    before = _text(path)
    failed: Failure | None = None
    for value in _readings(text):
        document = tomlkit.parse(before)
        *tables, name = key.split(".")
        place: Any = document
        for table in tables:
            place = place.setdefault(table, tomlkit.table(is_super_table=table is not tables[-1]))
            if not isinstance(place, dict):
                raise Failure(ExitCode.USAGE, f"{key}: {table} is no table", _ALLOWED)
        place[name] = value
        after = document.as_string()
        try:
            _valid(key, after)
        except Failure as failure:
            failed = failed or failure
        else:
            _write(path, after)
            return
    assert failed is not None, text
    raise failed


def remove(path: Path, key: str) -> bool:
    """Take a value out of the file; false where it is not in it.

    Raises:
        Failure: the file is broken, or cannot do without it.
    """
    document = tomlkit.parse(_text(path))
    *tables, name = key.split(".")
    place: Any = document
    for table in tables:
        place = place.get(table, {})
        if not isinstance(place, dict):
            return False
    if name not in place:
        return False
    del place[name]
    after = document.as_string()
    _valid(key, after)
    _write(path, after)
    return True


def _readings(text: str) -> list[Any]:
    """What the text may mean, the likeliest first."""
    try:
        return [tomllib.loads(f"value = {text}")["value"], text]
    except tomllib.TOMLDecodeError:
        return [text]


def _text(path: Path) -> str:
    """The file as it is; it has to be whole before it is changed."""
    text = path.read_text("utf-8") if path.exists() else ""
    check(path, text)
    return text


def _valid(key: str, text: str) -> None:
    try:
        Settings.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        found = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            raise _unknown(key, _RECORDS.get(found[0], Settings).model_fields, found[:-1]) from error
        raise Failure(ExitCode.USAGE, f"{'.'.join(found) or key}: {first['msg']}", _ALLOWED) from error


_RECORDS: Mapping[str, type[BaseModel]] = {"mcp_servers": McpServer, "hooks": Hook}
"""What the tables of a setting are."""


def _unknown(key: str, known: Iterable[str], inside: Sequence[str]) -> Failure:
    where = f"in {'.'.join(inside)} " if inside else ""
    return Failure(ExitCode.USAGE, f"there is no setting {key}", f"{where}use one of {', '.join(known)}")


def _write(path: Path, text: str) -> None:
    """All at once, and with the rights it had; where the name is a link, what that leads to."""
    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text, "utf-8")
    if path.exists():
        shutil.copymode(path, new)
    new.replace(path)
