"""``bash``: one shell command in a fresh shell."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult, fit
from sandbox.types import Command, Exited, OomKilled, Outcome, OutputLimit, Signalled, TimedOut


class BashArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    command: Annotated[str, StringConstraints(min_length=1)] = Field(description="The command line.")


class Bash:
    """Runs a command; how it ended is always the last line of what the model reads."""

    name = "bash"
    description = "Run a shell command."
    arguments = BashArguments

    async def run(self, arguments: BashArguments, context: ToolContext) -> ToolResult:
        outcome = await context.sandbox.exec(
            Command(arguments.command, request_id=context.call_id, timeout_s=context.command_timeout_s)
        )
        return observe(outcome)


def observe(outcome: Outcome) -> ToolResult:
    """An outcome as the model reads it.

    >>> observe(Exited(code=1, output=b"no such file\\n")).text
    'no such file\\n[exit code: 1]'
    """
    output, dropped = fit(outcome.output.decode("utf-8", errors="replace").removesuffix("\n"))
    ending = describe_ending(outcome)
    text = f"{output}\n{ending}" if output else ending
    hidden = outcome.total_bytes - len(outcome.output) + dropped
    return ToolResult(
        text,
        error=not (isinstance(outcome, Exited) and outcome.code == 0),
        truncated_bytes=max(hidden, 0),
        whole=outcome.output if dropped else None,
    )


def describe_ending(outcome: Outcome) -> str:
    match outcome:
        case Exited(code=code):
            return f"[exit code: {code}]"
        case Signalled(signal=signal):
            return f"[ended by signal {signal}]"
        case TimedOut(timeout_s=timeout_s):
            return (
                f"[timed out after {timeout_s:g} s; every process of the command was ended. "
                "Run long commands in the background: nohup COMMAND > log 2>&1 &]"
            )
        case OomKilled():
            return "[ended: out of memory]"
        case OutputLimit(limit_bytes=limit):
            return f"[ended: more than {limit} bytes of output. Write to a file and read parts of it]"
