"""What stands in the body of the events that the loop writes, and of those in which the user speaks to it.

| of the loop        | body              | | of the user      | body            |
|--------------------|-------------------|-|------------------|-----------------|
| step.started       | StepStarted       | | message.added    | MessageAdded    |
| step.message       | StepMessage       | | message.removed  | MessageRemoved  |
| tool.intent        | ToolIntent        | | task.paused      | nothing         |
| tool.completed     | ToolCompleted     | | task.resumed     | nothing         |
| step.completed     | StepCompleted     | | task.updated     | TaskUpdated     |
| guard.tripped      | GuardTripped      | | budget.granted   | BudgetGranted   |
| message.taken      | MessageTaken      | | approval.decided | ApprovalDecided |
| approval.requested | ApprovalRequested |
| question.asked     | QuestionAsked     |
| note.written       | NoteWritten       |
| view.compacted     | ViewCompacted     |
| cache.fell         | CacheFell         |
| run.equipped       | RunEquipped       |
| run.resumed        | RunResumed        |
| run.rewound        | RunRewound        |
| run.stopped        | RunStopped        |
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.errors import StoreTooNew
from agent.stored import stored
from agent.types import AssistantMessage, Event, Observation, Priority, StopReason, ToolCall, Usage, Verdict

Restore = Literal["files", "conversation", "both"]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


MediaType = Literal["image/png", "image/jpeg", "image/webp"]
"""Of images that models are shown."""


class KeptImage(_Body):
    """An image that a user said, kept as an artifact."""

    task_id: str
    """To which task it was said: its runs keep it, forks of it only name it."""
    name: str
    media_type: MediaType


class StepStarted(_Body):
    step: int
    """Steps count from 1."""


class StepMessage(_Body):
    """One answer of the model, kept exactly. A step has several where an answer was aborted and sampled again."""

    step: int
    message: AssistantMessage
    usage: Usage
    duration_s: float
    temperature: float
    thinking: bool
    aborted: str | None = None
    """Why the answer does not count, such as ``repetition``; None for the one that does."""
    repetition: float | None = None
    """How much of its reasoning repeats itself (:func:`agent.guard.repetition`), 0 to 1; None where that is too short
    to say."""
    cached_share: float | None = None
    """Share of the prompt that the endpoint had in its cache; None where it did not count the prompt."""
    flags: tuple[str, ...] = ()
    """What the endpoint says happened in it, such as ``tool_call_in_reasoning`` (docs/model_server.md)."""


class ToolIntent(_Body):
    """A call is about to be dispatched. Without its ``tool.completed``, nobody knows how far it came."""

    step: int
    intent_id: str
    """Unique in the run; the ``request_id`` of the command in the sandbox."""
    call: ToolCall


class ToolCompleted(_Body):
    """What the model reads. A call that could not be dispatched has no intent before this.

    An observation with an empty ``call_id`` answers the message as a whole, which had no call.
    """

    step: int
    intent_id: str | None
    observation: Observation
    tree: str | None = None
    """Git tree of the work tree right after the call; None where none was taken."""
    checkpoint: str | None = None
    """The whole work tree then, in the run's store of checkpoints; None where it is not there."""
    finished: bool = False
    """The call ended the run."""
    reviewed: bool = False
    """The call would have ended the run; the model was shown its patch and the checks instead."""
    denied: Literal["policy", "user"] | None = None
    """Who did not allow the call; None where it was not refused."""
    message_id: str | None = None
    """The user's message that answered the call."""
    images: tuple[KeptImage, ...] = ()
    """Of that message."""
    usage: Usage | None = None
    """What a sub-agent cost."""


class StepCompleted(_Body):
    step: int
    tree: str | None
    """Git tree of the work tree after the step; None where no tool ran."""
    usage: Usage
    """Over all answers of the step."""
    duration_s: float
    malformed: bool = False
    """No call of the step could be dispatched, or there was none."""


class GuardTripped(_Body):
    step: int
    pattern: str
    """In an answer ``repetition``, ``reasoning_cap``, ``call_cap``; across steps ``same_result``, ``same_error``,
    ``alternation``, ``rotation``."""
    action: Literal["hotter", "thinking_off", "drop", "stop"]
    """What was done: sample again, remove the step from the view, or end the run."""


class CacheFell(_Body):
    """The endpoint found less than half as much of the prompt in its cache as for the answer before, although the view
    only grew (:mod:`agent.drift`). Noted once in a run."""

    step: int
    cached_tokens: int
    """Of this answer's prompt."""
    cached_before: int
    """Of the prompt before."""


class RunResumed(_Body):
    """A worker goes on with a run that another one began."""

    step: int
    """The step that was open, or 0."""


class RunRewound(_Body):
    """A user took steps back, while no worker had the run. The log keeps them; the model sees them no more."""

    to_step: int
    """The last step that stands; 0 for none."""
    restore: Restore
    tree: str | None
    """Git tree of the work tree from now on; None for that of the base."""
    checkpoint: str | None
    last_step: int
    """The newest step there ever was: numbers are not used again."""
    usage: Usage
    """Of the steps that were taken back: it was used all the same."""


class OfferedSkill(_Body):
    name: str
    description: str


class RunEquipped(_Body):
    """What the project adds to the agent's tools. Said once, before the first step: the prompt stays as it is while the
    run goes on, whatever becomes of the project's skills and servers."""

    skills: tuple[OfferedSkill, ...] = ()
    servers: tuple[str, ...] = ()
    """Names of servers whose tools can be called."""


class RunStopped(_Body):
    stop_reason: StopReason
    detail: str = ""
    """One sentence for people: which limit, or what the endpoint said."""


class VerdictReached(_Body):
    verdict: Verdict


class MessageTaken(_Body):
    """A message of the user stands in the view from now on, before the answer of ``step``."""

    step: int
    message_id: str
    text: str
    images: tuple[KeptImage, ...] = ()


class ApprovalRequested(_Body):
    """The call waits until the user decides."""

    step: int
    approval_id: str
    """Unique in the task."""
    call: ToolCall
    parts: tuple[str, ...]
    """What of the call needs the user's word."""


class QuestionAsked(_Body):
    """The next message of the user is the answer."""

    step: int
    question_id: str
    text: str
    options: tuple[str, ...] = ()


class NoteWritten(_Body):
    """The model's note about its work so far: kept outside the view until the view is compacted."""

    after_step: int
    text: str
    usage: Usage


class ViewCompacted(_Body):
    """From ``step`` on, the view is the problem, what the user said, ``note``, and the steps from ``from_step`` on."""

    step: int
    from_step: int
    note: str


class MessageAdded(_Body):
    message_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    text: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    delivery: Literal["steer", "queue", "interrupt"] = "steer"
    """Before the next model call; after the agent called ``finish``; or at once, for which a model call under way is
    given up."""
    images: tuple[KeptImage, ...] = ()


class MessageRemoved(_Body):
    """Takes a message back that is in no view yet."""

    message_id: str


class TaskUpdated(_Body):
    """None leaves it as it is."""

    title: Annotated[str, StringConstraints(max_length=256)] | None = None
    labels: dict[str, str] | None = None
    priority: Priority | None = None


class BudgetGranted(_Body):
    """New limits, where they are higher than the old ones."""

    max_steps: int | None = Field(None, gt=0, le=10_000)
    max_tokens: int | None = Field(None, gt=0)
    wall_clock_s: float | None = Field(None, gt=0, le=86_400)
    max_cost: float | None = Field(None, gt=0)
    max_error_steps: int | None = Field(None, gt=0, le=1000)
    sandbox_lifetime_s: float | None = Field(None, gt=0, le=86_400)


class ApprovalDecided(_Body):
    approval_id: str
    decision: Literal["allow", "deny"]
    scope: Literal["once", "task"] = "once"
    """``task``: what was asked for is allowed for the rest of the task."""
    reason: Annotated[str, StringConstraints(max_length=2000)] = ""
    """The model reads it where the call is denied."""
    edited_args: Annotated[str, StringConstraints(max_length=100_000)] | None = None
    """JSON of the arguments with which the call is made instead, this once; None for the model's own."""


BODIES: Mapping[str, type[BaseModel] | None] = {
    "step.started": StepStarted,
    "step.message": StepMessage,
    "tool.intent": ToolIntent,
    "tool.completed": ToolCompleted,
    "step.completed": StepCompleted,
    "guard.tripped": GuardTripped,
    "message.taken": MessageTaken,
    "approval.requested": ApprovalRequested,
    "question.asked": QuestionAsked,
    "note.written": NoteWritten,
    "view.compacted": ViewCompacted,
    "cache.fell": CacheFell,
    "run.equipped": RunEquipped,
    "run.resumed": RunResumed,
    "run.rewound": RunRewound,
    "run.stopped": RunStopped,
    "verdict.reached": VerdictReached,
    "message.added": MessageAdded,
    "message.removed": MessageRemoved,
    "task.paused": None,
    "task.resumed": None,
    "task.updated": TaskUpdated,
    "budget.granted": BudgetGranted,
    "approval.decided": ApprovalDecided,
    "task.submitted": None,
    "task.cancel_requested": None,
    "run.claimed": None,
    "run.forked": None,
    "run.parked": None,
    "run.requeued": None,
    "run.provisioned": None,
    "setup.completed": None,
    "sandbox.lost": None,
    "reproduction.written": None,
    "attempts.judged": None,
    "run.released": None,
    "run.finished": None,
    "task.finished": None,
}
"""All there are, with those of :mod:`agent.store.base`; None where more in a body than is known changes nothing."""


def check_known(events: Iterable[Event]) -> None:
    """
    Raises:
        StoreTooNew: what one says, this release does not know.
    """
    for event in events:
        what = f"event {event.seq} of task {event.task_id}"
        if event.type not in BODIES:
            raise StoreTooNew(f"{what} is {event.type}, which this release does not know; a newer one wrote it")
        if body := BODIES[event.type]:
            stored(body, what, event.body)
