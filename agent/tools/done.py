"""``bash`` for agents that have no other tool: one command line says that the task is done."""

from agent.tools.base import ToolContext, ToolResult
from agent.tools.bash import Bash, BashArguments

DONE = "echo TASK_IS_DONE"


class DoneByCommand:
    """As ``bash``; the line :data:`DONE` ends the run."""

    name = Bash.name
    description = Bash.description
    arguments = BashArguments

    def __init__(self, bash: Bash) -> None:
        self._bash = bash

    async def run(self, arguments: BashArguments, context: ToolContext) -> ToolResult:
        if arguments.command.strip() == DONE:
            return ToolResult("[finished]", finished=True)
        return await self._bash.run(arguments, context)
