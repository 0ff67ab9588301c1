"""The sandbox that a run's agent works in: the one that an earlier worker left, or a new one with the same files.

Which one a run has, its last ``run.provisioned`` says. Whoever takes it over shuts its earlier owners out, so a worker
that was taken for dead, and was not, does nothing in it any more.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from agent.orchestrator.log import StoreLog
from agent.orchestrator.workspace import Workspace
from agent.types import Event, Snapshot
from sandbox.errors import Overdue, SandboxLost
from sandbox.toolbox.toolbox import RunTools, ToolSandbox
from sandbox.types import Backend, Sandbox, SandboxSpec


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A sandbox that holds the run's files."""

    sandbox: Sandbox
    begun: frozenset[str] = frozenset()
    """Calls that earlier workers began in it."""


class Provisioning:
    """For one run."""

    def __init__(self, log: StoreLog, workspace: Workspace, tools: RunTools, backend: Backend) -> None:
        """
        Args:
            tools: all sandboxes of the run.
            backend: makes new ones.
        """
        self._log = log
        self._workspace = workspace
        self._tools = tools
        self._backend = backend

    async def provide(self, spec: SandboxSpec, kept: Snapshot, had: Callable[[], Awaitable[None]]) -> Provisioned:
        """A sandbox with the newest state of the files; the log says so before it is given.

        Args:
            kept: that state, for a new one.
            had: told that the run has one, before that is filled.

        Raises:
            SandboxError: there is none.
            LeaseLost: another worker owns the run.
        """
        if left := _left(self._log.events):
            with suppress(SandboxLost, Overdue):  # then it goes on in a new one
                sandbox = await self._tools.take_over(left)
                await had()
                await self._say(sandbox, kept, taken_over=True)
                return Provisioned(sandbox, _begun(self._log.events, left))
        async with AsyncExitStack() as failed:
            sandbox = await self._backend.acquire(spec)
            failed.push_async_callback(sandbox.close)
            await had()
            is_whole = await self._workspace.restore(sandbox, kept)
            await self._say(sandbox, kept if is_whole else Snapshot(kept.tree))
            failed.pop_all()
        return Provisioned(sandbox)

    async def _say(self, sandbox: Sandbox, kept: Snapshot, *, taken_over: bool = False) -> None:
        assert isinstance(sandbox, ToolSandbox), sandbox
        body = {
            "sandbox": sandbox.id,
            "boot_id": sandbox.boot_id,
            "base": self._workspace.base.model_dump(mode="json"),
            "tree": kept.tree,
            "checkpoint": kept.checkpoint,
            "taken_over": taken_over,
        }
        await self._log.append("run.provisioned", body)


def _left(events: Sequence[Event]) -> str | None:
    """The sandbox that the run should still have."""
    for event in reversed(events):
        match event.type:
            case "run.provisioned":
                return event.body.get("sandbox")
            case "sandbox.lost" | "run.parked" | "run.rewound":
                return None
    return None


def _begun(events: Sequence[Event], sandbox: str) -> frozenset[str]:
    """The calls that were announced since the run has this sandbox."""
    had = (event.seq for event in events if event.type == "run.provisioned" and event.body.get("sandbox") == sandbox)
    since = min(had)
    return frozenset(event.body["intent_id"] for event in events if event.type == "tool.intent" and event.seq > since)
