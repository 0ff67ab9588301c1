"""Commands that go on in the background: ``bash`` starts them, ``job`` looks at them and ends them.

A job lives in files of its sandbox, below ``/tmp/jobs``, and ends with it.
"""

import shlex
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult
from agent.tools.bash import Bash, BashArguments, observe
from sandbox.types import Command

_JOBS = "/tmp/jobs"  # noqa: S108 - in the sandbox
_OUTPUTS = "/tmp/outputs"  # noqa: S108


class BashWithJobsArguments(BashArguments):
    background: bool = Field(False, description="Start it and go on at once; look at it with job.")


class BashWithJobs:
    """As ``bash``; what an observation has no room for is kept in a file."""

    name = Bash.name
    description = Bash.description
    arguments = BashWithJobsArguments

    async def run(self, arguments: BashWithJobsArguments, context: ToolContext) -> ToolResult:
        if arguments.background:
            return await self._start(arguments.command, context)
        command = Command(arguments.command, request_id=context.call_id, timeout_s=context.command_timeout_s)
        outcome = await context.sandbox.exec(command)
        result = observe(outcome)
        if not result.truncated_bytes:
            return result
        path = f"{_OUTPUTS}/{context.call_id}.txt"
        try:
            await context.sandbox.write(path, outcome.output)
        except OSError:
            return result  # the disk of the sandbox is full; the model sees what there is room for
        return ToolResult(f"{result.text}\n[all of it: {path}]", result.error, result.truncated_bytes)

    async def _start(self, command: str, context: ToolContext) -> ToolResult:
        job = f"{_JOBS}/{context.call_id}"
        await context.sandbox.write(f"{job}.sh", command.encode("utf-8"))
        # A process group of its own, so that the end of the job is the end of all it started.
        line = f"set -m; (sh {job}.sh; echo $? > {job}.code) > {job}.log 2>&1 < /dev/null & echo $! > {job}.pid"
        outcome = await context.sandbox.exec(Command(line, context.call_id, context.command_timeout_s))
        result = observe(outcome)
        return result if result.error else ToolResult(f"[job {context.call_id} started; its output is in {job}.log]")


class JobArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9-]{1,40}$")] = Field(description="As bash named it.")
    action: Literal["look", "wait", "stop"] = Field("look", description="wait: until it ends, or time is up.")


class Job:
    """The end of a job's output, and whether it still runs."""

    name = "job"
    description = "Look at a background job, wait for it, or stop it."
    arguments = JobArguments

    async def run(self, arguments: JobArguments, context: ToolContext) -> ToolResult:
        job = shlex.quote(f"{_JOBS}/{arguments.id}")
        wait_s = max(int(context.command_timeout_s) - 5, 1)
        before = {
            "look": "",
            "wait": f"i=0; while [ ! -e {job}.code ] && [ $i -lt {wait_s} ]; do sleep 1; i=$((i + 1)); done; ",
            "stop": f'[ -e {job}.code ] || kill -- -"$(cat {job}.pid)"; ',
        }[arguments.action]
        line = (
            f"if [ ! -e {job}.pid ]; then echo 'no such job; jobs end with their machine'; exit 1; fi; {before}"
            f"tail -c 8000 {job}.log; "
            f'if [ -e {job}.code ]; then echo "[the job ended with exit code $(cat {job}.code)]"; '
            f"elif [ {arguments.action} = stop ]; then echo '[the job was stopped]'; "
            # The time makes two looks differ, so that waiting is not taken for a loop.
            f'else echo "[the job runs for $(( $(date +%s) - $(date -r {job}.pid +%s) )) s]"; fi'
        )
        return observe(await context.sandbox.exec(Command(line, context.call_id, context.command_timeout_s)))
