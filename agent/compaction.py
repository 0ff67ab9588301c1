"""When the model writes a note about its work, and when the view is rebuilt from the newest one.

Notes are written early, while the model still sees everything it did: a summary made at the last moment is made of
what is left. A segment is the view between two compactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent.events import NoteWritten
from agent.history import last_compaction
from agent.trajectory import Step
from agent.types import Event

NOTES_AT = (0.20, 0.45, 0.70)
"""Shares of the context at which a note is due."""
COMPACT_AT = 0.85
"""Share of the context at which the view is compacted, if the room for an answer has not run out before."""

NOTE_TOKENS = 2048
"""Longest note."""
MIN_CONTEXT_TOKENS = 16 * NOTE_TOKENS
"""In a smaller context notes would fill much of what they are to save."""
CHARS_PER_TOKEN = 3
"""Of observations that the endpoint has not counted yet; code has more, so this rather says too much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What comes before the next step."""

    action: Literal["note", "compact", "give_up"]
    note: NoteWritten | None = None
    """What to compact from."""


def plan(events: Sequence[Event], done: Sequence[Step], context_tokens: int | None, answer_tokens: int) -> Plan | None:
    """What is due now that all of ``done`` are complete; None where the next step can simply be taken.

    Args:
        context_tokens: of the model; nothing is ever due where it is not known, or where a note would not be worth
            its room.
        answer_tokens: room that the next answer needs.
    """
    if context_tokens is None or context_tokens < MIN_CONTEXT_TOKENS:
        return None
    compacted = last_compaction(events)
    segment = [step for step in done if step.message and (compacted is None or step.number >= compacted.step)]
    if not segment:
        return None
    notes = _notes(events, after=compacted.step - 1 if compacted else 0)
    used = _tokens(segment[-1])
    if used < context_tokens * COMPACT_AT and used + answer_tokens <= context_tokens:
        written = max((_level(_tokens_after(done, note), context_tokens) for note in notes), default=0)
        known = max(written, _level(_tokens(segment[0]), context_tokens) if compacted else 0)
        return Plan("note") if _level(used, context_tokens) > known else None
    floor = segment[0].answers[-1].usage.prompt_tokens
    if floor >= context_tokens * COMPACT_AT or (compacted and len(segment) == 1):
        # What a compaction leaves is already too much: another one would change nothing, again and again.
        return Plan("give_up")
    # A note that knows less than half of the view would lose the rest of it, or leave too much.
    if notes and _tokens_after(done, notes[-1]) >= used / 2:
        return Plan("compact", notes[-1])
    if used + NOTE_TOKENS <= context_tokens:
        return Plan("note")
    # Nothing more can be asked of this view. Without a note the endpoint decides: what is counted here is a guess.
    return Plan("compact", notes[-1]) if notes else None


def _notes(events: Sequence[Event], after: int) -> list[NoteWritten]:
    written = (NoteWritten.model_validate(event.body) for event in events if event.type == "note.written")
    return [note for note in written if note.after_step > after]


def _tokens(step: Step) -> int:
    """Of the view that ends with the step."""
    usage = step.answers[-1].usage
    observed = sum(len(result.observation.text) for result in step.results)
    return usage.prompt_tokens + usage.completion_tokens + observed // CHARS_PER_TOKEN


def _tokens_after(done: Sequence[Step], note: NoteWritten) -> int:
    return next((_tokens(step) for step in done if step.number == note.after_step and step.answers), 0)


def _level(tokens: int, context_tokens: int) -> int:
    return sum(tokens >= share * context_tokens for share in NOTES_AT)
