"""Types of objects as kopium writes them in Rust from the definitions of a project, and what does not fit them."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PINS = Path(__file__).with_name("definitions") / "Cargo.toml"
_BLOCK = re.compile(r"^pub (struct|enum) (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ATTRIBUTE = re.compile(r"^    #\[serde\((.*)\)\]$")
_RENAMED = re.compile(r'\brename = "([^"]+)"')
_FIELD = re.compile(r"^    (?:pub )?(?:r#)?(\w+)(?:: (.+))?,$")
_WRAPPED = re.compile(r"(Option|Vec|BTreeMap)<(?:String, )?(.+)>")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "String": (str,),
    "bool": (bool,),
    "i32": (int,),
    "i64": (int,),
    "IntOrString": (int, str),
}


@dataclass(frozen=True, slots=True)
class Field:
    type: str
    """Empty: a word of an enumeration."""
    needed: bool


Types = Mapping[str, Mapping[str, Field]]
"""Name of a type -> its fields, or its words, as they are written in an object."""


class NotFetched(Exception):
    """Cargo cannot fetch a crate, for these reasons."""


def types(crate: str, module: str) -> Types:
    """Those of a crate that is pinned by its hash.

    Raises:
        NotFetched: it is not to be had, or this Cargo is too old for it.
    """
    asked = ["cargo", "metadata", "--locked", "--format-version=1", f"--manifest-path={_PINS}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotFetched(done.stderr.strip())
    known = json.loads(done.stdout)["packages"]
    [manifest] = [each["manifest_path"] for each in known if each["name"] == crate]
    text = Path(manifest).with_name("src").joinpath(f"{module}.rs").read_text()
    return {name: dict(_fields(body)) for _, name, body in _BLOCK.findall(text)}


def misfits(value: Any, kind: str, types: Types, place: str = "") -> Iterator[str]:
    """Where a value is not of a type: unknown fields, missing ones, other words, other kinds."""
    if wrapped := _WRAPPED.fullmatch(kind):
        inner = wrapped[2]
        match wrapped[1], value:
            case "Option", _:
                yield from misfits(value, inner, types, place) if value is not None else ()
            case "Vec", list():
                for number, each in enumerate(value):
                    yield from misfits(each, inner, types, f"{place}[{number}]")
            case "BTreeMap", dict():
                for name, each in value.items():
                    yield from misfits(each, inner, types, f"{place}.{name}")
            case _:
                yield f"{place}: {value!r} is no {kind}"
    elif kind not in types:
        if type(value) not in _KINDS[kind]:
            yield f"{place}: {value!r} is no {kind}"
    elif not isinstance(value, dict):
        if value not in types[kind] or types[kind][value].type:
            yield f"{place}: {value!r} is none of {sorted(types[kind])}"
    else:
        fields = types[kind]
        yield from (f"{place}.{name}: unknown" for name in value if name not in fields)
        yield from (f"{place}.{name}: missing" for name, field in fields.items() if field.needed and name not in value)
        for name, each in value.items():
            if name in fields:
                yield from misfits(each, fields[name].type, types, f"{place}.{name}")


def _fields(body: str) -> Iterator[tuple[str, Field]]:
    attribute = ""
    for line in body.splitlines():
        if found := _ATTRIBUTE.match(line):
            attribute = found[1]
        elif found := _FIELD.match(line):
            renamed = _RENAMED.search(attribute)
            kind = found[2] or ""
            yield renamed[1] if renamed else found[1], Field(kind, bool(kind) and not kind.startswith("Option<"))
            attribute = ""
