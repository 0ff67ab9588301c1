"""How a question about a call is put to the user, and what each answer means."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from agent.cli.chat.lines import named, shown_edit
from agent.cli.terminal import one_line
from agent.permissions.kinds import Kind
from agent.permissions.policy import Asked, Part
from agent.types import ToolCall

_MOST_PARTS = 8


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

    detail: Sequence[str]
    """What it would do, a line each."""
    options: Sequence[tuple[Choice, str]]


def form(call: ToolCall, asked: Asked, width: int) -> Form:
    """
    Args:
        width: of the screen, in columns.
    """
    room = width - 4
    detail = [one_line(part.text, room - 18) + _meaning(part) for part in asked.parts[:_MOST_PARTS]]
    if asked.parts and asked.parts[0].command is None and call.name != "bash":
        detail = [named(call, room), *(str(line) for line in shown_edit(call, width))]
    options = [(Choice.YES, "yes")]
    if all(part.kind is Kind.EDIT for part in asked.parts):
        options.append((Choice.ALL_EDITS, one_line("yes, and accept all edits from now on", room)))
    elif grants := asked.grants:
        options.append((Choice.ALWAYS, one_line(f"yes, and always: {', '.join(map(str, grants))}", room)))
    return Form(detail, (*options, (Choice.NO, "no"), (Choice.NO_BECAUSE, "no, and tell it why")))


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
