"""What each event of a log looks like to a reader.

Every event that a person can use becomes an :class:`Entry`; one whose type is not known here is shown as it is, so
that nothing a task did stays hidden.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from agent.api.web.text import first_line
from agent.events import (
    ApprovalDecided,
    ApprovalRequested,
    BudgetGranted,
    CacheFell,
    GuardTripped,
    KeptImage,
    MessageAdded,
    NoteWritten,
    QuestionAsked,
    RunRewound,
    RunStopped,
    StepMessage,
    StepStarted,
    ToolCompleted,
    ToolIntent,
    ViewCompacted,
)
from agent.types import Event, ToolCall, Usage, Verdict

Tone = Literal["quiet", "busy", "good", "warning", "bad"]

_SILENT = frozenset(
    {"step.completed", "run.provisioned", "run.finished", "run.requeued", "run.resumed", "message.taken"}
)
"""What the entries around them say already."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Words of a user, or of the agent for the user."""

    kind: ClassVar[str] = "asked"
    text: str
    label: str
    images: tuple[KeptImage, ...] = ()


@dataclass(frozen=True, slots=True)
class Thinking:
    """A step began; shown while nothing follows."""

    kind: ClassVar[str] = "thinking"
    step: int


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the model."""

    kind: ClassVar[str] = "said"
    step: int
    thought: str
    text: str
    usage: Usage
    duration_s: float
    aborted: str | None


@dataclass(frozen=True, slots=True)
class Called:
    """A call was dispatched."""

    kind: ClassVar[str] = "called"
    name: str
    title: str
    """What it is about in one line: the command, the file."""
    text: str
    """The rest of it: further lines of a command, other arguments; may be empty."""
    removed: tuple[str, ...] = ()
    """Lines an edit takes away."""
    added: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What the call gave back."""

    kind: ClassVar[str] = "answered"
    text: str
    ending: str
    """The last line, which says how it went."""
    num_lines: int
    error: bool
    duration_s: float
    truncated_bytes: int
    malformed: bool
    """No call: the model's message could not be understood."""


@dataclass(frozen=True, slots=True)
class Judged:
    kind: ClassVar[str] = "judged"
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Permission:
    """The agent may not go on before somebody allows a call."""

    kind: ClassVar[str] = "permission"
    approval_id: str
    call: Called
    parts: tuple[str, ...]
    """What of it needs a person's word."""
    arguments: Mapping[str, Any]
    """To correct; empty where they cannot be read."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A change of state, in a line."""

    kind: ClassVar[str] = "notice"
    text: str
    tone: Tone = "quiet"
    detail: str = ""


Content = Asked | Thinking | Said | Called | Answered | Judged | Permission | Notice


@dataclass(frozen=True, slots=True)
class Entry:
    seq: int
    at: datetime
    attempt: int | None
    """None for what belongs to the task as a whole."""
    content: Content


def entries(events: Iterable[Event], attempts: Mapping[str, int]) -> list[Entry]:
    """
    Args:
        attempts: number of each run.
    """
    return [
        Entry(event.seq, event.at, attempts.get(event.run_id or ""), content)
        for event in events
        if event.type not in _SILENT and (content := _content(event)) is not None
    ]


def _content(event: Event) -> Content | None:
    body = event.body
    match event.type:
        case "task.submitted":
            return Asked(body["request"]["problem_statement"], "Task")
        case "message.added":
            message = MessageAdded.model_validate(body)
            return Asked(message.text, _DELIVERIES[message.delivery], message.images)
        case "question.asked":
            return Asked(QuestionAsked.model_validate(body).text, "The agent asks")
        case "note.written":
            return Asked(NoteWritten.model_validate(body).text, "The agent's note to itself")
        case "step.started":
            return Thinking(StepStarted.model_validate(body).step)
        case "step.message":
            return _said(StepMessage.model_validate(body))
        case "tool.intent":
            return called(ToolIntent.model_validate(body).call)
        case "tool.completed":
            return _answered(ToolCompleted.model_validate(body))
        case "verdict.reached":
            return Judged(Verdict.model_validate(body["verdict"]))
        case "approval.requested":
            return permission(ApprovalRequested.model_validate(body))
        case _:
            return _notice(event)


_DELIVERIES = {
    "steer": "You, for the next step",
    "queue": "You, for when this is done",
    "interrupt": "You, at once",
}


def permission(request: ApprovalRequested) -> Permission:
    return Permission(request.approval_id, called(request.call), request.parts, _arguments(request.call) or {})


def _said(event: StepMessage) -> Said | None:
    said = event.message
    thought = (said.reasoning_content or "").strip()
    return Said(event.step, thought, said.content.strip(), event.usage, event.duration_s, event.aborted)


def called(call: ToolCall) -> Called:
    """A call in the words of its tool; one that cannot be read is shown as the model wrote it."""
    arguments = _arguments(call)
    if arguments is None:
        return Called(call.name, "", call.arguments)
    match call.name, arguments:
        case "bash", {"command": str(command)}:
            first, _, rest = command.strip("\n").partition("\n")
            return Called("bash", first_line(first, 400) or "(nothing)", command if rest or len(first) > 400 else "")
        case "str_replace", {"path": str(path), "old_str": str(old), "new_str": str(new)}:
            return Called("edit", path, "", _edited(old), _edited(new))
        case "finish", _:
            return Called("finish", "", str(arguments.get("summary", "")))
        case _:
            return Called(call.name, "", json.dumps(arguments, indent=2, ensure_ascii=False))


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    try:
        return TypeAdapter(dict[str, Any]).validate_json(call.arguments or "{}")
    except ValidationError:
        return None


def _edited(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


def _answered(event: ToolCompleted) -> Answered:
    seen = event.observation
    body, _, ending = seen.text.rstrip("\n").rpartition("\n")
    if not (ending.startswith("[") and ending.endswith("]")):
        body, ending = seen.text, ""
    num_lines = len(body.split("\n")) if body else 0
    return Answered(
        body,
        ending.strip("[]"),
        num_lines,
        seen.error,
        seen.duration_s,
        seen.truncated_bytes,
        malformed=event.intent_id is None,
    )


def _notice(event: Event) -> Notice:
    body = event.body
    match event.type:
        case "run.claimed":
            verb = "began" if event.generation == 1 else "goes on"
            return Notice(f"Attempt {body['attempt']} {verb}", detail=f"on {body['worker_id']}")
        case "run.released":
            return Notice("The worker stopped; another goes on", "warning")
        case "sandbox.lost":
            return Notice("The sandbox was lost; a new one starts from the last checkpoint", "warning", body["detail"])
        case "guard.tripped":
            tripped = GuardTripped.model_validate(body)
            pattern = tripped.pattern.replace("_", " ")
            return Notice(f"The guard saw {pattern}: {_GUARD_ACTIONS[tripped.action]}", "warning")
        case "cache.fell":
            fell = CacheFell.model_validate(body)
            found = f"{fell.cached_tokens:,} tokens of the prompt, {fell.cached_before:,} the time before"
            return Notice("The endpoint no longer finds in its cache what it read before", "warning", found)
        case "run.stopped":
            stopped = RunStopped.model_validate(body)
            reason = stopped.stop_reason.replace("_", " ")
            tone: Tone = "quiet" if stopped.stop_reason == "finished" else "warning"
            return Notice(f"The agent stopped: {reason}. Its work is checked in a fresh sandbox", tone, stopped.detail)
        case "task.cancel_requested":
            return Notice("Cancelling was asked for", "warning")
        case "task.paused":
            return Notice("Pausing was asked for", "warning")
        case "task.resumed":
            return Notice("Resumed")
        case "run.parked":
            waits = body["waiting_on"]
            text = f"Waits for {_WAITS.get(waits, waits)}" if waits else "Paused"
            return Notice(text, "warning", str(body.get("detail", "")))
        case "budget.granted":
            granted = BudgetGranted.model_validate(body).model_dump(exclude_none=True)
            raised = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in granted.items())
            return Notice("The limits were raised", detail=raised)
        case "approval.decided":
            decided = ApprovalDecided.model_validate(body)
            words = "Allowed for the rest of the task" if decided.scope == "task" else "Allowed once"
            if decided.edited_args is not None:
                words = "Allowed with changes"
            return Notice(words if decided.decision == "allow" else "Denied", detail=decided.reason)
        case "run.rewound":
            rewound = RunRewound.model_validate(body)
            return Notice(f"Back to step {rewound.to_step}: {_RESTORED[rewound.restore]}", "warning")
        case "view.compacted":
            compacted = ViewCompacted.model_validate(body)
            return Notice(f"The conversation was shortened: steps before {compacted.from_step} are a note now")
        case "task.finished":
            status = str(body["status"])
            return Notice(f"The task {_ENDINGS.get(status, status)}", _TONES.get(status, "quiet"), body["error"] or "")
        case _:
            shown = json.dumps(body, ensure_ascii=False) if body else ""
            return Notice(event.type.replace(".", " ").replace("_", " ").capitalize(), detail=shown)


_GUARD_ACTIONS = {
    "hotter": "the answer is drawn again, warmer",
    "thinking_off": "the answer is drawn again without thinking",
    "drop": "the step leaves the conversation",
    "stop": "the run ends",
}
_RESTORED = {"files": "the files", "conversation": "the conversation", "both": "files and conversation"}
_WAITS = {
    "approval": "permission",
    "question": "an answer",
    "budget": "a higher limit",
    "quota": "the project's quota",
    "capacity": "free capacity",
}
_ENDINGS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled", "expired": "expired"}
_TONES: dict[str, Tone] = {"succeeded": "good", "failed": "bad"}
