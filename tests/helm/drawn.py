"""Values of the chart by chance: fine ones, some of them changed to whatever the schema allows."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from deploy.chart.__main__ import CHART
from deploy.chart.values import Cidr
from tests.helm.rendered import SITE

Schema = Mapping[str, Any]
_NETWORK = TypeAdapter(Cidr).json_schema()["pattern"]
"""That of addresses says less than what an address is."""
SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
BASES: tuple[Mapping[str, Any], ...] = (
    {**SITE, "modelServer": {"engine": "embedded"}},
    {**SITE, "modelServer": {"weights": {"claim": "weights"}}},
    {
        **SITE,
        "modelServer": {"engine": "embedded", "replicas": 2},
        "router": {"enabled": True},
        "database": {"mode": "embedded"},
        "monitoring": {"serviceMonitors": True, "rules": True, "dashboards": True},
        "sandbox": {"prepull": {"enabled": True}},
    },
)
"""Values that are fine; what is drawn changes some of them."""


def leaves(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every value that has no others in it, with its schema."""
    schema = resolved(schema)
    if "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, schema


def resolved(schema: Schema) -> Schema:
    reference = schema.get("$ref")
    return SCHEMA["$defs"][reference.rpartition("/")[2]] if reference else schema


def drawn_of(schema: Schema) -> st.SearchStrategy[Any]:
    """What a schema allows, of the kinds that ours has."""
    schema = resolved(schema)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if "anyOf" in schema:
        return st.one_of([drawn_of(inner) for inner in schema["anyOf"]])
    match schema["type"]:
        case "string" if schema.get("pattern") == _NETWORK:
            return st.one_of(st.ip_addresses(v=4).map("{}/32".format), st.ip_addresses(v=6).map("{}/128".format))
        case "string" if "pattern" in schema:
            drawn = st.from_regex(schema["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii"))
            return drawn.filter(
                lambda text: schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text))
            )
        case "string":
            return st.text(
                st.characters(min_codepoint=32, max_codepoint=126), min_size=schema.get("minLength", 0), max_size=20
            )
        case "boolean":
            return st.booleans()
        case "integer":
            low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return st.integers(
                low, min(schema.get("maximum", schema.get("exclusiveMaximum", low + 3001) - 1), low + 3000)
            )
        case "number":
            low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
            high = schema.get("exclusiveMaximum", schema.get("maximum", 1000))
            above, below = "minimum" not in schema, "exclusiveMaximum" in schema
            return st.floats(low, high, exclude_min=above, exclude_max=below)
        case "array":
            items = resolved(schema.get("items", {"type": "object"}))
            has_form = items.get("type") != "object" or "properties" in items
            return st.lists(drawn_of(items), max_size=2) if has_form else st.just([])
        case "object" if "properties" in schema:
            parts = {name: drawn_of(inner) for name, inner in schema["properties"].items()}
            needed = {name: parts.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(needed, optional=parts)
        case "object" if "patternProperties" in schema:
            [(form, inner)] = schema["patternProperties"].items()
            names = drawn_of({"type": "string", "pattern": form, "maxLength": 20})
            return st.dictionaries(names, drawn_of(inner), max_size=2)
        case "object":
            inner = schema.get("additionalProperties")
            names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
            return st.dictionaries(names, drawn_of(inner), max_size=2) if isinstance(inner, dict) else st.just({})
    return st.none()


def changed(base: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = path
    return {**base, first: changed(base.get(first) or {}, tuple(rest), value) if rest else value}


@st.composite
def drawn_values(draw: st.DrawFn, *, without: Collection[str] = ()) -> dict[str, Any]:
    """One of the bases, with up to eight changes; none of values whose last names are in ``without``."""
    values = dict(draw(st.sampled_from(BASES)))
    drawn = [leaf for leaf in LEAVES if leaf[0][-1] not in without]
    for path, schema in draw(st.lists(st.sampled_from(drawn), max_size=8)):
        values = changed(values, path, draw(drawn_of(schema)))
    return values


LEAVES = list(leaves(SCHEMA))
