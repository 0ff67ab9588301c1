"""A shell line as the simple commands it is made of, wherever they stand in it.

Bash itself decides what runs, so its grammar is used and not a search for words: a pipe, a list, a substitution inside
quotes, a loop's body or a here-document each hold commands of their own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

_MAX_CHARS = 100_000
"""A longer line is not looked through, and so not understood."""

_MAX_DEPTH = 8
"""A shell called by a shell, so often."""


class Unparsable(Exception):
    """The line is no shell command that we understand; nobody knows what it would do."""


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """One program with its arguments."""

    text: str
    """As it is written."""
    words: tuple[str | None, ...]
    """Without quotes. None where the word is known only when it runs, such as ``$file``. Empty where the part is an
    assignment or a redirection, and no program."""
    assigns: bool = False
    """It sets variables, of itself or of what follows it."""
    writes_to: tuple[str | None, ...] = ()
    """Files that its output goes to; None as in ``words``."""


def simple_commands(line: str) -> tuple[SimpleCommand, ...]:
    """Every simple command of a line, in the order they are written.

    >>> [part.words for part in simple_commands("cd src && echo $(git log -1) | wc")]
    [('cd', 'src'), ('echo', None), ('git', 'log', '-1'), ('wc',)]

    Raises:
        Unparsable: the line is not understood as a whole.
    """
    return tuple(_commands(line, 0))


def _commands(line: str, depth: int) -> Iterator[SimpleCommand]:
    if len(line) > _MAX_CHARS or depth > _MAX_DEPTH or re.search("[\0\ud800-\udfff]", line):
        raise Unparsable("the command is too long or too deep")
    # The grammar's scanner crashes on some characters beyond ASCII. To bash they are letters like any other; with one
    # byte for each, what the tree calls bytes are characters of the line.
    source = "".join(character if character.isascii() else "_" for character in line)
    root = Parser(_bash()).parse(source.encode("ascii")).root_node
    if root.has_error:
        raise Unparsable("the command is not understood")
    for node in _walk(root):
        part = _part(node, line)
        if part is None:
            continue
        yield part
        if script := _script(part.words):
            yield from _commands(script, depth + 1)


def _walk(root: Node) -> Iterator[Node]:
    """All nodes in the order they are written; a loop, since hostile nesting is deeper than Python's stack."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.children))


def _part(node: Node, line: str) -> SimpleCommand | None:
    match node.type:
        case "command":
            words = tuple(_word(child, line) for child in node.named_children if child.type in _WORDS)
            assigns = any(child.type == "variable_assignment" for child in node.named_children)
            return SimpleCommand(_text(node, line), words, assigns=assigns)
        case "variable_assignment" if node.parent is not None and node.parent.type != "command":
            return SimpleCommand(_text(node, line), (), assigns=True)
        case "file_redirect":
            target = node.child_by_field_name("destination")
            operators = {child.type for child in node.children if not child.is_named}
            if not operators & _WRITING or target is None:
                return None
            return SimpleCommand(_text(node, line), (), writes_to=(_word(target, line),))
        case "unset_command":
            return SimpleCommand(_text(node, line), (), assigns=True)
        case _:
            return None


_WRITING = {">", ">>", ">|", "&>", "&>>", "<>", ">&"}

_WORDS = {
    *("command_name", "word", "raw_string", "string", "concatenation", "number", "simple_expansion", "expansion"),
    *("command_substitution", "process_substitution", "ansi_c_string", "translated_string", "arithmetic_expansion"),
    *("brace_expression", "regex", "special_variable_name"),
}


def _word(node: Node, line: str) -> str | None:
    """The word as the program receives it; None where only the shell knows."""
    match node.type:
        case "command_name":
            return _word(node.children[0], line) if len(node.children) == 1 else None
        case "word" | "number":
            return _plain(_text(node, line))
        case "raw_string":
            return _text(node, line)[1:-1]
        case "string":
            return _quoted(node, line)
        case "concatenation":
            parts = [_word(child, line) for child in node.children]
            return None if None in parts else "".join(part for part in parts if part is not None)
        case _:
            return None


def _plain(text: str) -> str | None:
    """A bare word; globs, braces and ``~`` are the shell's to fill in."""
    bare = re.sub(r"\\(.)", "", text, flags=re.DOTALL)
    if any(character in bare for character in "*?[{~$`"):
        return None
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _quoted(node: Node, line: str) -> str | None:
    if any(child.type not in ("string_content", '"') for child in node.children):
        return None
    return re.sub(r'\\([$`"\\])', r"\1", _text(node, line)[1:-1])


def _script(words: tuple[str | None, ...]) -> str | None:
    """What a shell is told to run by ``-c``, or ``eval`` by its arguments, where that is known."""
    if words[:1] == ("eval",):
        return None if None in words else " ".join(word for word in words[1:] if word is not None)
    shell = next((at for at, word in enumerate(words) if word and word.rsplit("/", 1)[-1] in SHELLS), None)
    if shell is None:
        return None
    pairs = pairwise(words[shell + 1 :])
    return next((script for option, script in pairs if option and re.fullmatch(r"-[a-z]*c", option)), None)


SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "busybox"})


def _text(node: Node, line: str) -> str:
    return line[node.start_byte : node.end_byte]


@cache
def _bash() -> Language:
    return Language(tree_sitter_bash.language())
