"""Commands of the user's own around the agent's calls: one that fails has its say.

A hook reads what happens as one JSON object on its standard input: ``{"on": ..., "tool": ..., "arguments": ...}``, and
after a call also ``result`` and ``error``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import Foreseeing, Tool, ToolContext, ToolResult, fit
from agent.tools.bash import describe_ending
from sandbox.types import Command, Exited, Sandbox

On = Literal["before_tool", "after_tool", "stop"]

_MAX_SAID_CHARS = 4000


class Hook(BaseModel):
    """One command, and when it is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: On = Field(description="Before a call, which it may refuse; after one; or when the agent has answered.")
    command: Annotated[str, StringConstraints(min_length=1)] = Field(description="Run by bash. Exit code 0: go on.")
    tool: str = Field("*", description="Tools it is for, by a pattern.")
    where: Literal["sandbox", "machine"] = Field("sandbox", description="Where it runs.")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="After that it counts as failed, s.")


@dataclass(frozen=True, slots=True)
class Hooks:
    """All hooks, and the machine that those outside the sandbox run on."""

    hooks: Sequence[Hook]
    machine: Sandbox

    async def run(self, on: On, about: dict[str, Any], sandbox: Sandbox, request_id: str) -> str:
        """What the first hook that fails says; empty where none does."""
        stdin = json.dumps({"on": on, **about}).encode()
        for number, hook in enumerate(self.hooks):
            if hook.on != on or not fnmatchcase(str(about.get("tool", "")), hook.tool):
                continue
            place = self.machine if hook.where == "machine" else sandbox
            command = Command(hook.command, f"{request_id}-hook-{on}-{number}", hook.timeout_s, stdin=stdin)
            outcome = await place.exec(command)
            if not (isinstance(outcome, Exited) and outcome.code == 0):
                said, _ = fit(outcome.output.decode("utf-8", "replace").strip(), _MAX_SAID_CHARS)
                return said or f"the hook {hook.command!r} failed {describe_ending(outcome)}"
        return ""


@dataclass(frozen=True, slots=True)
class Hooked:
    """A tool with hooks around it. To the model it is the tool."""

    tool: Tool
    hooks: Hooks

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def description(self) -> str:
        return self.tool.description

    @property
    def arguments(self) -> type[BaseModel]:
        return self.tool.arguments

    async def run(self, arguments: BaseModel, context: ToolContext) -> ToolResult:
        about: dict[str, Any] = {"tool": self.name, "arguments": arguments.model_dump(mode="json")}
        if said := await self.hooks.run("before_tool", about, context.sandbox, context.call_id):
            return ToolResult(f"[error] {self.name}: refused by a hook: {said}", error=True)
        result = await self.tool.run(arguments, context)
        about = {**about, "result": result.text, "error": result.error}
        if said := await self.hooks.run("after_tool", about, context.sandbox, context.call_id):
            return replace(result, text=f"{result.text}\n[a hook says: {said}]")
        return result

    async def foresee(self, arguments: BaseModel, context: ToolContext) -> ToolResult | None:
        return await self.tool.foresee(arguments, context) if isinstance(self.tool, Foreseeing) else None
