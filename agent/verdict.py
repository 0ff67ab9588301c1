"""What the checks say about a patch, in a sandbox the agent never touched."""

from collections.abc import Sequence

from agent.patch import TaskRepository
from agent.types import Check, Verdict
from sandbox.types import Backend, SandboxSpec


async def reach_verdict(
    backend: Backend, spec: SandboxSpec, repository: TaskRepository, base_tree: str, tree: str, checks: Sequence[Check]
) -> Verdict:
    """Run every check on ``tree`` with the base's tests; a failing one also on the base, to know what regressed.

    Raises:
        SandboxError: a sandbox could not be had or was lost.
    """
    raise NotImplementedError
