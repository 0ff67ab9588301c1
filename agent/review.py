"""What the model is shown once before its run may end: its patch, and what the checks say here and now.

This advises the model. The verdict is reached later, in a sandbox the agent never touched.
"""

from collections.abc import Sequence

from agent.tools.base import ToolResult, fit
from agent.tools.bash import observe
from agent.types import Check
from sandbox.types import Command, Sandbox

_PATCH_CHARS = 10_000
_OUTPUT_CHARS = 3_000
_CLOSING = "Read the patch once as a reviewer would. Change what is wrong or left over, then call finish again."


async def review(sandbox: Sandbox, checks: Sequence[Check], patch: str, call_id: str) -> ToolResult:
    """Run the checks where the agent works.

    Args:
        call_id: unique among the commands of the sandbox.
    """
    parts = [f"Not finished yet. This is your patch:\n{fit(patch, _PATCH_CHARS)[0]}"]
    for number, check in enumerate(checks):
        command = Command(check.command, request_id=f"{call_id}-check-{number}", timeout_s=check.timeout_s)
        result = observe(await sandbox.exec(command))
        parts.append(f"$ {check.command}\n{fit(result.text, _OUTPUT_CHARS)[0]}")
    return ToolResult("\n\n".join([*parts, _CLOSING]), reviewed=True)
