"""``ask_user``: a question that the repository cannot answer. The loop itself waits for the user."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult


class AskUserArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Annotated[str, StringConstraints(min_length=1, max_length=4000)] = Field(description="The question.")
    options: list[str] = Field(default_factory=list, max_length=8, description="Answers to choose from, if any.")


class AskUser:
    """Its observation is the user's next message. It never runs: nothing has to stay alive while the user thinks."""

    name = "ask_user"
    description = "Ask the user a question and wait for the answer."
    arguments = AskUserArguments

    async def run(self, arguments: AskUserArguments, context: ToolContext) -> ToolResult:
        raise AssertionError("the loop asks, and waits")
