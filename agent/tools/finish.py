"""``finish``: the agent says it is done. Whether it is right, the checks say later."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.tools.base import ToolContext, ToolResult
from agent.types import ToolCall


class FinishArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    summary: str = Field("", description="What was changed and why.")


class Finish:
    """Ends the run."""

    name = "finish"
    description = "End the task."
    arguments = FinishArguments

    async def run(self, arguments: FinishArguments, context: ToolContext) -> ToolResult:
        return ToolResult("[finished]", finished=True)


def summary_of(call: ToolCall) -> str:
    """What the agent said when it called ``finish``; empty where the arguments cannot be read."""
    try:
        return FinishArguments.model_validate_json(call.arguments).summary
    except ValidationError:
        return ""
