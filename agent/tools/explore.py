"""``explore``: a helper looks something up and says what it found, so that the view need not hold the search."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult, unknown


class ExploreArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Annotated[str, StringConstraints(min_length=1, max_length=8000)] = Field(
        description="What to find out, with all that the helper must know: it sees nothing of this conversation."
    )


class Explore:
    """A sub-agent that only reads."""

    name = "explore"
    description = "Have a helper search the repository and answer a question."
    arguments = ExploreArguments

    async def run(self, arguments: ExploreArguments, context: ToolContext) -> ToolResult:
        if context.delegate is None:
            return ToolResult("[error] explore: there is no helper here", error=True)
        if context.again:
            return unknown(self.name)
        return await context.delegate(arguments.question, context.call_id)
