"""What the tools do: each call of an answer is checked, allowed, announced, made and observed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.events import ToolCompleted, ToolIntent
from agent.profiles.base import Profile
from agent.review import review
from agent.steps.bounds import Bounds
from agent.steps.record import Record
from agent.steps.user import User
from agent.tools.ask_user import AskUserArguments
from agent.tools.base import Before, Foreseeing, Tool, ToolContext, ToolResult
from agent.tools.check import check
from agent.trajectory import Step
from agent.types import Keep, Observation, Snapshot, TaskRequest, ToolCall
from sandbox.errors import SandboxRejected
from sandbox.types import Sandbox

_NOTHING_CHANGED = "[error] nothing was changed yet"
_INTERRUPTED_CALL = (
    "[error] the worker was restarted while this call ran. The call was not completed: /workspace was restored to "
    "its last snapshot, from before the call. Make the call again if it is still needed"
)

Delegate = Callable[[str, str], Awaitable[ToolResult]]
"""Has a sub-agent answer a question, under the id of the call."""


@dataclass(frozen=True, slots=True)
class Files:
    """The work tree, as the loop sees it."""

    base_tree: str
    snapshot: Callable[[], Awaitable[Snapshot]]
    patch: Callable[[str], Awaitable[str]]
    before: Before | None
    """None where it is not known what a file held."""


class Calls:
    """One run's way to its tools."""

    def __init__(
        self,
        task: TaskRequest,
        profile: Profile,
        sandbox: Sandbox,
        record: Record,
        bounds: Bounds,
        user: User,
        files: Files,
        begun: Collection[str],
        delegate: Delegate,
        name: str,
        keep: Keep | None,
    ) -> None:
        self._task = task
        self._profile = profile
        self._sandbox = sandbox
        self._record = record
        self._bounds = bounds
        self._user = user
        self._files = files
        self._begun = begun
        self._delegate = delegate
        self._name = name
        self._keep = keep

    async def make(self, done: Sequence[Step], call: ToolCall) -> None:
        """The next call of the newest step."""
        step = done[-1]
        intent_id = f"{step.number}-{len(step.results)}"
        intent = next((intent for intent in step.intents if intent.intent_id == intent_id), None)
        if intent and intent_id not in self._begun:
            self._observe(step, call.id, intent_id, ToolResult(_INTERRUPTED_CALL, error=True))
            return
        cut = step.answers[-1].message.finish_reason == "length"
        checked = check(call, self._profile.tools, cut=cut)
        if isinstance(checked, ToolResult):
            self._observe(step, call.id, None, checked)
            return
        if isinstance(checked[1], AskUserArguments):
            self._observe(step, call.id, None, await self._user.ask(done, checked[1], intent_id))
            return
        if not intent and self._user.to_be_asked(step, call, intent_id):
            vain = await self._bounds.unless(asyncio.Event(), self._foreseen(*checked, intent_id))
            if vain is not None:
                self._observe(step, call.id, None, vain)
                return
        allowed = intent.call if intent else self._user.allowed(step, call, intent_id)
        if isinstance(allowed, ToolResult):
            self._observe(step, call.id, None, allowed)
            return
        await self._dispatch(done, call, allowed, intent_id, again=intent is not None)

    def make_none(self, step: Step, why: str) -> None:
        """The answer has no call; what the model reads in the place of a result."""
        self._observe(step, "", None, ToolResult(why, error=True))

    async def _dispatch(
        self, done: Sequence[Step], call: ToolCall, allowed: ToolCall, intent_id: str, *, again: bool
    ) -> None:
        """Announce the call as it is allowed, make it, and tell the model, who may have written another."""
        step = done[-1]
        checked = check(allowed, self._profile.tools, cut=False)
        if isinstance(checked, ToolResult):
            self._observe(step, call.id, None, _told(checked, allowed))
            return
        if not again:
            self._record.add("tool.intent", ToolIntent(step=step.number, intent_id=intent_id, call=allowed))
        await self._record.write()
        since = time.monotonic()
        result, kept = await self._bounds.unless_stopped(self._perform(done, *checked, intent_id, again=again))
        result = _told(result, allowed) if allowed != call else result
        self._observe(step, call.id, intent_id, result, kept, time.monotonic() - since)

    async def _foreseen(self, tool: Tool, arguments: Any, intent_id: str) -> ToolResult | None:
        """Why the call is in vain, as far as that can be told without making it."""
        if not isinstance(tool, Foreseeing):
            return None
        context = ToolContext(self._sandbox, f"{self._name}{intent_id}", self._task.limits.command_timeout_s)
        try:
            return await tool.foresee(arguments, context)
        except SandboxRejected:
            return None  # The call itself says what it is.

    async def _perform(
        self, done: Sequence[Step], tool: Tool, arguments: Any, intent_id: str, *, again: bool
    ) -> tuple[ToolResult, Snapshot | None]:
        """Run a tool and keep what it left behind."""
        call_id = f"{self._name}{intent_id}"
        timeout_s, before = self._task.limits.command_timeout_s, self._files.before if again else None
        context = ToolContext(self._sandbox, call_id, timeout_s, self._delegate, again, before)
        try:
            result = await tool.run(arguments, context)
        except SandboxRejected as error:
            result = ToolResult(f"[error] {tool.name}: {error}", error=True)
        if result.whole is not None and self._keep is not None:
            await self._keep(f"outputs/{call_id}.txt", result.whole)
        try:
            kept = await self._files.snapshot()
        except SandboxRejected as error:
            note = f"{result.text}\n[warning] the state of /workspace cannot be kept: {error}. Remove large files"
            return replace(result, text=note), None
        return (await self._accept(done, result, kept, intent_id) if result.finished else result), kept

    async def _accept(self, done: Sequence[Step], result: ToolResult, kept: Snapshot, intent_id: str) -> ToolResult:
        """The end that the agent wants, or what it is shown before it may have it; each once."""
        results = [result for step in done for result in step.results]
        if kept.tree == self._files.base_tree:
            refused = any(earlier.observation.text == _NOTHING_CHANGED for earlier in results)
            return result if refused else ToolResult(_NOTHING_CHANGED, error=True)
        wanted = self._profile.review if self._task.review is None else self._task.review
        if not wanted or any(earlier.reviewed for earlier in results):
            return result
        patch = await self._files.patch(kept.tree)
        return await review(self._sandbox, self._task.checks, patch, f"{self._name}{intent_id}")

    def _observe(
        self,
        step: Step,
        call_id: str,
        intent_id: str | None,
        result: ToolResult,
        kept: Snapshot | None = None,
        duration_s: float = 0.0,
    ) -> None:
        observation = Observation(
            call_id=call_id,
            text=result.text,
            error=result.error,
            duration_s=duration_s,
            truncated_bytes=result.truncated_bytes,
        )
        completed = ToolCompleted(
            step=step.number,
            intent_id=intent_id,
            observation=observation,
            tree=kept.tree if kept else None,
            checkpoint=kept.checkpoint if kept else None,
            finished=result.finished,
            reviewed=result.reviewed,
            denied=result.denied,
            message_id=result.message_id,
            images=result.images,
            usage=result.usage,
        )
        self._record.add("tool.completed", completed)


def _told(result: ToolResult, made: ToolCall) -> ToolResult:
    """The model wrote another call than the one that this is the result of."""
    return replace(result, text=f"[the user changed this call; made was {made.name} {made.arguments}]\n{result.text}")
