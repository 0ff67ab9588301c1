"""Model call, tool calls, observations: step after step until a stop reason, or until the user has to say something.

Everything the loop knows it reads from the log and from the user's words beside it, so a run that lost its worker, or
waited for days, goes on from its events alone.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence

from agent.answers import num_drops
from agent.compaction import Plan, plan
from agent.events import GuardTripped, RunResumed, RunStopped, StepCompleted, StepStarted, ViewCompacted
from agent.guard import looping
from agent.inbox import Inbox
from agent.log import Log
from agent.model import Model
from agent.permissions.policy import Allowed
from agent.profiles.base import Profile
from agent.steps.asking import Asking, OnDelta
from agent.steps.bounds import Bounds
from agent.steps.calls import Calls, Files
from agent.steps.ends import Parked, Stopped, Wait
from agent.steps.record import Record
from agent.steps.settings import LoopSettings
from agent.steps.subagent import SubAgent
from agent.steps.user import Approve, User
from agent.tools.base import Before
from agent.trajectory import Step
from agent.types import AssistantMessage, Keep, Snapshot, StopReason, TaskRequest, Usage
from sandbox.types import Sandbox

MALFORMED_STEPS = 3
"""So many steps in a row without a call that could be dispatched end the run."""
DENIED_STEPS = 3
"""So many steps in a row in which the policy refused every call end the run."""


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
    begun: Collection[str] = (),
    before: Before | None = None,
    approve: Approve = lambda call: Allowed(),
    on_delta: OnDelta | None = None,
    settings: LoopSettings | None = None,
    name: str = "",
    keep: Keep | None = None,
) -> StopReason | Wait:
    """Work on the task until a stop reason, which is also the ``run.stopped`` event, or until the user is needed.

    Goes on where the events of ``log`` end: ``sandbox`` then holds ``last_snapshot(log.events)``, or
    ``base_tree`` where that is None, and what calls without a result did since, where they are in ``begun``.

    Args:
        snapshot: keeps the work tree in ``sandbox`` as it is now; called after every tool call. Raises
            ``SandboxRejected`` where the work tree is too large to be kept; the model is told.
        patch: what a tree changes against the base.
        begun: ids of calls that earlier workers began in this very sandbox. One of them that has no result is made
            again under its id, by which the sandbox knows it; of any other the model is told.
        before: what a file held when the newest snapshot was taken; None where that is not known.
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
    settings, record = settings or LoopSettings(), Record(log)
    bounds, user = Bounds(task, inbox, record, settings.prices), User(record, inbox, approve)
    asking = Asking(task, profile, model, record, bounds, inbox, settings, on_delta, keep)
    helper = SubAgent(run_loop, record, task, profile.helper, model, sandbox, bounds, settings)
    files = Files(base_tree, snapshot, patch, before)
    calls = Calls(task, profile, sandbox, record, bounds, user, files, begun, helper.answer, name, keep)
    run = _Run(task, profile, record, bounds, user, asking, calls, settings)
    try:
        while True:
            await run.advance()
    except Stopped as stopped:
        record.add("run.stopped", RunStopped(stop_reason=stopped.reason, detail=stopped.detail))
        await record.write()
        return stopped.reason
    except Parked as parked:
        await record.write()
        return parked.wait


class _Run:
    """One run while this worker has it."""

    def __init__(
        self,
        task: TaskRequest,
        profile: Profile,
        record: Record,
        bounds: Bounds,
        user: User,
        asking: Asking,
        calls: Calls,
        settings: LoopSettings,
    ) -> None:
        self._task = task
        self._profile = profile
        self._record = record
        self._bounds = bounds
        self._user = user
        self._asking = asking
        self._calls = calls
        self._settings = settings
        self._fresh = True

    async def advance(self) -> None:
        """Do the one thing that the log says is next."""
        done = self._record.steps
        if self._fresh and done:
            resumed = RunResumed(step=0 if done[-1].completed else done[-1].number)
            self._record.add("run.resumed", resumed)
        self._fresh = False
        if done and done[-1].completed is None:
            await self._go_on(done)
            return
        if done:
            self._judge(done)
        self._bounds.check()
        due = plan(self._record.events, done, self._settings.context_tokens, self._task.model.max_tokens)
        if due is not None:
            await self._tidy(done[-1], due)
            return
        self._record.add("step.started", StepStarted(step=self._record.next_step))

    async def _go_on(self, done: Sequence[Step]) -> None:
        """The next thing an open step lacks."""
        step, message = done[-1], done[-1].message
        if message is None:
            if not self._user.hear(done):
                await self._asking.answer(done)
        elif not message.tool_calls and not step.results:
            self._calls.make_none(step, self._nudge(message))
        elif len(step.results) < len(message.tool_calls) and not step.finished:
            await self._calls.make(done, message.tool_calls[len(step.results)])
        else:
            self._complete(step)

    def _judge(self, done: Sequence[Step]) -> None:
        """What the steps so far, all of them complete, mean for the run."""
        if done[-1].finished:
            if self._user.pending(done, finished=True):
                return
            raise Stopped(StopReason.FINISHED, "the agent called finish")
        newest = done[-MALFORMED_STEPS:]
        if len(newest) == MALFORMED_STEPS and all(step.malformed for step in newest):
            raise Stopped(StopReason.FORMAT_ERRORS, f"{MALFORMED_STEPS} answers in a row held no usable tool call")
        newest = done[-DENIED_STEPS:]
        if len(newest) == DENIED_STEPS and all(step.denied for step in newest):
            raise Stopped(StopReason.POLICY_DENIED, f"every call of {DENIED_STEPS} answers in a row was refused")
        if done[-1].dropped:
            return
        if pattern := looping(done, self._settings.guard):
            survived = num_drops(done) >= self._settings.guard.max_drops
            tripped = GuardTripped(step=done[-1].number, pattern=pattern, action="stop" if survived else "drop")
            self._record.add("guard.tripped", tripped)
            if survived:
                raise Stopped(StopReason.STUCK, f"the agent went round in circles ({pattern.replace('_', ' ')})")

    async def _tidy(self, newest: Step, due: Plan) -> None:
        """What is due between two steps so that the context suffices."""
        if due.action == "give_up":
            raise Stopped(StopReason.CONTEXT_EXHAUSTED, "the view is as short as it can be, and fills the context")
        if due.note is None:
            await self._asking.note(newest)
            return
        compacted = ViewCompacted(step=newest.number + 1, from_step=due.note.after_step + 1, note=due.note.text)
        self._record.add("view.compacted", compacted)
        await self._record.write()

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
        self._record.add("step.completed", completed)

    def _nudge(self, message: AssistantMessage) -> str:
        names = ", ".join(tool.name for tool in self._profile.tools)
        if message.finish_reason == "length":
            return f"[error] the answer was cut off at the token limit before a tool call. Be shorter; call {names}"
        return f"[error] the answer has no tool call; call one of {names}"
