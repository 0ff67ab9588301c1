"""``write``: a whole text file."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult
from agent.tools.text_file import write_text


class WriteArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, StringConstraints(min_length=1)] = Field(description="File, absolute or below /workspace.")
    content: str = Field(description="The whole text.")


class Write:
    """Makes a file, or replaces all of it."""

    name = "write"
    description = "Write a whole file; to change a part of one, use str_replace."
    arguments = WriteArguments

    async def run(self, arguments: WriteArguments, context: ToolContext) -> ToolResult:
        failed = await write_text(context.sandbox, arguments.path, arguments.content)
        return failed or ToolResult(f"[wrote {len(arguments.content.splitlines())} lines]")
