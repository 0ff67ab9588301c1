"""Decides on a tool call: by the mode, by what each part of it can do, and by what the user granted before."""

import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from agent.permissions.command import SHELLS, SimpleCommand, Unparsable, simple_commands
from agent.permissions.kinds import Kind, kind_of
from agent.types import ToolCall


class Mode(StrEnum):
    """How far the agent may go without asking."""

    PLAN = "plan"
    """It only reads; everything else is refused."""
    ASK = "ask"
    """It asks before anything that is not reading."""
    ACCEPT_EDITS = "accept edits"
    """It edits files of the folder, and asks before the rest."""
    AUTO = "auto"
    """It asks only before what can lose work or happens outside the sandbox, and, where there is none, before it
    reaches the network."""


class Grant(BaseModel):
    """What the user allowed for good. It holds for one simple command at a time, never for a line as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...]
    exact: bool
    """Only these words; else any command that begins with them, such as every ``git commit``."""
    tool: str = "bash"
    """The tool whose calls are meant; the words of ``mcp_call`` are a server and one of its tools."""

    def __str__(self) -> str:
        return shlex.join(self.words) + ("" if self.exact else " …")

    def covers(self, part: "Part") -> bool:
        command = part.command
        if command is None or command.assigns or not command.words or part.tool != self.tool:
            return False
        given = command.words if self.exact else command.words[: len(self.words)]
        return given == self.words


@dataclass(frozen=True, slots=True)
class Part:
    """One thing a call does."""

    text: str
    kind: Kind
    command: SimpleCommand | None = None
    """None where it is no shell command, nor a call of another program's tool."""
    tool: str = "bash"

    @property
    def grant(self) -> Grant | None:
        """What "always" would allow; None where that cannot be said in words."""
        if self.command is None:
            return None
        return _grant(self.command, self.kind) if self.tool == "bash" else other_tool(*map(str, self.command.words))


def other_tool(server: str, tool: str) -> Grant:
    """Calls of one tool of another program, whatever their arguments."""
    return Grant(words=(server, tool), exact=True, tool=_OTHER_TOOL)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The call may be made."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The call must not be made; the model reads why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The user decides, on ``parts``: those that nothing else allows."""

    parts: tuple[Part, ...]

    @property
    def grants(self) -> tuple[Grant, ...] | None:
        """One for each part; None where "always" cannot be offered."""
        found = [part.grant for part in self.parts]
        return None if None in found else tuple(dict.fromkeys(grant for grant in found if grant is not None))


Decision = Allowed | Denied | Asked

_PLAN = "the user is planning: only reading is allowed now. Say what you would change, and end your answer"

_FREE: dict[Mode, frozenset[Kind]] = {
    Mode.PLAN: frozenset({Kind.READ}),
    Mode.ASK: frozenset({Kind.READ}),
    Mode.ACCEPT_EDITS: frozenset({Kind.READ, Kind.EDIT}),
    Mode.AUTO: frozenset({Kind.READ, Kind.EDIT, Kind.OTHER}),
}


def decide(call: ToolCall, mode: Mode, grants: Collection[Grant] = (), *, sandboxed: bool = True) -> Decision:
    """May this call be made?

    Args:
        sandboxed: commands run where they reach no network, so that this needs no question in ``auto``.
    """
    free = _FREE[mode] | ({Kind.NETWORK} if mode is Mode.AUTO and sandboxed else frozenset())
    open_parts = tuple(part for part in parts_of(call) if part.kind not in free and not _granted(part, grants))
    if not open_parts:
        return Allowed()
    return Denied(_PLAN) if mode is Mode.PLAN else Asked(open_parts)


def parts_of(call: ToolCall) -> tuple[Part, ...]:
    """What a call does. A line that is not understood is one part that anything can happen in."""
    if call.name == _OTHER_TOOL:
        return _other_tool(call)
    if call.name == _OTHER_RESOURCE:
        return _other_resource(call)
    if call.name != "bash":
        return (Part(call.name, _TOOLS.get(call.name, Kind.OTHER)),)
    line = _arguments(call).get("command")
    if not isinstance(line, str):
        return ()  # It cannot be dispatched: the model is told so.
    try:
        found = simple_commands(line)
    except Unparsable:
        return (Part(line, Kind.DESTRUCTIVE),)
    return tuple(Part(part.text, kind_of(part), part) for part in found)


_TOOLS = {
    **dict.fromkeys(("finish", "read", "grep", "glob", "todo", "ask_user", "explore", "job"), Kind.READ),
    **dict.fromkeys(("skill", "mcp_list"), Kind.READ),
    **dict.fromkeys(("str_replace", "write"), Kind.EDIT),
}


_OTHER_TOOL = "mcp_call"


def _other_tool(call: ToolCall) -> tuple[Part, ...]:
    given = _arguments(call)
    server, tool = str(given.get("server", "")), str(given.get("tool", ""))
    text = f"{server} {tool} {json.dumps(given.get('arguments', {}), ensure_ascii=False)}"
    return (Part(text, Kind.OUTSIDE, SimpleCommand(text, (server, tool)), _OTHER_TOOL),)


_OTHER_RESOURCE = "mcp_read"


def _other_resource(call: ToolCall) -> tuple[Part, ...]:
    """It is granted for a server as a whole."""
    given = _arguments(call)
    server = str(given.get("server", ""))
    text = f"read {server} {given.get('uri', '')}"
    return (Part(text, Kind.OUTSIDE, SimpleCommand(text, (server, _OTHER_RESOURCE)), _OTHER_TOOL),)


def _arguments(call: ToolCall) -> dict[str, Any]:
    """Empty where they are no object: the call cannot be dispatched then."""
    try:
        given = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _granted(part: Part, grants: Collection[Grant]) -> bool:
    # Only a grant of the very words covers what destroys: "git branch" must not come to mean "git branch -D".
    usable = (grant for grant in grants if grant.exact or part.kind is not Kind.DESTRUCTIVE)
    return any(grant.covers(part) for grant in usable)


def _grant(command: SimpleCommand, kind: Kind) -> Grant | None:
    words = command.words
    if command.assigns or not words or words[0] is None:
        return None
    known = tuple(word for word in words if word is not None)
    if kind is Kind.DESTRUCTIVE or words[0] in _INTERPRETERS or "/" in words[0]:
        return Grant(words=known, exact=True) if len(known) == len(words) else None
    size = 2 if len(words) > 1 and words[0] in _WITH_SUBCOMMANDS else 1
    if len(known[:size]) < size or None in words[:size] or known[size - 1].startswith("-"):
        return Grant(words=known, exact=True) if len(known) == len(words) else None
    return Grant(words=known[:size], exact=False)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_INTERPRETERS = SHELLS | _set(
    "eval source . python python3 perl ruby node deno lua awk gawk env sudo doas xargs exec command timeout nice nohup "
    "time ssh find make sed watch parallel"
)
"""With other arguments they are other programs: only the very words can be granted."""

_WITH_SUBCOMMANDS = _set(
    "git npm pnpm yarn cargo go pip pip3 uv poetry docker kubectl helm gh glab terraform dotnet mvn gradle bundle "
    "rails mix apt apt-get brew"
)
