"""``grep`` and ``glob``: what git finds in the work tree, without the files it ignores."""

import shlex
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult
from agent.tools.bash import observe
from sandbox.types import Command, Exited

_WORKSPACE = "/workspace/"


class GrepArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pattern: Annotated[str, StringConstraints(min_length=1)] = Field(description="Extended regular expression.")
    files: str = Field("**", description="Which files, such as src/**/*.py.")


class GlobArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pattern: Annotated[str, StringConstraints(min_length=1)] = Field(description="Such as src/**/*.py.")


class Grep:
    """Lines that match, each with its file and number."""

    name = "grep"
    description = "Search the files of the repository for lines that match."
    arguments = GrepArguments

    async def run(self, arguments: GrepArguments, context: ToolContext) -> ToolResult:
        options = ("-n", "-I", "-E", "--untracked", "--no-color", "-e", arguments.pattern)
        return await _git(context, "grep", *options, "--", _pathspec(arguments.files))


class Glob:
    """Files whose path matches."""

    name = "glob"
    description = "List the files of the repository whose path matches."
    arguments = GlobArguments

    async def run(self, arguments: GlobArguments, context: ToolContext) -> ToolResult:
        listing = ("--cached", "--others", "--exclude-standard", "--deduplicate")
        return await _git(context, "ls-files", *listing, "--", _pathspec(arguments.pattern))


async def _git(context: ToolContext, *arguments: str) -> ToolResult:
    # The arguments are the model's: quoted, they are words and never commands.
    line = shlex.join(("git", *arguments))
    outcome = await context.sandbox.exec(Command(line, context.call_id, context.command_timeout_s))
    nothing = isinstance(outcome, Exited) and outcome.code in (0, 1) and not outcome.output
    return ToolResult("[nothing found]") if nothing else observe(outcome)


def _pathspec(pattern: str) -> str:
    return f":(glob){pattern.removeprefix(_WORKSPACE)}"
