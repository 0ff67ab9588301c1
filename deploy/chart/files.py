"""The files of the chart that are written by programs, as texts."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deploy.chart.fences import fence_files
from deploy.chart.values import ChartValues, PodSecurityContext
from model_server.sglang.arguments import LaunchSettings

_WIDTH = 118
_HEAD = """\
# Values of the chart, with what they are where nobody says otherwise. Written by python -m deploy.chart from
# deploy/chart/values.py. What is said of a part that several have, such as an image, is said where it comes first.
"""


_MAPS = ("properties", "patternProperties", "$defs")
"""Whose keys are names of ours, and not words of the schema's language."""


def chart_files() -> dict[str, str]:
    """Path in the chart -> content."""
    return {
        "values.yaml": _HEAD + "".join(f"\n{line}" for line in _yaml(ChartValues(), set())) + "\n",
        "values.schema.json": json.dumps(_schema(), indent=1) + "\n",
        "files/needed.json": json.dumps(list(_needed(ChartValues())), indent=1) + "\n",
        "files/launch.json": json.dumps(_launch_defaults(), indent=1) + "\n",
        **{f"files/fences/{name}": text for name, text in fence_files().items()},
    }


def table() -> str:
    """The values as a table in Markdown."""
    rows = [f"| `{path}` | {default} | {_meaning(field)} |" for path, default, field in _rows(ChartValues(), set(), "")]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _schema() -> dict[str, Any]:
    """What several values have in common is said once: Helm reads, checks and compiles all of it at every call."""
    schema = _bare(ChartValues.model_json_schema())
    counts = Counter(json.dumps(form) for _, form in _properties(schema))
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}
    for name, form in _properties(schema):
        text = json.dumps(form)
        if counts[text] > 1 and "$ref" not in form and text not in names:
            names[text] = name if name not in schema["$defs"] | definitions else f"{name}{len(names)}"
            definitions[names[text]] = form
    shared = _shared(schema, names)
    shared["$defs"] |= {name: _shared(form, names) for name, form in definitions.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **shared}


def _bare(schema: Any) -> Any:
    """Without titles, which only say names again, and defaults, which are in the values."""
    match schema:
        case dict():
            return {
                name: {key: _bare(form) for key, form in inner.items()} if name in _MAPS else _bare(inner)
                for name, inner in schema.items()
                if name not in ("title", "default")
            }
        case list():
            return [_bare(inner) for inner in schema]
    return schema


def _properties(schema: Any) -> Iterator[tuple[str, Any]]:
    """All that are described anywhere in it."""
    match schema:
        case dict():
            yield from schema.get("properties", {}).items()
            for inner in schema.values():
                yield from _properties(inner)
        case list():
            for inner in schema:
                yield from _properties(inner)


def _shared(schema: Any, names: Mapping[str, str]) -> Any:
    """With references to those that have names."""
    match schema:
        case dict():
            whole = {name: _shared(inner, names) for name, inner in schema.items()}
            for name, form in schema.get("properties", {}).items():
                if named := names.get(json.dumps(form)):
                    whole["properties"][name] = {"$ref": f"#/$defs/{named}"}
            return whole
        case list():
            return [_shared(inner, names) for inner in schema]
    return schema


def _launch_defaults() -> dict[str, Any]:
    """What the settings of SGLang are by themselves, for the template that writes its command line."""
    defaults = LaunchSettings(model_path="/weights").model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in defaults.items() if name not in ("model_path", "version")}


def _needed(values: BaseModel, above: str = "") -> Iterator[str]:
    """Paths of what the templates take for granted: parts, and values that are something by themselves."""
    for name, field in type(values).model_fields.items():
        path, value = f"{above}{field.alias or name}", getattr(values, name)
        if isinstance(value, PodSecurityContext):
            yield path  # what is in it may be null
        elif isinstance(value, BaseModel):
            yield path
            yield from _needed(value, f"{path}.")
        elif isinstance(value, int | float) or (isinstance(value, str) and value):
            yield path


def _yaml(values: BaseModel, told: set[str]) -> Iterator[str]:
    for name, field in type(values).model_fields.items():
        key, value = field.alias or name, getattr(values, name)
        if field.description and _is_new(values, name, told):
            yield from textwrap.wrap(field.description, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        if isinstance(value, BaseModel):
            yield f"{key}:"
            yield from (f"  {line}" for line in _yaml(value, told))
        else:
            yield from yaml.safe_dump({key: value}, width=_WIDTH, sort_keys=False).splitlines()


def _rows(values: BaseModel, told: set[str], above: str) -> Iterator[tuple[str, str, FieldInfo]]:
    """What is described: path, default, description. What several parts have stands where it comes first."""
    for name, field in type(values).model_fields.items():
        path, value = f"{above}{field.alias or name}", getattr(values, name)
        is_new = _is_new(values, name, told)
        if isinstance(value, BaseModel):
            yield from _rows(value, told, f"{path}.")
        elif is_new:
            yield path, f"`{json.dumps(value)}`" if value not in ("", [], {}) else "", field


def _is_new(values: BaseModel, name: str, told: set[str]) -> bool:
    """Whether the class that has this field first says it for the first time."""
    owner = next(each for each in reversed(type(values).__mro__) if name in getattr(each, "__annotations__", {}))
    fact = f"{owner.__name__}.{name}: {type(values).model_fields[name].description}"
    is_new = fact not in told
    told.add(fact)
    return is_new


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")
