"""Bugs: edits of one place in one line, found in the syntax tree and made in the text."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class BugKind(StrEnum):
    """What was broken."""

    COMPARISON = "comparison"
    OPERATOR = "operator"
    CONSTANT = "constant"
    VARIABLE = "variable"
    SWAP = "swap"
    BOOLEAN = "boolean"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace columns [start, end) of line ``line`` (from 0) by ``text``."""

    kind: BugKind
    line: int
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        lines = source.split("\n")
        old = lines[self.line]
        lines[self.line] = old[: self.start] + self.text + old[self.end :]
        return "\n".join(lines)


_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_OPERATORS: dict[type[ast.operator], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("+", "-")),
    ast.FloorDiv: ("//", ("%", "*")),
    ast.Mod: ("%", ("//",)),
}
_CALLS = {"min": "max", "max": "min", "len": "sum", "sum": "len", "abs": "int"}


def edits(source: str) -> list[Edit]:
    """Every single-place edit of a function's source that may be a bug, in order of appearance."""
    tree = ast.parse(source)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    lines = source.split("\n")
    local = _local_names(function)
    found: list[Edit] = []
    for statement in function.body[1:]:  # the docstring comes first
        for node in ast.walk(statement):
            found.extend(_edits_of(node, lines, local))
    return sorted(set(found), key=lambda edit: (edit.line, edit.start, edit.text))


def _edits_of(node: ast.AST, lines: list[str], local: list[str]) -> Iterator[Edit]:
    match node:
        case ast.Compare(ops=ops):
            operands = [node.left, *node.comparators]
            for left, operator, right in zip(operands, ops, operands[1:], strict=False):
                if type(operator) in _COMPARISONS:
                    old, options = _COMPARISONS[type(operator)]
                    yield from _between(BugKind.COMPARISON, lines, left, right, old, options)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            old, options = _OPERATORS[type(operator)]
            yield from _between(BugKind.OPERATOR, lines, left, right, old, options)
            if isinstance(operator, ast.Sub | ast.FloorDiv | ast.Mod) and isinstance(left, ast.Name | ast.Subscript):
                yield from _swapped(lines, left, right)
        case ast.AugAssign(target=target, op=operator, value=value) if type(operator) in _OPERATORS:
            old, options = _OPERATORS[type(operator)]
            yield from _between(BugKind.OPERATOR, lines, target, value, f"{old}=", tuple(f"{o}=" for o in options))
        case ast.Constant(value=bool()):
            yield _over(BugKind.BOOLEAN, node, str(not node.value))
        case ast.Constant(value=int(value)):
            for number in {value + 1, value - 1} if value else {1}:
                yield _over(BugKind.CONSTANT, node, str(number))
        case ast.Name(id=name, ctx=ast.Load()) if name in local:
            yield from (_over(BugKind.VARIABLE, node, other) for other in local if other != name)
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            yield _over(BugKind.CALL, node.func, _CALLS[name])
        case ast.Call(args=[first, second]):
            yield from _swapped(lines, first, second)
        case ast.BoolOp(op=operator, values=[first, second]):
            old, new = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
            yield from _between(BugKind.BOOLEAN, lines, first, second, old, (new,))


def _over(kind: BugKind, node: ast.expr, text: str) -> Edit:
    assert node.end_col_offset is not None
    return Edit(kind, node.lineno - 1, node.col_offset, node.end_col_offset, text)


def _between(
    kind: BugKind, lines: list[str], left: ast.expr, right: ast.expr, old: str, options: tuple[str, ...]
) -> Iterator[Edit]:
    """Replace the operator that stands between two operands."""
    assert left.end_col_offset is not None
    gap = lines[left.lineno - 1][left.end_col_offset : right.col_offset]
    if old in gap:
        start = left.end_col_offset + gap.index(old)
        for option in options:
            yield Edit(kind, left.lineno - 1, start, start + len(old), option)


def _swapped(lines: list[str], left: ast.expr, right: ast.expr) -> Iterator[Edit]:
    assert left.end_col_offset is not None
    assert right.end_col_offset is not None
    line = lines[left.lineno - 1]
    first, middle = line[left.col_offset : left.end_col_offset], line[left.end_col_offset : right.col_offset]
    second = line[right.col_offset : right.end_col_offset]
    if first != second:
        text = f"{second}{middle}{first}"
        yield Edit(BugKind.SWAP, left.lineno - 1, left.col_offset, right.end_col_offset, text)


def _local_names(function: ast.FunctionDef) -> list[str]:
    """Parameters and assigned names, in order of appearance."""
    names = [argument.arg for argument in function.args.args]
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in names:
            names.append(node.id)
    return names
