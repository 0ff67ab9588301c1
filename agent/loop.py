"""Model call, tool calls, observations: step after step until a stop reason, or until the user has to say something.

Everything the loop knows it reads from the log and from the user's words beside it, so a run that lost its worker, or
waited for days, goes on from its events alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from agent.answers import INTERRUPTED, REMEDIES, Written, num_drops, sampling, says_nothing, thinks
from agent.budget import left, reached, spent, working_since
from agent.compaction import NOTE_TOKENS, Plan, plan
from agent.config import Prices
from agent.errors import ModelError
from agent.events import (
    ApprovalDecided,
    ApprovalRequested,
    GuardTripped,
    MessageTaken,
    NoteWritten,
    QuestionAsked,
    RunResumed,
    RunStopped,
    StepCompleted,
    StepMessage,
    StepStarted,
    ToolCompleted,
    ToolIntent,
    ViewCompacted,
)
from agent.guard import AnswerGuard, GuardSettings, looping
from agent.history import view, without_reasoning
from agent.inbox import Inbox
from agent.log import Entry, Log, MemoryLog
from agent.model import Completion, Delta, Model
from agent.permissions.policy import Allowed, Asked, Decision, Denied
from agent.profiles.base import Profile, load_prompt
from agent.review import review
from agent.tools.ask_user import AskUserArguments
from agent.tools.base import Tool, ToolContext, ToolResult, function_schema
from agent.tools.check import check
from agent.tools.finish import summary_of
from agent.trajectory import Step, Trajectory, steps, tokens_name
from agent.types import (
    AssistantMessage,
    Keep,
    Limits,
    ModelOptions,
    Observation,
    Snapshot,
    Status,
    StopReason,
    TaskRequest,
    ToolCall,
    Usage,
    WaitingOn,
)
from sandbox.errors import SandboxRejected
from sandbox.types import Sandbox

MALFORMED_STEPS = 3
"""So many steps in a row without a call that could be dispatched end the run."""
DENIED_STEPS = 3
"""So many steps in a row in which the policy refused every call end the run."""
HELPER_STEPS = 20
"""Most steps of a sub-agent."""

_NOTHING_CHANGED = "[error] nothing was changed yet"
_INTERRUPTED_CALL = (
    "[error] the worker was restarted while this call ran. The call was not completed: /workspace was restored to "
    "its last snapshot, from before the call. Make the call again if it is still needed"
)
_INCOMPLETE = "incomplete"
"""Why an answer without content and call is sampled again, once."""

_T = TypeVar("_T")

Approve = Callable[[ToolCall], Decision]
"""Whether a call may be made: now, never, or only if the user says so."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What is the service's to set, and the same for all tasks."""

    guard: GuardSettings = field(default_factory=GuardSettings)
    prices: Prices | None = None
    context_tokens: int | None = None
    """Of the model; None where it is not known: the view is then never compacted."""
    waits_for_model: bool = False
    """A run whose model is away waits for it, instead of ending with ``model_error``."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The run goes on once the user has said something. Until then it needs no worker and no sandbox."""

    status: Literal[Status.WAITING, Status.PAUSED]
    waiting_on: WaitingOn | None
    """None for a paused run."""
    body: dict[str, Any]
    """What it is about."""


async def run_loop(
    task: TaskRequest,
    profile: Profile,
    model: Model,
    sandbox: Sandbox,
    log: Log,
    *,
    base_tree: str,
    snapshot: Callable[[], Awaitable[Snapshot]],
    patch: Callable[[str], Awaitable[str]],
    inbox: Inbox,
    approve: Approve = lambda call: Allowed(),
    on_delta: Callable[[int, Delta], None] | None = None,
    settings: LoopSettings | None = None,
    name: str = "",
    keep: Keep | None = None,
) -> StopReason | Wait:
    """Work on the task until a stop reason, which is also the ``run.stopped`` event, or until the user is needed.

    Goes on where the events of ``log`` end: ``sandbox`` then holds ``history.last_snapshot(log.events)``, or
    ``base_tree`` where that is None.

    Args:
        snapshot: keeps the work tree in ``sandbox`` as it is now; called after every tool call. Raises
            ``SandboxRejected`` where the work tree is too large to be kept; the model is told.
        patch: what a tree changes against the base.
        inbox: what the user says meanwhile; once it is ``cancelled``, the run ends within a second.
        on_delta: receives the number of the step and each piece of an answer, at once; nothing of it is stored.
        name: what the ids of commands begin with, where several runs share a sandbox.
        keep: gets all that a command wrote, as ``outputs/INTENT.txt``, where the model reads only a part of it, and the
            tokens of answers (``tokens_name``).

    Raises:
        SandboxError: the sandbox is lost; the caller may restore it elsewhere and call again.
        LeaseLost: another worker owns the run.
    """
    for event in log.events:
        if event.type == "run.stopped":
            return RunStopped.model_validate(event.body).stop_reason
    files = _Files(base_tree, snapshot, patch)
    run = _Run(
        task, profile, model, sandbox, log, files, inbox, approve, on_delta, settings or LoopSettings(), name, keep
    )
    try:
        while True:
            await run.advance()
    except _Stopped as stopped:
        run.record("run.stopped", RunStopped(stop_reason=stopped.reason, detail=stopped.detail))
        await run.settle()
        return stopped.reason
    except _Parked as parked:
        await run.settle()
        return parked.wait


class _Stopped(Exception):
    def __init__(self, reason: StopReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Parked(Exception):
    def __init__(self, waiting_on: WaitingOn | None, **body: Any) -> None:
        super().__init__(waiting_on)
        self.wait = Wait(Status.WAITING if waiting_on else Status.PAUSED, waiting_on, body)


@dataclass(frozen=True, slots=True)
class _Files:
    """The work tree, as the loop sees it."""

    base_tree: str
    snapshot: Callable[[], Awaitable[Snapshot]]
    patch: Callable[[str], Awaitable[str]]


class _Run:
    """One run while this worker has it.

    What happened is recorded at once and written before anything outside is touched again (a model asked, a tool run, a
    user waited for), so that a step is two transactions. What a worker that dies had not written follows from what it
    had, but for an answer of the model that nothing was done about.
    """

    def __init__(
        self,
        task: TaskRequest,
        profile: Profile,
        model: Model,
        sandbox: Sandbox,
        log: Log,
        files: _Files,
        inbox: Inbox,
        approve: Approve,
        on_delta: Callable[[int, Delta], None] | None,
        settings: LoopSettings,
        name: str,
        keep: Keep | None,
    ) -> None:
        self._task = task
        self._profile = profile
        self._model = model
        self._sandbox = sandbox
        self._log = log
        self._files = files
        self._inbox = inbox
        self._approve = approve
        self._on_delta = on_delta
        self._settings = settings
        self._name = name
        self._keep = keep
        self._trajectory = Trajectory(log.events)
        self._unwritten: list[Entry] = []
        self._spent = spent((event.type, event.body) for event in log.events)
        self._working_since = working_since(log.events, datetime.now(UTC))
        self._fresh = True

    async def advance(self) -> None:
        """Do the one thing that the log says is next."""
        done = self._trajectory.steps
        if self._fresh and done:
            self.record("run.resumed", RunResumed(step=0 if done[-1].completed else done[-1].number))
        self._fresh = False
        if done and done[-1].completed is None:
            await self._go_on(done)
            return
        if done:
            self._judge(done)
        self._check_limits(done)
        due = plan(self._log.events, done, self._settings.context_tokens, self._task.model.max_tokens)
        if due is not None:
            await self._tidy(done[-1], due)
            return
        self.record("step.started", StepStarted(step=len(done) + 1))

    def record(self, event: str, body: BaseModel) -> None:
        entry = event, body.model_dump(mode="json")
        self._unwritten.append(entry)
        self._trajectory.take(body)
        self._spent += spent([entry])

    async def settle(self) -> None:
        """Write what was recorded."""
        if self._unwritten:
            entries, self._unwritten = self._unwritten, []
            await self._log.extend(entries)

    async def _go_on(self, done: Sequence[Step]) -> None:
        """The next thing an open step lacks."""
        step, message = done[-1], done[-1].message
        if message is None:
            if not self._hear(done):
                await self._ask(done)
        elif not message.tool_calls and not step.results:
            self._observe(step, "", None, ToolResult(self._nudge(message), error=True))
        elif len(step.results) < len(message.tool_calls) and not step.finished:
            await self._call(done, message.tool_calls[len(step.results)])
        else:
            self._complete(step)

    def _judge(self, done: Sequence[Step]) -> None:
        """What the steps so far, all of them complete, mean for the run."""
        if done[-1].finished:
            if self._pending(done, finished=True):
                return
            raise _Stopped(StopReason.FINISHED, "the agent called finish")
        newest = done[-MALFORMED_STEPS:]
        if len(newest) == MALFORMED_STEPS and all(step.malformed for step in newest):
            raise _Stopped(StopReason.FORMAT_ERRORS, f"{MALFORMED_STEPS} answers in a row held no usable tool call")
        newest = done[-DENIED_STEPS:]
        if len(newest) == DENIED_STEPS and all(step.denied for step in newest):
            raise _Stopped(StopReason.POLICY_DENIED, f"every call of {DENIED_STEPS} answers in a row was refused")
        if done[-1].dropped:
            return
        if pattern := looping(done, self._settings.guard):
            survived = num_drops(done) >= self._settings.guard.max_drops
            self._trip(done[-1], pattern, "stop" if survived else "drop")
            if survived:
                raise _Stopped(StopReason.STUCK, f"the agent went round in circles ({pattern.replace('_', ' ')})")

    def _check_limits(self, done: Sequence[Step]) -> None:
        if self._inbox.cancelled.is_set():
            raise _cancelled()
        if self._inbox.paused:
            raise _Parked(None)
        if limit := reached(self._limits, len(done), self._spent, self._settings.prices):
            raise self._at_limit(*limit)
        if self._seconds_left() <= 0:
            raise self._too_late()

    # What the user says.

    def _pending(self, done: Sequence[Step], *, finished: bool, after: int = 0) -> list[MessageTaken]:
        """The user's messages whose turn it is; those that are queued only after ``finish``."""
        taken = {heard.message_id for step in done for heard in step.heard}
        taken |= {result.message_id for step in done for result in step.results if result.message_id}
        messages = self._inbox.messages(taken, after=after)
        return [
            MessageTaken(step=done[-1].number, message_id=message.message_id, text=message.text)
            for message in messages
            if finished or message.delivery != "queue"
        ]

    def _hear(self, done: Sequence[Step]) -> bool:
        """Put what the user said before the next answer; False where that was nothing."""
        self._inbox.interrupted.clear()
        messages = self._pending(done, finished=len(done) > 1 and done[-2].finished)
        for message in messages:
            self.record("message.taken", message)
        return bool(messages)

    def _refusal(self, step: Step, call: ToolCall, intent_id: str) -> ToolResult | None:
        """Why a call is not made, or None where it may be."""
        match self._approve(call):
            case Allowed():
                return None
            case Denied(reason):
                return ToolResult(f"[error] {call.name}: not allowed: {reason}", error=True, denied="policy")
            case Asked(parts):
                decision = self._decision(step, call, intent_id, tuple(part.text for part in parts))
                if decision.decision == "allow":
                    return None
                said = f"the user does not allow it: {decision.reason or 'no reason was given'}"
                return ToolResult(f"[error] {call.name}: {said}", error=True, denied="user")

    def _decision(self, step: Step, call: ToolCall, intent_id: str, parts: tuple[str, ...]) -> ApprovalDecided:
        """What the user decided about a call; asks and waits where that is not known."""
        approval_id = f"{self._log.events[0].run_id}-{intent_id}"
        if decided := self._inbox.decisions().get(approval_id):
            return decided
        if all(request.approval_id != approval_id for request in step.requests):
            request = ApprovalRequested(step=step.number, approval_id=approval_id, call=call, parts=parts)
            self.record("approval.requested", request)
        raise _Parked(WaitingOn.APPROVAL, approval_id=approval_id)

    async def _ask_user(self, done: Sequence[Step], call: ToolCall, question: AskUserArguments, intent_id: str) -> None:
        """The user's next message is what the call gives back."""
        step = done[-1]
        if all(asked.question_id != intent_id for asked in step.questions):
            options = tuple(question.options)
            asked = QuestionAsked(step=step.number, question_id=intent_id, text=question.question, options=options)
            self.record("question.asked", asked)
            await self.settle()
        answers = self._pending(done, finished=True, after=self._asked_at(intent_id))
        if not answers:
            raise _Parked(WaitingOn.QUESTION, question_id=intent_id, text=question.question)
        self._observe(step, call.id, None, ToolResult(answers[0].text, message_id=answers[0].message_id))

    def _asked_at(self, question_id: str) -> int:
        asked = (event for event in self._log.events if event.type == "question.asked")
        return next(event.seq for event in asked if event.body["question_id"] == question_id)

    # What the model says.

    async def _ask(self, done: Sequence[Step]) -> None:
        """One answer of the model. An aborted one is stored too and leaves the step open."""
        step = done[-1]
        aborts = [answer.aborted for answer in step.answers if answer.aborted not in (_INCOMPLETE, INTERRUPTED)]
        if len(aborts) >= len(REMEDIES):
            raise _Stopped(StopReason.STUCK, f"the answer degenerated again and again ({aborts[-1]})")
        options = sampling(
            self._task.model,
            thinking=thinks(self._task.model, done) and len(aborts) < 2,
            num_aborts=len(aborts),
            num_drops=num_drops(done),
            num_answers=len(step.answers),
        )
        completion = await self._answer(done, options)
        aborted = completion.aborted
        if aborted is None and says_nothing(completion.message):
            tried = any(answer.aborted != INTERRUPTED for answer in step.answers)
            aborted = None if tried else _INCOMPLETE
        if completion.aborted not in (None, INTERRUPTED):
            self._trip(step, str(completion.aborted), REMEDIES[len(aborts)])
        answer = StepMessage(
            step=step.number,
            message=completion.message,
            usage=completion.usage,
            duration_s=completion.duration_s,
            temperature=options.temperature,
            thinking=options.thinking is True,
            aborted=aborted,
        )
        if completion.tokens is not None and self._keep is not None:
            tokens = completion.tokens.model_dump_json().encode()
            await self._keep(tokens_name(step.number, len(step.answers)), tokens)
        self.record("step.message", answer)
        if not answer.message.tool_calls:
            await self.settle()  # To a conversation it is all that it waits for.

    async def _answer(self, done: Sequence[Step], options: ModelOptions) -> Completion:
        """The model's next answer, or as much of it as the user let it write."""
        step = done[-1]
        if step.answers:
            self._tell(step, Delta("restart"))
        written = Written()

        def hear(delta: Delta) -> None:
            written.add(delta)
            self._tell(step, delta)

        await self.settle()
        messages = view(self._system_prompt, self._task.problem_statement, self._log.events, done)
        asking = self._complete_chat(messages, self._profile.tools, options, hear)
        begun = time.monotonic()
        completion = await self._unless(self._inbox.interrupted, asking)
        return completion or written.completion(time.monotonic() - begun)

    async def _complete_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[Tool],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> Completion:
        schemas = [function_schema(tool) for tool in tools]
        try:
            return await self._model.complete(messages, schemas, options, on_delta, AnswerGuard(self._settings.guard))
        except ModelError as error:
            if error.away and self._settings.waits_for_model:
                raise _Parked(WaitingOn.CAPACITY, detail=str(error)) from error
            exhausted = error.code == "context_length_exceeded"
            reason = StopReason.CONTEXT_EXHAUSTED if exhausted else StopReason.MODEL_ERROR
            raise _Stopped(reason, str(error)) from error

    @property
    def _system_prompt(self) -> str:
        # The date of the run's first event: the prompt must not change while the run goes on.
        return self._profile.system_prompt(self._log.events[0].at.date())

    async def _tidy(self, newest: Step, due: Plan) -> None:
        """What is due between two steps so that the context suffices."""
        if due.action == "give_up":
            raise _Stopped(StopReason.CONTEXT_EXHAUSTED, "the view is as short as it can be, and fills the context")
        if due.note is None:
            await self._write_note(newest)
            return
        compacted = ViewCompacted(step=newest.number + 1, from_step=due.note.after_step + 1, note=due.note.text)
        self.record("view.compacted", compacted)
        await self.settle()

    async def _write_note(self, newest: Step) -> None:
        await self.settle()
        seen = view(self._system_prompt, self._task.problem_statement, self._log.events, self._trajectory.steps)
        messages = [*without_reasoning(seen), {"role": "user", "content": load_prompt("note")}]
        options = self._task.model.model_copy(update={"thinking": False, "max_tokens": NOTE_TOKENS})
        # The tools are shown as ever: endpoints keep the prompt's beginning only where all of it is the same.
        completion = await self._unless_stopped(self._complete_chat(messages, self._profile.tools, options))
        text = completion.message.content.strip() or "(no note was written)"
        self.record("note.written", NoteWritten(after_step=newest.number, text=text, usage=completion.usage))
        await self.settle()

    # What the tools do.

    async def _call(self, done: Sequence[Step], call: ToolCall) -> None:
        """The next call of the newest step: checked, allowed, announced, run, observed."""
        step = done[-1]
        intent_id = f"{step.number}-{len(step.results)}"
        if any(intent.intent_id == intent_id for intent in step.intents):
            self._observe(step, call.id, intent_id, ToolResult(_INTERRUPTED_CALL, error=True))
            return
        cut = step.answers[-1].message.finish_reason == "length"
        checked = check(call, self._profile.tools, cut=cut)
        if isinstance(checked, ToolResult):
            self._observe(step, call.id, None, checked)
            return
        tool, arguments = checked
        if isinstance(arguments, AskUserArguments):
            await self._ask_user(done, call, arguments, intent_id)
            return
        if refusal := self._refusal(step, call, intent_id):
            self._observe(step, call.id, None, refusal)
            return
        self.record("tool.intent", ToolIntent(step=step.number, intent_id=intent_id, call=call))
        await self.settle()
        begun = time.monotonic()
        result, kept = await self._unless_stopped(self._perform(done, tool, arguments, intent_id))
        self._observe(step, call.id, intent_id, result, kept, time.monotonic() - begun)

    async def _perform(
        self, done: Sequence[Step], tool: Tool, arguments: Any, intent_id: str
    ) -> tuple[ToolResult, Snapshot | None]:
        """Run a tool and keep what it left behind."""
        call_id = f"{self._name}{intent_id}"
        context = ToolContext(self._sandbox, call_id, self._task.limits.command_timeout_s, self._delegate)
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

    async def _delegate(self, question: str, intent_id: str) -> ToolResult:
        """A sub-agent's answer: a view of its own, tools that only read, and what is left of the run's budget."""
        helper = self._profile.helper
        assert helper is not None, self._profile.name
        request = self._task.model_copy(
            update={"problem_statement": question, "limits": self._left(), "on_limit": "stop", "review": False}
        )
        log = MemoryLog(run_id=f"{self._log.events[0].run_id}-{intent_id}")
        reason = await run_loop(
            request,
            helper,
            self._model,
            self._sandbox,
            log,
            base_tree="",
            snapshot=_keep_nothing,
            patch=_patch_of_nothing,
            inbox=Inbox(),
            settings=replace(self._settings, waits_for_model=False),
            name=f"{intent_id}-",
        )
        newest = steps(log.events)[-1].message
        answer = summary_of(newest.tool_calls[-1]) if newest and reason is StopReason.FINISHED else None
        text = answer or f"[error] the helper did not come to an answer ({reason})"
        return ToolResult(text, error=answer is None, usage=spent((event.type, event.body) for event in log.events))

    def _left(self) -> Limits:
        """What a sub-agent may use."""
        seconds = self._seconds_left()
        return left(self._limits, self._spent, self._settings.prices, max_steps=HELPER_STEPS, seconds=seconds)

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
            usage=result.usage,
        )
        self.record("tool.completed", completed)

    def _complete(self, step: Step) -> None:
        trees = [result.tree for result in step.results if result.tree is not None]
        completed = StepCompleted(
            step=step.number,
            tree=trees[-1] if trees else None,
            usage=sum((answer.usage for answer in step.answers), Usage()),
            duration_s=sum(answer.duration_s for answer in step.answers)
            + sum(result.observation.duration_s for result in step.results),
            malformed=step.malformed,
        )
        self.record("step.completed", completed)

    def _trip(self, step: Step, pattern: str, action: Literal["hotter", "thinking_off", "drop", "stop"]) -> None:
        self.record("guard.tripped", GuardTripped(step=step.number, pattern=pattern, action=action))

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
        result = await self._unless(asyncio.Event(), work)
        assert result is not None
        return result

    async def _unless(self, ended: asyncio.Event, work: Coroutine[None, None, _T]) -> _T | None:
        """As :meth:`_unless_stopped`, and None where ``ended`` is set first."""
        if self._inbox.cancelled.is_set():
            work.close()
            raise _cancelled()
        working = asyncio.ensure_future(work)
        ends = {asyncio.ensure_future(event.wait()) for event in (self._inbox.cancelled, ended)}
        try:
            await asyncio.wait({working, *ends}, timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if self._inbox.cancelled.is_set():
                raise _cancelled()
            if ended.is_set():
                return None
            raise self._too_late()
        finally:
            working.cancel()
            for end in ends:
                end.cancel()
            await asyncio.wait({working, *ends})
            if not working.cancelled():
                working.exception()  # marks it as seen where it came too late to matter

    @property
    def _limits(self) -> Limits:
        return self._inbox.raised(self._task.limits)

    def _seconds_left(self) -> float:
        """Of the run as a whole: earlier workers' time counts, that of waiting does not."""
        return max(0.0, self._limits.wall_clock_s - (datetime.now(UTC) - self._working_since).total_seconds())

    def _too_late(self) -> Exception:
        return self._at_limit(StopReason.WALL_CLOCK, f"the limit of {self._limits.wall_clock_s:g} s is reached")

    def _at_limit(self, reason: StopReason, detail: str) -> Exception:
        """The end of the run, or a wait where somebody may raise the limit."""
        if self._task.on_limit == "stop":
            return _Stopped(reason, detail)
        return _Parked(WaitingOn.BUDGET, stop_reason=reason, detail=detail)


async def _keep_nothing() -> Snapshot:
    return Snapshot("kept by the run that asked")


async def _patch_of_nothing(tree: str) -> str:
    return ""


def _cancelled() -> _Stopped:
    return _Stopped(StopReason.CANCELLED, "cancelled by the user")
