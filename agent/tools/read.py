"""``read``: a part of a text file, with line numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import OBSERVATION_CHARS, ToolContext, ToolResult
from agent.tools.text_file import numbered, read_text


class ReadArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, StringConstraints(min_length=1)] = Field(description="File, absolute or below /workspace.")
    offset: int = Field(1, ge=1, description="First line, from 1.")
    limit: int = Field(400, ge=1, description="Most lines.")


class Read:
    """Shows as many lines as an observation holds, and where to go on."""

    name = "read"
    description = "Read a text file."
    arguments = ReadArguments

    async def run(self, arguments: ReadArguments, context: ToolContext) -> ToolResult:
        text = await read_text(context.sandbox, arguments.path)
        if isinstance(text, ToolResult):
            return text
        lines = text.splitlines()
        if arguments.offset > max(len(lines), 1):
            return ToolResult(f"[error] {arguments.path}: has only {len(lines)} lines", error=True)
        return ToolResult(_part(lines, arguments.offset, arguments.limit))


def _part(lines: list[str], offset: int, limit: int) -> str:
    first = offset - 1
    wanted = lines[first : first + limit]
    while len(wanted) > 1 and len(numbered(wanted, offset)) > OBSERVATION_CHARS:
        wanted = wanted[: len(wanted) // 2]
    shown = numbered(wanted, offset)[:OBSERVATION_CHARS]
    last = first + len(wanted)
    if last >= len(lines):
        return f"{shown}\n[end of file]"
    return f"{shown}\n[lines {offset}-{last} of {len(lines)}; go on with offset {last + 1}]"
