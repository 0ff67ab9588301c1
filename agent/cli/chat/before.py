"""What the folder was before each call of a turn, with what the user changed since the call before it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.cli.chat.journal import Journal, Kept, TurnBegan
from agent.events import ToolCompleted, ToolIntent
from agent.types import Event, ToolCall


@dataclass(frozen=True, slots=True)
class Changed:
    """A call that changed files."""

    call: ToolCall
    before: str
    """Tree of the folder just before."""


class BeforeCalls:
    """Notes the folder before a call where it is not what the call before it left."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._intent_id = self._known = ""

    def event(self, event: Event) -> None:
        """Something was stored about the turn that is under way."""
        match event.type:
            case "tool.intent":
                self._intent_id = ToolIntent.model_validate(event.body).intent_id
            case "tool.completed":
                self._known = ToolCompleted.model_validate(event.body).tree or self._known

    def tree(self, tree: str) -> None:
        """The folder is this, and something is about to be done to it."""
        intent_id, self._intent_id = self._intent_id, ""  # What comes later in a call, it may have changed itself.
        if intent_id and tree != self._known:
            task_id = self._journal.state.turns[-1].task_id
            self._journal.add(Kept(task_id=task_id, intent_id=intent_id, tree=tree))


def changes(turn: TurnBegan, events: Iterable[Event], kept: Iterable[Kept]) -> Iterator[Changed]:
    """The calls of a turn that changed files, in their order."""
    noted = {line.intent_id: line.tree for line in kept if line.task_id == turn.task_id}
    now, calls = turn.before, dict[str, ToolCall]()
    for event in events:
        match event.type:
            case "tool.intent":
                intent = ToolIntent.model_validate(event.body)
                calls[intent.intent_id] = intent.call
            case "tool.completed":
                done = ToolCompleted.model_validate(event.body)
                if done.intent_id is None or done.tree is None:
                    continue
                before, now = noted.get(done.intent_id, now), done.tree
                if before != now:
                    yield Changed(calls[done.intent_id], before)
