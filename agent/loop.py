"""Model call, tool calls, observations: step after step until a stop reason.

Everything the loop knows it reads from the log, so a run that lost its worker goes on from its events alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Literal, TypeVar

from pydantic import BaseModel

from agent.errors import ModelError
from agent.events import (
    GuardTripped,
    RunResumed,
    RunStopped,
    StepCompleted,
    StepMessage,
    StepStarted,
    ToolCompleted,
    ToolIntent,
)
from agent.guard import AnswerGuard, GuardSettings, looping
from agent.history import view
from agent.log import Log
from agent.model import Completion, Delta, Model
from agent.profiles.base import Profile
from agent.tools.base import Tool, ToolContext, ToolResult, function_schema
from agent.tools.check import check
from agent.trajectory import Step, steps
from agent.types import (
    AssistantMessage,
    ModelOptions,
    Observation,
    Snapshot,
    StopReason,
    TaskRequest,
    ToolCall,
    Usage,
)
from sandbox.errors import SandboxRejected
from sandbox.types import Sandbox

MALFORMED_STEPS = 3
"""So many steps in a row without a call that could be dispatched end the run."""

_NOTHING_CHANGED = "[error] nothing was changed yet"
_INTERRUPTED = (
    "[error] the worker was restarted while this call ran. The call was not completed: /workspace was restored to "
    "its last snapshot, from before the call. Make the call again if it is still needed"
)
_INCOMPLETE = "incomplete"
"""Why an answer without content and call is sampled again, once."""
_HOTTER = 0.3
"""What sampling again adds to the temperature, once more for each step in a row that was dropped."""

_T = TypeVar("_T")


async def run_loop(
    task: TaskRequest,
    profile: Profile,
    model: Model,
    sandbox: Sandbox,
    log: Log,
    *,
    base_tree: str,
    snapshot: Callable[[], Awaitable[Snapshot]],
    cancelled: asyncio.Event,
    on_delta: Callable[[int, Delta], None] | None = None,
    guard: GuardSettings | None = None,
) -> StopReason:
    """Work on the task until a stop reason, which is also the ``run.stopped`` event.

    Goes on where the events of ``log`` end: ``sandbox`` then holds ``history.last_snapshot(log.events)``, or
    ``base_tree`` where that is None.

    Args:
        snapshot: keeps the work tree in ``sandbox`` as it is now; called after every tool call. Raises
            ``SandboxRejected`` where the work tree is too large to be kept; the model is told.
        cancelled: once set, the run ends within a second.
        on_delta: receives the number of the step and each piece of an answer, at once; nothing of it is stored.

    Raises:
        SandboxError: the sandbox is lost; the caller may restore it elsewhere and call again.
        LeaseLost: another worker owns the run.
    """
    for event in log.events:
        if event.type == "run.stopped":
            return RunStopped.model_validate(event.body).stop_reason
    run = _Run(task, profile, model, sandbox, log, base_tree, snapshot, cancelled, on_delta, guard or GuardSettings())
    try:
        while True:
            await run.advance()
    except _Stopped as stopped:
        await run.record("run.stopped", RunStopped(stop_reason=stopped.reason, detail=stopped.detail))
        return stopped.reason


class _Stopped(Exception):
    def __init__(self, reason: StopReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Run:
    """One run while this worker has it."""

    def __init__(
        self,
        task: TaskRequest,
        profile: Profile,
        model: Model,
        sandbox: Sandbox,
        log: Log,
        base_tree: str,
        snapshot: Callable[[], Awaitable[Snapshot]],
        cancelled: asyncio.Event,
        on_delta: Callable[[int, Delta], None] | None,
        guard: GuardSettings,
    ) -> None:
        self._task = task
        self._profile = profile
        self._model = model
        self._sandbox = sandbox
        self._log = log
        self._base_tree = base_tree
        self._snapshot = snapshot
        self._cancelled = cancelled
        self._on_delta = on_delta
        self._guard = guard
        self._fresh = True

    async def advance(self) -> None:
        """Do the one thing that the log says is next."""
        done = steps(self._log.events)
        if self._fresh and done:
            await self.record("run.resumed", RunResumed(step=0 if done[-1].completed else done[-1].number))
        self._fresh = False
        if done and done[-1].completed is None:
            await self._go_on(done)
            return
        if done:
            await self._judge(done)
        self._check_limits(done)
        await self.record("step.started", StepStarted(step=len(done) + 1))

    async def record(self, event: str, body: BaseModel) -> None:
        await self._log.append(event, body.model_dump(mode="json"))

    async def _go_on(self, done: Sequence[Step]) -> None:
        """The next thing an open step lacks."""
        step, message = done[-1], done[-1].message
        if message is None:
            await self._ask(done)
        elif not message.tool_calls and not step.results:
            await self._observe(step, "", None, ToolResult(self._nudge(message), error=True))
        elif len(step.results) < len(message.tool_calls) and not step.finished:
            await self._call(done, message.tool_calls[len(step.results)])
        else:
            await self._complete(step)

    async def _judge(self, done: Sequence[Step]) -> None:
        """What the steps so far, all of them complete, mean for the run."""
        if done[-1].finished:
            raise _Stopped(StopReason.FINISHED, "the agent called finish")
        newest = done[-MALFORMED_STEPS:]
        if len(newest) == MALFORMED_STEPS and not any(step.intents for step in newest):
            raise _Stopped(StopReason.FORMAT_ERRORS, f"{MALFORMED_STEPS} answers in a row held no usable tool call")
        if done[-1].dropped:
            return
        if pattern := looping(done, self._guard):
            survived = _num_drops(done) >= self._guard.max_drops
            await self._trip(done[-1], pattern, "stop" if survived else "drop")
            if survived:
                raise _Stopped(StopReason.STUCK, f"the agent went round in circles ({pattern.replace('_', ' ')})")

    def _check_limits(self, done: Sequence[Step]) -> None:
        limits = self._task.limits
        if self._cancelled.is_set():
            raise _cancelled()
        if len(done) >= limits.max_steps:
            raise _Stopped(StopReason.STEP_LIMIT, f"the limit of {limits.max_steps} steps is reached")
        if _spent(done) >= limits.max_tokens:
            raise _Stopped(StopReason.TOKEN_BUDGET, f"the budget of {limits.max_tokens} tokens is spent")
        if self._seconds_left() <= 0:
            raise self._too_late()

    async def _ask(self, done: Sequence[Step]) -> None:
        """One answer of the model. An aborted one is stored too and leaves the step open."""
        step = done[-1]
        aborts = [answer.aborted for answer in step.answers if answer.aborted != _INCOMPLETE]
        if len(aborts) >= len(_REMEDIES):
            raise _Stopped(StopReason.STUCK, f"the answer degenerated again and again ({aborts[-1]})")
        options = _options(
            self._task.model, num_aborts=len(aborts), num_drops=_num_drops(done), num_answers=len(step.answers)
        )
        completion = await self._unless_stopped(self._answer(step, options))
        aborted = completion.aborted
        if aborted is None and _says_nothing(completion.message) and not step.answers:
            aborted = _INCOMPLETE
        if completion.aborted is not None:
            await self._trip(step, completion.aborted, _REMEDIES[len(aborts)])
        answer = StepMessage(
            step=step.number,
            message=completion.message,
            usage=completion.usage,
            duration_s=completion.duration_s,
            temperature=options.temperature,
            thinking=options.thinking,
            aborted=aborted,
        )
        await self.record("step.message", answer)

    async def _answer(self, step: Step, options: ModelOptions) -> Completion:
        events = self._log.events
        # The date of the run's first event: the prompt must not change while the run goes on.
        system_prompt = self._profile.system_prompt(events[0].at.date())
        if step.answers:
            self._tell(step, Delta("restart"))
        try:
            return await self._model.complete(
                view(system_prompt, self._task.problem_statement, events),
                [function_schema(tool) for tool in self._profile.tools],
                options,
                lambda delta: self._tell(step, delta),
                AnswerGuard(self._guard),
            )
        except ModelError as error:
            exhausted = error.code == "context_length_exceeded"
            reason = StopReason.CONTEXT_EXHAUSTED if exhausted else StopReason.MODEL_ERROR
            raise _Stopped(reason, str(error)) from error

    async def _call(self, done: Sequence[Step], call: ToolCall) -> None:
        """The next call of the newest step: checked, announced, run, observed."""
        step = done[-1]
        intent_id = f"{step.number}-{len(step.results)}"
        if any(intent.intent_id == intent_id for intent in step.intents):
            await self._observe(step, call.id, intent_id, ToolResult(_INTERRUPTED, error=True))
            return
        cut = step.answers[-1].message.finish_reason == "length"
        checked = check(call, self._profile.tools, cut=cut)
        if isinstance(checked, ToolResult):
            await self._observe(step, call.id, None, checked)
            return
        await self.record("tool.intent", ToolIntent(step=step.number, intent_id=intent_id, call=call))
        begun = time.monotonic()
        refused = any(result.observation.text == _NOTHING_CHANGED for s in done for result in s.results)
        result, kept = await self._unless_stopped(self._perform(*checked, intent_id, may_refuse=not refused))
        await self._observe(step, call.id, intent_id, result, kept, time.monotonic() - begun)

    async def _perform(
        self, tool: Tool, arguments: BaseModel, intent_id: str, *, may_refuse: bool
    ) -> tuple[ToolResult, Snapshot | None]:
        """Run a tool and keep what it left behind."""
        try:
            result = await tool.run(
                arguments, ToolContext(self._sandbox, intent_id, self._task.limits.command_timeout_s)
            )
        except SandboxRejected as error:
            result = ToolResult(f"[error] {tool.name}: {error}", error=True)
        try:
            kept = await self._snapshot()
        except SandboxRejected as error:
            note = f"{result.text}\n[warning] the state of /workspace cannot be kept: {error}. Remove large files"
            return ToolResult(note, result.error, result.truncated_bytes, result.finished), None
        if result.finished and may_refuse and kept.tree == self._base_tree:
            return ToolResult(_NOTHING_CHANGED, error=True), kept
        return result, kept

    async def _observe(
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
        )
        await self.record("tool.completed", completed)

    async def _complete(self, step: Step) -> None:
        trees = [result.tree for result in step.results if result.tree is not None]
        completed = StepCompleted(
            step=step.number,
            tree=trees[-1] if trees else None,
            usage=sum((answer.usage for answer in step.answers), Usage()),
            duration_s=sum(answer.duration_s for answer in step.answers)
            + sum(result.observation.duration_s for result in step.results),
            malformed=not step.intents,
        )
        await self.record("step.completed", completed)

    async def _trip(self, step: Step, pattern: str, action: Literal["hotter", "thinking_off", "drop", "stop"]) -> None:
        await self.record("guard.tripped", GuardTripped(step=step.number, pattern=pattern, action=action))

    def _nudge(self, message: AssistantMessage) -> str:
        names = ", ".join(tool.name for tool in self._profile.tools)
        if message.finish_reason == "length":
            return f"[error] the answer was cut off at the token limit before a tool call. Be shorter; call {names}"
        return f"[error] the answer has no tool call; call one of {names}"

    def _tell(self, step: Step, delta: Delta) -> None:
        if self._on_delta:
            self._on_delta(step.number, delta)

    async def _unless_stopped(self, work: Coroutine[None, None, _T]) -> _T:
        """The work's result, unless the user cancels or the time is over first; the work is then cancelled too."""
        if self._cancelled.is_set():
            work.close()
            raise _cancelled()
        working = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({working, waiting}, timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise _cancelled() if waiting.done() else self._too_late()
        finally:
            working.cancel()
            waiting.cancel()
            await asyncio.wait({working, waiting})
            if not working.cancelled():
                working.exception()  # marks it as seen where it came too late to matter

    def _seconds_left(self) -> float:
        """Of the run as a whole: earlier workers' time counts."""
        begun = self._log.events[0].at if self._log.events else datetime.now(UTC)
        return max(0.0, self._task.limits.wall_clock_s - (datetime.now(UTC) - begun).total_seconds())

    def _too_late(self) -> _Stopped:
        return _Stopped(StopReason.WALL_CLOCK, f"the limit of {self._task.limits.wall_clock_s:g} s is reached")


_REMEDIES: tuple[Literal["hotter", "thinking_off", "stop"], ...] = ("hotter", "thinking_off", "stop")
"""What follows the first, the second and the third degenerate answer of a step."""


def _options(asked: ModelOptions, *, num_aborts: int, num_drops: int, num_answers: int) -> ModelOptions:
    """How to sample: as asked, but hotter after something went wrong, at last without thinking."""
    heat = _HOTTER * max(num_drops, min(num_aborts, 1))
    return asked.model_copy(
        update={
            "temperature": min(asked.temperature + heat, 2.0),
            "thinking": asked.thinking and num_aborts < 2,
            # The same seed would give the same answer again.
            "seed": None if asked.seed is None else asked.seed + num_answers,
        }
    )


def _num_drops(done: Sequence[Step]) -> int:
    """How many steps in a row, just before the newest, were taken out of the view."""
    return sum(1 for _ in takewhile(lambda step: step.dropped, reversed(done[:-1])))


def _says_nothing(message: AssistantMessage) -> bool:
    """Reasoning alone is no answer, unless the token limit explains it."""
    return not message.tool_calls and not message.content.strip() and message.finish_reason != "length"


def _spent(done: Sequence[Step]) -> int:
    usage = sum((answer.usage for step in done for answer in step.answers), Usage())
    return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens


def _cancelled() -> _Stopped:
    return _Stopped(StopReason.CANCELLED, "cancelled by the user")
