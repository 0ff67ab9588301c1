"""A sub-agent: a run within a run, with a view of its own, tools that only read, and what is left of the budget."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from agent.budget import spent
from agent.inbox import Inbox
from agent.log import MemoryLog
from agent.model import Model
from agent.profiles.base import Profile
from agent.steps.bounds import Bounds
from agent.steps.ends import Wait
from agent.steps.record import Record
from agent.steps.settings import LoopSettings
from agent.tools.base import ToolResult
from agent.tools.finish import summary_of
from agent.trajectory import steps
from agent.types import Snapshot, StopReason, TaskRequest
from sandbox.types import Sandbox

MAX_STEPS = 20


class SubAgent:
    """Answers the questions of one run's agent, in its sandbox."""

    def __init__(
        self,
        run_loop: Callable[..., Awaitable[StopReason | Wait]],
        record: Record,
        task: TaskRequest,
        profile: Profile | None,
        model: Model,
        sandbox: Sandbox,
        bounds: Bounds,
        settings: LoopSettings,
    ) -> None:
        """
        Args:
            run_loop: :func:`agent.loop.run_loop`, which is above this.
            profile: its own; None where the run's has no tool that asks it.
        """
        self._run_loop = run_loop
        self._record = record
        self._task = task
        self._profile = profile
        self._model = model
        self._sandbox = sandbox
        self._bounds = bounds
        self._settings = replace(settings, waits_for_model=False)

    async def answer(self, question: str, intent_id: str) -> ToolResult:
        """What it found out, or that it did not come to an answer."""
        run_id = self._record.run_id
        assert self._profile is not None, run_id
        log = MemoryLog(run_id=f"{run_id}-{intent_id}")
        reason = await self._run_loop(
            self._asked(question),
            self._profile,
            self._model,
            self._sandbox,
            log,
            base_tree="",
            snapshot=_keep_nothing,
            patch=_patch_of_nothing,
            inbox=Inbox(),
            settings=self._settings,
            name=f"{intent_id}-",
        )
        newest = steps(log.events)[-1].message
        answer = summary_of(newest.tool_calls[-1]) if newest and reason is StopReason.FINISHED else None
        text = answer or f"[error] the helper did not come to an answer ({reason})"
        return ToolResult(text, error=answer is None, usage=spent((event.type, event.body) for event in log.events))

    def _asked(self, question: str) -> TaskRequest:
        limits = self._bounds.left(MAX_STEPS)
        return self._task.model_copy(
            update={"problem_statement": question, "limits": limits, "on_limit": "stop", "review": False}
        )


async def _keep_nothing() -> Snapshot:
    return Snapshot("kept by the run that asked")


async def _patch_of_nothing(tree: str) -> str:
    return ""
