"""What one step shows can fill the context before the endpoint has counted it."""

from datetime import UTC, datetime

from agent.compaction import plan
from agent.events import NoteWritten, StepMessage, ToolCompleted, ToolIntent
from agent.trajectory import Step
from agent.types import AssistantMessage, Event, Observation, ToolCall, Usage

CONTEXT = 40_000
ANSWER = 2000
OUTPUT = 10_000
"""Characters, about 3,300 tokens."""


def step(number: int, *, prompt_tokens: int, num_outputs: int) -> Step:
    call = ToolCall(id="c", name="bash", arguments="{}")
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=0)
    answer = StepMessage(
        step=number,
        message=AssistantMessage(tool_calls=(call,) * num_outputs),
        usage=usage,
        duration_s=0.0,
        temperature=0.3,
        thinking=True,
    )
    seen = Observation(call_id="c", text="x" * OUTPUT, error=False)
    return Step(
        number,
        answers=(answer,),
        intents=(ToolIntent(step=number, intent_id=str(number), call=call),),
        results=(ToolCompleted(step=number, intent_id=str(number), observation=seen),) * num_outputs,
    )


def note(after_step: int) -> Event:
    body = NoteWritten(after_step=after_step, text="A note.", usage=Usage()).model_dump(mode="json")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Event(task_id="t", seq=1, run_id="r", generation=1, type="note.written", body=body, at=at)


FIRST = step(1, prompt_tokens=1000, num_outputs=5)
"""Ends at 17,700 tokens, which is past the first level."""


def action(events: list[Event], *done: Step) -> str | None:
    due = plan(events, done, CONTEXT, ANSWER)
    return due.action if due else None


def test_outputs_count_before_the_endpoint_has_seen_them() -> None:
    assert action([], FIRST) == "note"
    assert action([note(1)], FIRST) is None


def test_a_view_that_the_newest_outputs_fill_is_noted_and_compacted() -> None:
    second = step(2, prompt_tokens=17_700, num_outputs=6)
    assert action([note(1)], FIRST, second) == "note"
    assert action([note(1), note(2)], FIRST, second) == "compact"


def test_a_view_without_room_for_a_note_is_compacted_from_an_earlier_one() -> None:
    second = step(2, prompt_tokens=17_700, num_outputs=7)
    assert action([note(1)], FIRST, second) == "compact"


def test_without_any_note_the_endpoint_says_whether_the_view_is_too_long() -> None:
    assert action([], step(1, prompt_tokens=1000, num_outputs=12)) is None
