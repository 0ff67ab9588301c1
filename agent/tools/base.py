"""What a tool is: a schema the model reads, and a coroutine that turns arguments into an observation."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

from agent.events import KeptImage
from agent.types import Usage
from sandbox.types import Sandbox

OBSERVATION_CHARS = 10_000
"""Most characters of one observation: the first and the last half of them are kept."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads, and whether the call failed. ``finished`` ends the run."""

    text: str
    error: bool = False
    truncated_bytes: int = 0
    finished: bool = False
    reviewed: bool = False
    """What the model reads is its own patch and the checks, before it may end."""
    denied: Literal["policy", "user"] | None = None
    message_id: str | None = None
    """The user's message that this is."""
    images: tuple[KeptImage, ...] = ()
    """Of that message."""
    usage: Usage | None = None
    """What a sub-agent cost."""
    whole: bytes | None = None
    """All that a command wrote, where the model reads only a part of it."""


Before = Callable[[str], Awaitable[str | None]]
"""The text that a file of the work tree held earlier; None where that is not known."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may use while it runs."""

    sandbox: Sandbox
    call_id: str
    """Id of the intent; the sandbox never runs the same id twice."""
    command_timeout_s: float
    delegate: Callable[[str, str], Awaitable[ToolResult]] | None = None
    """Has a sub-agent answer a question, under the id of the call; None where there is none to ask."""
    again: bool = False
    """A worker that is gone began the same call, in the same sandbox, and nobody knows how far it came. What the
    sandbox did under the id of the call it does not do again; for anything else the tool must see to that."""
    before: Before | None = None
    """With ``again``: what a file held before the call."""


class Tool(Protocol):
    """One tool of a profile."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def arguments(self) -> type[BaseModel]: ...

    async def run(self, arguments: Any, context: ToolContext) -> ToolResult:
        """Do the work; ``arguments`` is a checked instance of ``self.arguments``."""


@runtime_checkable
class Foreseeing(Protocol):
    """A tool that can tell beforehand that a call is in vain: nobody need be asked whether it may be made."""

    async def foresee(self, arguments: Any, context: ToolContext) -> ToolResult | None:
        """What the model would read of a call that cannot work as the files are now; None of one that may."""


def function_schema(tool: Tool) -> dict[str, Any]:
    """The tool as an OpenAI ``tools`` entry. Key order is fixed: the rendered prompt must not change between runs."""
    schema = _json_schema(tool.arguments)
    properties = {
        name: {key: value[key] for key in ("type", "items", "enum", "description") if key in value}
        for name, value in schema["properties"].items()
    }
    parameters = {"type": "object", "properties": properties, "required": schema.get("required", [])}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


@lru_cache(maxsize=256)
def _json_schema(arguments: type[BaseModel]) -> dict[str, Any]:
    """Asked for with every step, and the dearest part of one."""
    return arguments.model_json_schema()


def argument_error(tool: str, error: ValidationError) -> str:
    """What the model reads when its arguments do not fit the schema."""
    problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
    return f"[error] {tool}: {problems}"


def unknown(tool: str) -> ToolResult:
    """What the model reads where a call was begun by a worker that is gone, and cannot be made a second time."""
    return ToolResult(
        f"[error] {tool}: the worker was restarted while this call ran, and it is not known whether it was completed. "
        "Look before you make it again",
        error=True,
    )


def fit(text: str, limit: int = OBSERVATION_CHARS) -> tuple[str, int]:
    """Cut the middle out of a long text; returns the text and how many characters were dropped."""
    if len(text) <= limit:
        return text, 0
    half = limit // 2
    dropped = len(text) - 2 * half
    return f"{text[:half]}\n[... {dropped} characters not shown ...]\n{text[-half:]}", dropped
