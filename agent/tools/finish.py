"""``finish``: the agent says it is done. Whether it is right, the checks say later."""

from pydantic import BaseModel, ConfigDict, Field

from agent.tools.base import ToolContext, ToolResult


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
