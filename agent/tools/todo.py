"""``todo``: the model's own list of what is to do, for itself and for whoever watches."""

from pydantic import BaseModel, ConfigDict, Field

from agent.tools.base import ToolContext, ToolResult


class TodoArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: list[str] = Field(
        max_length=50, description="The whole list, each line beginning with '[ ]', '[>]' (being done) or '[x]'."
    )


class Todo:
    """Keeps nothing: the newest call in the log is the list."""

    name = "todo"
    description = "Write down the steps of a long task, and which are done."
    arguments = TodoArguments

    async def run(self, arguments: TodoArguments, context: ToolContext) -> ToolResult:
        num_open = sum(not item.startswith("[x]") for item in arguments.items)
        return ToolResult(f"[{len(arguments.items)} items, {num_open} open]")
