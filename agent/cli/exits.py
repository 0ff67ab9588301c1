"""What the end of a task means for a script."""

from agent.api.schemas import TaskView
from agent.cli.failure import ExitCode
from agent.types import Status, StopReason, VerdictKind


def exit_code(task: TaskView, *, require_verified: bool = False) -> ExitCode:
    """What the end of a task means for a script. No result is never 0."""
    if task.status is Status.CANCELLED or task.stop_reason is StopReason.CANCELLED:
        return ExitCode.INTERRUPTED
    if task.stop_reason in _LIMITS:
        return ExitCode.LIMIT
    if task.stop_reason in _MACHINES:
        return ExitCode.RETRYABLE
    if task.status in (Status.WAITING, Status.PAUSED):
        return ExitCode.NEEDS_INPUT
    if task.status is Status.EXPIRED:
        return ExitCode.LIMIT
    kind = task.verdict.kind if task.verdict else None
    if task.status is not Status.SUCCEEDED or kind in (None, VerdictKind.NO_CHANGE, VerdictKind.REGRESSED):
        return ExitCode.FAILED
    return ExitCode.UNVERIFIED if require_verified and kind is not VerdictKind.VERIFIED else ExitCode.DONE


_LIMITS = (
    StopReason.STEP_LIMIT,
    StopReason.TOKEN_BUDGET,
    StopReason.COST_BUDGET,
    StopReason.WALL_CLOCK,
    StopReason.ERROR_LIMIT,
    StopReason.SANDBOX_LIFETIME,
)
_MACHINES = (StopReason.MODEL_ERROR, StopReason.SANDBOX_LOST)
