"""A task's log and its drafts as one answer: nothing twice, nothing lost, whatever becomes of the drafts."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.completions.telling import Piece, Telling
from agent.events import StepMessage, ToolCompleted, ToolIntent
from agent.store.drafts import DraftPiece
from agent.types import AssistantMessage, Event, Observation, ToolCall, Usage

THOUGHT, WORDS = "It subtracts where it should add.", "Let me look."


def _event(kind: str, body: Any) -> Event:
    return Event(
        task_id="task_1",
        seq=1,
        run_id="run_1",
        generation=1,
        type=kind,
        body=body.model_dump(mode="json"),
        at=datetime.now(UTC),
    )


def _message(step: int = 1, aborted: str | None = None, thought: str = THOUGHT) -> Event:
    said = StepMessage(
        step=step,
        message=AssistantMessage(content=WORDS, reasoning_content=thought),
        usage=Usage(),
        duration_s=0.0,
        temperature=0.0,
        thinking=True,
        aborted=aborted,
    )
    return _event("step.message", said)


def _draft(kind: Literal["reasoning", "content", "tool_call", "restart"], text: str = "", **more: Any) -> DraftPiece:
    return DraftPiece(run_id="run_1", step=more.pop("step", 1), kind=kind, text=text, **more)


def _texts(pieces: Iterable[Piece]) -> tuple[str, str]:
    told = list(pieces)
    return (
        "".join(piece.text for piece in told if piece.kind == "reasoning"),
        "".join(piece.text for piece in told if piece.kind == "content"),
    )


@given(
    st.lists(st.integers(0, len(THOUGHT)), max_size=6),
    st.sets(st.integers(0, 6)),
    st.integers(0, 7),
)
def test_draft_and_message_say_what_the_message_says_alone(cuts: list[int], lost: set[int], num_early: int) -> None:
    """Pieces are lost anywhere, and some come when the message is there already."""
    ends = sorted({0, *cuts, len(THOUGHT)})
    pieces = [_draft("reasoning", THOUGHT[start:end], offset=start) for start, end in itertools.pairwise(ends)]
    pieces = [_draft("restart"), *(piece for number, piece in enumerate(pieces) if number not in lost)]
    telling = Telling()
    told = [piece for draft in pieces[:num_early] for piece in telling.draft(draft)]
    told += telling.event(_message())
    told += [piece for draft in pieces[num_early:] for piece in telling.draft(draft)]

    assert _texts(told) == (THOUGHT, WORDS)


def test_draft_that_begins_again_is_said_to() -> None:
    telling = Telling()
    told = [*telling.draft(_draft("restart")), *telling.draft(_draft("reasoning", "a worse"))]
    told += [*telling.draft(_draft("restart")), *telling.draft(_draft("reasoning", THOUGHT[:9]))]
    told += telling.event(_message())

    assert _texts(told) == (f"a worse\nThe answer begins again.\n\n{THOUGHT}", WORDS)


def test_answer_that_was_given_up_is_not_told_and_the_next_one_is() -> None:
    telling = Telling()
    told = [*telling.event(_message(aborted="repetition", thought="again and again")), *telling.event(_message())]

    assert _texts(told) == (THOUGHT, WORDS)


@pytest.mark.parametrize(("finished", "content"), [(True, "add() adds"), (False, "")])
def test_summary_is_told_where_the_agent_was_let_finish(finished: bool, content: str) -> None:
    telling = Telling()
    call = ToolCall(id="c", name="finish", arguments='{"summary": "add() adds"}')
    done = ToolCompleted(
        step=1, intent_id="1-0", observation=Observation(call_id="c", text="[finished]"), finished=finished
    )
    told = [*telling.event(_event("tool.intent", ToolIntent(step=1, intent_id="1-0", call=call)))]
    told += telling.event(_event("tool.completed", done))

    assert _texts(told) == ("", content)
