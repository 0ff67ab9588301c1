"""What a run did, step by step, read from its events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent.events import GuardTripped, StepCompleted, StepMessage, StepStarted, ToolCompleted, ToolIntent
from agent.types import AssistantMessage, Event, Snapshot


@dataclass(frozen=True, slots=True)
class Step:
    """One model call with its tool calls and observations, as far as it came."""

    number: int
    answers: tuple[StepMessage, ...] = ()
    """Aborted ones too; at most the last one counts."""
    intents: tuple[ToolIntent, ...] = ()
    results: tuple[ToolCompleted, ...] = ()
    trips: tuple[GuardTripped, ...] = ()
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
    def dropped(self) -> bool:
        """The guard took this step out of the view."""
        return any(trip.action == "drop" for trip in self.trips)


def steps(events: Iterable[Event]) -> tuple[Step, ...]:
    """The steps of a run in order; the last one may be open."""
    found: dict[int, Step] = {}
    for event in events:
        reader = _READERS.get(event.type)
        if reader is None:
            continue
        part = reader.model_validate(event.body)
        found[part.step] = _with(found.get(part.step) or Step(part.step), part)
    return tuple(found.values())


def last_snapshot(events: Sequence[Event]) -> Snapshot | None:
    """The newest state of the work tree, to restore a sandbox from; None where there is none yet."""
    results = (result for step in steps(events) for result in step.results)
    kept = [Snapshot(result.tree, result.checkpoint) for result in results if result.tree is not None]
    return kept[-1] if kept else None


def last_tree(events: Sequence[Event]) -> str | None:
    """Git tree of the newest state; None where there is none yet."""
    newest = last_snapshot(events)
    return newest.tree if newest else None


_Part = StepStarted | StepMessage | ToolIntent | ToolCompleted | StepCompleted | GuardTripped

_READERS: dict[str, type[_Part]] = {
    "step.started": StepStarted,
    "step.message": StepMessage,
    "tool.intent": ToolIntent,
    "tool.completed": ToolCompleted,
    "step.completed": StepCompleted,
    "guard.tripped": GuardTripped,
}


def _with(step: Step, part: _Part) -> Step:
    match part:
        case StepMessage():
            return replace(step, answers=(*step.answers, part))
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
