"""What stands in the body of the events that the loop writes.

| event           | body            |
|-----------------|-----------------|
| step.started    | StepStarted     |
| step.message    | StepMessage     |
| tool.intent     | ToolIntent      |
| tool.completed  | ToolCompleted   |
| step.completed  | StepCompleted   |
| guard.tripped   | GuardTripped    |
| run.resumed     | RunResumed      |
| run.stopped     | RunStopped      |
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from agent.types import AssistantMessage, Observation, StopReason, ToolCall, Usage


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    """``repetition``, ``reasoning_cap``, ``call_cap``, or ``same_result``, ``same_error``, ``alternation``."""
    action: Literal["hotter", "thinking_off", "drop", "stop"]
    """What was done: sample again, remove the step from the view, or end the run."""


class RunResumed(_Body):
    """A worker goes on with a run that another one began."""

    step: int
    """The step that was open, or 0."""


class RunStopped(_Body):
    stop_reason: StopReason
    detail: str = ""
    """One sentence for people: which limit, or what the endpoint said."""
