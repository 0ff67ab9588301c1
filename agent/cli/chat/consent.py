"""How a question about a call is put to the user, and what each answer means."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from rich.text import Text

from agent.cli.chat.lines import edited, named
from agent.cli.terminal import one_line
from agent.permissions.kinds import Kind
from agent.permissions.policy import Asked, Part
from agent.types import ToolCall

_MOST_LINES = 8
"""Of what a command would do; the question must stay on the screen."""


class Choice(Enum):
    YES = auto()
    ALWAYS = auto()
    """And what it asks for is granted from now on."""
    ALL_EDITS = auto()
    """And no edit is asked for from now on."""
    NO = auto()
    NO_BECAUSE = auto()


@dataclass(frozen=True, slots=True)
class Form:
    """The question about one call."""

    detail: Sequence[Text]
    """What it would do, a line each."""
    options: Sequence[tuple[Choice, str]]


def form(call: ToolCall, asked: Asked, width: int) -> Form:
    """
    Args:
        width: of the screen, in columns.
    """
    room = width - 6  # Beside the number of an option.
    if asked.parts and asked.parts[0].command is None and call.name != "bash":
        detail = [Text(named(call, room)), *edited(call, room, "Ctrl-O")]
    else:
        detail = list(map(Text, _commands(call, asked.parts, room)))
    options = [(Choice.YES, "yes")]
    if all(part.kind is Kind.EDIT for part in asked.parts):
        options.append((Choice.ALL_EDITS, one_line("yes, and accept all edits from now on", room)))
    elif grants := asked.grants:
        options.append((Choice.ALWAYS, one_line(f"yes, and always: {', '.join(map(str, grants))}", 3 * room)))
    return Form(detail, (*options, (Choice.NO, "no"), (Choice.NO_BECAUSE, "no, and tell it why")))


def _commands(call: ToolCall, parts: Sequence[Part], room: int) -> Iterator[str]:
    """The line that they are parts of, and each as long as its share of the lines allows; what is cut can be seen
    whole."""
    line = named(call, room)
    if call.name == "bash" and [f"$ {part.text}" for part in parts] != [line]:
        yield line
    shown = parts[:_MOST_LINES]
    share = room * (_MOST_LINES // max(len(shown), 1))
    lines = [one_line(part.text, share - len(_meaning(part))) for part in shown]
    yield from (line + _meaning(part) for line, part in zip(lines, shown, strict=True))
    if len(parts) > len(shown) or any(line.endswith("…") for line in (line, *lines)):
        yield "… Ctrl-O shows all of it"


_MEANINGS = {
    Kind.READ: "",
    Kind.EDIT: "  (edits)",
    Kind.OTHER: "",
    Kind.NETWORK: "  (network)",
    Kind.OUTSIDE: "  (outside the sandbox)",
    Kind.DESTRUCTIVE: "  (can lose work)",
}


def _meaning(part: Part) -> str:
    return _MEANINGS[part.kind] if part.command else "  (not understood)"
