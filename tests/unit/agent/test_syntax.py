"""An edit that breaks a file's syntax is seen, whatever the language; what was broken before is not judged."""

import pytest

from agent.tools.syntax import breaks

WHOLE = {
    "a.go": "package a\n\nfunc add(a int, b int) int {\n\treturn a + b\n}\n",
    "A.java": "class A {\n  int add(int a, int b) {\n    return a + b;\n  }\n}\n",
    "a.js": "export function add(a, b) {\n  return a + b\n}\n",
    "a.jsx": "export const A = () => {\n  return <b>{1}</b>\n}\n",
    "a.rs": "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n",
    "a.sh": "add() {\n  echo $(($1 + $2))\n}\n",
    "a.ts": "export function add(a: number, b: number): number {\n  return a + b\n}\n",
    "a.tsx": "export const A = (n: number) => {\n  return <b>{n}</b>\n}\n",
    "a.py": "def add(a, b):\n    return {\n        a: b}\n",
    "a.json": '{\n  "a": {\n  }\n}\n',
    "a.toml": "a = [\n  { b = 1 }\n]\n",
}


@pytest.mark.parametrize("path", WHOLE)
def test_a_file_that_loses_a_bracket_is_broken_and_its_mending_is_not(path: str) -> None:
    whole = WHOLE[path]
    at = whole.rindex("}")
    broken = whole[:at] + whole[at + 1 :]
    said = breaks(path, whole, broken)
    assert said is not None
    assert "line" in said
    assert breaks(path, broken, whole) is None


@pytest.mark.parametrize("path", WHOLE)
def test_what_was_broken_before_may_be_edited(path: str) -> None:
    assert breaks(path, "}{", "}{ more }{") is None


@pytest.mark.parametrize("path", ["a.c", "a.yaml", "README", "a.txt"])
def test_a_file_of_another_kind_may_hold_anything(path: str) -> None:
    assert breaks(path, "{}", "}{") is None


def test_the_line_is_where_the_error_begins() -> None:
    before = "package a\n\nfunc f() {\n\tg()\n}\n"
    assert breaks("a.go", before, before.replace("g()", "g(")) == "the file would no longer be Go: line 4"
