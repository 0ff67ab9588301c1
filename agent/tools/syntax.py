"""Whether an edit leaves a file that its language can no longer read."""

import ast
import json
import tomllib
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath

from tree_sitter import Language, Node, Parser

_GRAMMARS = {
    ".cjs": ("JavaScript", "tree_sitter_javascript", "language"),
    ".go": ("Go", "tree_sitter_go", "language"),
    ".java": ("Java", "tree_sitter_java", "language"),
    ".js": ("JavaScript", "tree_sitter_javascript", "language"),
    ".jsx": ("JavaScript", "tree_sitter_javascript", "language"),
    ".mjs": ("JavaScript", "tree_sitter_javascript", "language"),
    ".rs": ("Rust", "tree_sitter_rust", "language"),
    ".sh": ("shell", "tree_sitter_bash", "language"),
    ".ts": ("TypeScript", "tree_sitter_typescript", "language_typescript"),
    ".tsx": ("TypeScript", "tree_sitter_typescript", "language_tsx"),
}
"""Name, module and function of a language. Those with a preprocessor are left out: no grammar sees what it makes."""


def breaks(path: str, before: str, after: str) -> str | None:
    """Why a file is nothing its language can read although it was before; None where it is, or neither is.

    >>> breaks("a.go", "package a", "package")
    'the file would no longer be Go: line 1'
    """
    kind = PurePosixPath(path).suffix
    problem = _problem(kind, after)
    return problem if problem and _problem(kind, before) is None else None


def _problem(kind: str, text: str) -> str | None:
    match kind:
        case ".py":
            language, error = "Python", _python(text)
        case ".json":
            language, error = "JSON", _read(json.loads, text)
        case ".toml":
            language, error = "TOML", _read(tomllib.loads, text)
        case _ if kind in _GRAMMARS:
            language, error = _GRAMMARS[kind][0], _parsed(kind, text)
        case _:
            return None
    return error and f"the file would no longer be {language}: {error}"


def _python(text: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return None


def _read(read: Callable[[str], object], text: str) -> str | None:
    try:
        read(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _parsed(kind: str, text: str) -> str | None:
    root = Parser(_language(kind)).parse(text.encode()).root_node
    return f"line {_first_error(root).start_point.row + 1}" if root.has_error else None


def _first_error(node: Node) -> Node:
    """The innermost node that was not understood, or that is missing."""
    inner = next((child for child in node.children if child.has_error or child.is_missing), None)
    return node if inner is None else _first_error(inner)


@cache
def _language(kind: str) -> Language:
    _, module, function = _GRAMMARS[kind]
    return Language(getattr(import_module(module), function)())
