"""Model call, tool calls, observations: step after step until a stop reason."""

import asyncio
from collections.abc import Awaitable, Callable

from agent.log import Log
from agent.model import Delta, Model
from agent.profiles.base import Profile
from agent.types import StopReason, TaskRequest
from sandbox.types import Sandbox


async def run_loop(
    task: TaskRequest,
    profile: Profile,
    model: Model,
    sandbox: Sandbox,
    log: Log,
    *,
    base_tree: str,
    snapshot: Callable[[], Awaitable[str]],
    cancelled: asyncio.Event,
    on_delta: Callable[[int, Delta], None] | None = None,
) -> StopReason:
    """Work on the task until a stop reason, which is also the ``run.stopped`` event.

    Goes on where the events of ``log`` end: ``sandbox`` then holds ``history.last_tree(log.events)``, or
    ``base_tree`` where that is None.

    Args:
        snapshot: git tree id of the work tree in ``sandbox`` as it is now; called after every tool call.
        cancelled: once set, the run ends within a second.
        on_delta: receives the number of the step and each piece of an answer, at once; nothing of it is stored.

    Raises:
        SandboxError: the sandbox is lost; the caller may restore it elsewhere and call again.
        LeaseLost: another worker owns the run.
    """
    raise NotImplementedError
