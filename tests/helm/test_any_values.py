"""Whatever the schema allows is rendered, or refused in words of ours; a chart that breaks does neither."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.chart.__main__ import CHART
from deploy.cluster import programs
from tests.helm.release import HelmError
from tests.helm.rendered import SITE, render

pytestmark = [
    pytest.mark.skipif(
        bool(programs.missing()) or not programs.are_built(),
        reason="Helm is not built: deploy/setup.sh --for-tests",
    ),
    pytest.mark.timeout(600),
]
Schema = Mapping[str, Any]
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
        case "string" if "pattern" in schema:
            drawn = st.from_regex(schema["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii"))
            return drawn.filter(lambda text: len(text) <= schema.get("maxLength", len(text)))
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


LEAVES = list(leaves(SCHEMA))
CHANGES = st.lists(
    st.sampled_from(LEAVES).flatmap(lambda leaf: st.tuples(st.just(leaf[0]), drawn_of(leaf[1]))), max_size=8
)


def changed(base: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = path
    return {**base, first: changed(base.get(first) or {}, tuple(rest), value) if rest else value}


@settings(max_examples=25)
@given(base=st.sampled_from(BASES), changes=CHANGES)
def test_whatever_the_schema_allows_is_rendered_or_refused_in_our_words(base: dict[str, Any], changes: Any) -> None:
    for path, value in changes:
        base = changed(base, path, value)
    try:
        made = render(base)
    except HelmError as error:
        if "execution error at" not in str(error):  # as Helm begins what a chart itself says
            raise
    else:
        names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in made.objects]
        assert len(names) == len(set(names))
        assert all(container["image"] for _, pod in made.pods() for container in pod["spec"]["containers"])
