"""A task's log as an answer in a chat: what the agent thinks and does is its reasoning, what it says is the content."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent.api.web.entry import Answered, Called, Judged, Notice, entries
from agent.api.web.state import State
from agent.api.web.text import first_line
from agent.events import MessageTaken, StepMessage, ToolCompleted, ToolIntent
from agent.store.drafts import DraftPiece
from agent.tools.finish import summary_of
from agent.types import Event, Status, ToolCall, WaitingOn

Kind = Literal["reasoning", "content"]

_NOTED = frozenset(
    {"run.claimed", "run.released", "run.parked", "run.stopped", "sandbox.lost", "guard.tripped", "view.compacted"}
)
"""Changes of state that are told beside calls, results and verdicts."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that is added to an answer."""

    kind: Kind
    text: str


class Telling:
    """Tells events, and drafts of what they will hold, once each."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        """Ids of the user's messages that the agent has read."""
        self._begun: set[Kind] = set()
        self._drafts: dict[str, dict[Kind, str]] = {}
        """What was told of the answer that a run is writing."""
        self._answered: dict[str, int] = {}
        """The newest step that has its answer, by run."""
        self._finishes: dict[tuple[str | None, str], ToolCall] = {}

    def event(self, event: Event) -> Iterator[Piece]:
        match event.type:
            case "step.message":
                yield from self._message(event.run_id or "", StepMessage.model_validate(event.body))
            case "message.taken":
                self.heard.add(MessageTaken.model_validate(event.body).message_id)
            case "tool.intent" if (intent := ToolIntent.model_validate(event.body)).call.name == "finish":
                self._finishes[event.run_id, intent.intent_id] = intent.call
            case "tool.completed":
                yield from self._completed(event, ToolCompleted.model_validate(event.body))
            case _:
                yield from self._entry(event)

    def draft(self, piece: DraftPiece) -> Iterator[Piece]:
        """What is lost of a draft comes with its event."""
        run_id = piece.run_id
        if piece.kind == "tool_call" or piece.step <= self._answered.get(run_id, 0):
            return
        if piece.kind == "restart":
            if self._drafts.pop(run_id, None):
                yield self._line("The answer begins again.")
            return
        told = self._drafts.setdefault(run_id, {})
        known = told.get(piece.kind, "")
        fresh = piece.text[len(known) - piece.offset :] if piece.offset <= len(known) else ""
        if fresh:
            told[piece.kind] = known + fresh
            yield Piece(piece.kind, fresh) if known else self._block(piece.kind, fresh)

    def say(self, text: str) -> Iterator[Piece]:
        """Something for the user, as a paragraph."""
        if text.strip():
            yield self._block("content", text)

    def _message(self, run_id: str, said: StepMessage) -> Iterator[Piece]:
        told = self._drafts.pop(run_id, {})
        if said.aborted is not None:
            return
        self._answered[run_id] = said.step
        texts: tuple[tuple[Kind, str], ...] = (
            ("reasoning", said.message.reasoning_content or ""),
            ("content", said.message.content),
        )
        for kind, whole in texts:
            known = told.get(kind, "")
            if whole == known:
                continue
            if known and whole.startswith(known):
                yield Piece(kind, whole[len(known) :])
            elif whole.strip():
                yield self._block(kind, whole)

    def _completed(self, event: Event, done: ToolCompleted) -> Iterator[Piece]:
        if done.message_id is not None:
            self.heard.add(done.message_id)
        finish = self._finishes.pop((event.run_id, done.intent_id or ""), None)
        if finish is None:
            yield from self._entry(event)
        elif done.finished:
            yield from self.say(summary_of(finish))

    def _entry(self, event: Event) -> Iterator[Piece]:
        for entry in entries([event], {}):
            match entry.content:
                case Called(name=name, title=title):
                    yield self._line(f"› {name} {title}".rstrip())
                case Answered(text=text, ending=ending):
                    yield self._line(f"  {ending or first_line(text)}")
                case Judged(verdict=verdict):
                    yield self._line(f"Checks: {verdict.kind.replace('_', ' ')}")
                case Notice(text=text, detail=detail) if event.type in _NOTED:
                    yield self._line(f"{text}: {first_line(detail)}" if detail else text)

    def _block(self, kind: Kind, text: str) -> Piece:
        return self._joined(kind, "\n\n", text)

    def _line(self, text: str) -> Piece:
        return self._joined("reasoning", "\n", text)

    def _joined(self, kind: Kind, joint: str, text: str) -> Piece:
        if kind in self._begun:
            text = joint + text
        self._begun.add(kind)
        return Piece(kind, text)


def closing(state: State, page: str) -> str:
    """What stands at the end of an answer: what the task wants, and by which later messages find it again.

    Args:
        page: address of the task's page.
    """
    task = state.task
    return "\n\n".join(filter(None, [_wants(state), f"[Task {task.id}]({page}) {_stands(state)}"]))


def _wants(state: State) -> str:
    task = state.task
    if task.status.terminal:
        return "" if task.status is Status.SUCCEEDED else task.error or ""
    if state.question:
        return "\n".join([state.question.text, *(f"- {option}" for option in state.question.options)])
    if state.permissions:
        calls = "\n".join(f"    {asked.call.name} {asked.call.title}".rstrip() for asked in state.permissions)
        return f"This waits for your word:\n\n{calls}"
    return state.limit.detail if state.limit else ""


def _stands(state: State) -> str:
    task = state.task
    if task.status.terminal:
        verdict = f", {task.verdict.kind.replace('_', ' ')}" if task.verdict else ""
        reason = f" ({task.stop_reason.replace('_', ' ')})" if task.stop_reason and task.status is Status.FAILED else ""
        return f"{task.status}{reason}{verdict}."
    if task.status is Status.PAUSED:
        return "is paused; resume it on its page."
    if task.waiting_on in _WAITS:
        return _WAITS[task.waiting_on]
    how = f"is queued: {state.queue.reason}" if state.queue else "still works"
    return f"{how}. What you write here is told to it; its page shows how it goes."


_WAITS: dict[WaitingOn | None, str] = {
    WaitingOn.QUESTION: "waits for your answer; write it here.",
    WaitingOn.APPROVAL: "waits for your word; give it on its page.",
    WaitingOn.BUDGET: "waits for a higher limit; raise it on its page.",
}
