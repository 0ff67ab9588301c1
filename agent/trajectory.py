"""What a run did, step by step, read from its events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel

from agent.events import (
    ApprovalRequested,
    GuardTripped,
    MessageTaken,
    QuestionAsked,
    RunRewound,
    StepCompleted,
    StepMessage,
    StepStarted,
    ToolCompleted,
    ToolIntent,
)
from agent.types import AssistantMessage, Event, Snapshot


@dataclass(frozen=True, slots=True)
class Step:
    """One model call with its tool calls and observations, as far as it came."""

    number: int
    heard: tuple[MessageTaken, ...] = ()
    """What the user said just before the answer."""
    answers: tuple[StepMessage, ...] = ()
    """Aborted ones too; at most the last one counts."""
    intents: tuple[ToolIntent, ...] = ()
    results: tuple[ToolCompleted, ...] = ()
    trips: tuple[GuardTripped, ...] = ()
    requests: tuple[ApprovalRequested, ...] = ()
    questions: tuple[QuestionAsked, ...] = ()
    completed: StepCompleted | None = None

    @property
    def message(self) -> AssistantMessage | None:
        """The answer that counts; None while there is none."""
        return self.answers[-1].message if self.answers and self.answers[-1].aborted is None else None

    @property
    def finished(self) -> bool:
        """The agent called ``finish``, and it was accepted."""
        return any(result.finished for result in self.results)

    @property
    def malformed(self) -> bool:
        """Nothing in the answer was a call that could be made."""
        return not self.intents and not self.questions and not any(result.denied for result in self.results)

    @property
    def denied(self) -> bool:
        """The policy refused every call."""
        return bool(self.results) and all(result.denied == "policy" for result in self.results)

    @property
    def failed(self) -> bool:
        """Nothing but errors came of its calls."""
        return bool(self.results) and all(result.observation.error for result in self.results)

    @property
    def dropped(self) -> bool:
        """The guard took this step out of the view."""
        return any(trip.action == "drop" for trip in self.trips)


class Trajectory:
    """The steps of a run, as its events come in."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._steps: dict[int, Step] = {}
        self._last_step = 0
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in the run's next event; those that belong to no step change nothing."""
        if reader := _READERS.get(event.type):
            self.take(reader.model_validate(event.body))

    def take(self, part: BaseModel) -> None:
        """As :meth:`add`, with what stands in the event's body."""
        if isinstance(part, RunRewound):
            self._last_step = part.last_step
            if part.restore != "files":
                self._steps = {number: step for number, step in self._steps.items() if number <= part.to_step}
        elif isinstance(part, _Part):
            self._steps[part.step] = _with(self._steps.get(part.step) or Step(part.step), part)
            self._last_step = max(self._last_step, part.step)

    @property
    def steps(self) -> tuple[Step, ...]:
        """In order; the last one may be open."""
        return tuple(self._steps.values())

    @property
    def next_number(self) -> int:
        """Of a step that follows: one more than any had, also of those that were taken back."""
        return self._last_step + 1


def steps(events: Iterable[Event]) -> tuple[Step, ...]:
    """The steps of a run in order; the last one may be open."""
    return Trajectory(events).steps


def standing(events: Sequence[Event]) -> Sequence[Event]:
    """The events of a run without those of steps that were taken back."""
    kept: Sequence[Event] = events
    for number, event in enumerate(events):
        if event.type == "run.rewound" and event.body["restore"] != "files":
            to_step = event.body["to_step"]
            before = {earlier.seq for earlier in events[:number] if belongs_after(earlier, to_step)}
            kept = [event for event in kept if event.seq not in before]
    return kept


def belongs_after(event: Event, step: int) -> bool:
    """To a later step, or to what was made of one."""
    match event.type:
        case "note.written":
            return int(event.body["after_step"]) > step
        case "view.compacted":
            return int(event.body["step"]) > step + 1
        case kind:
            return kind in _READERS and kind != "run.rewound" and int(event.body["step"]) > step


def up_to(events: Sequence[Event], seq: int) -> tuple[Event, ...]:
    """What another run needs of these events to go on where this one was at ``seq``: its complete steps, and its view.

    Checkpoints are left out: they are this run's alone. The trees are the task's.
    """
    known = [event for event in standing([event for event in events if event.seq <= seq]) if event.type in _CARRIED]
    ends = [
        position for position, event in enumerate(known, start=1) if event.type in ("step.completed", "run.rewound")
    ]
    carried = known[: ends[-1]] if ends else []
    return tuple(
        event.model_copy(update={"body": event.body | {"checkpoint": None}}) if "checkpoint" in event.body else event
        for event in carried
    )


def tokens_name(step: int, answer: int) -> str:
    """Under which name the tokens of a step's answer are kept; answers count from 0, aborted ones too."""
    return f"tokens/{step}-{answer}.json"


def last_snapshot(events: Sequence[Event]) -> Snapshot | None:
    """The newest state of the work tree, to restore a sandbox from; None where there is none yet."""
    kept = None
    for event in events:
        put_back = event.type == "run.rewound"
        if put_back or (event.type == "tool.completed" and event.body.get("tree") is not None):
            tree = event.body["tree"]
            kept = None if tree is None else Snapshot(tree, event.body.get("checkpoint"))
    return kept


def last_tree(events: Sequence[Event]) -> str | None:
    """Git tree of the newest state; None where there is none yet."""
    newest = last_snapshot(events)
    return newest.tree if newest else None


_Part = (
    StepStarted
    | MessageTaken
    | StepMessage
    | ApprovalRequested
    | QuestionAsked
    | ToolIntent
    | ToolCompleted
    | StepCompleted
    | GuardTripped
)

_READERS: dict[str, type[_Part | RunRewound]] = {
    "step.started": StepStarted,
    "message.taken": MessageTaken,
    "step.message": StepMessage,
    "approval.requested": ApprovalRequested,
    "question.asked": QuestionAsked,
    "tool.intent": ToolIntent,
    "tool.completed": ToolCompleted,
    "step.completed": StepCompleted,
    "guard.tripped": GuardTripped,
    "run.rewound": RunRewound,
}


_CARRIED = (_READERS.keys() - {"approval.requested"}) | {"note.written", "view.compacted"}
"""What was asked about a call that was since made or refused is of no more use."""


def _with(step: Step, part: _Part) -> Step:
    match part:
        case MessageTaken():
            return replace(step, heard=(*step.heard, part))
        case StepMessage():
            return replace(step, answers=(*step.answers, part))
        case ApprovalRequested():
            return replace(step, requests=(*step.requests, part))
        case QuestionAsked():
            return replace(step, questions=(*step.questions, part))
        case ToolIntent():
            return replace(step, intents=(*step.intents, part))
        case ToolCompleted():
            return replace(step, results=(*step.results, part))
        case GuardTripped():
            return replace(step, trips=(*step.trips, part))
        case StepCompleted():
            return replace(step, completed=part)
        case StepStarted():
            return step
