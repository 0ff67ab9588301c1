"""Degenerate answers and loops are seen; honest work is not."""

import random

import pytest

from agent.events import GuardTripped, StepMessage, ToolCompleted, ToolIntent
from agent.guard import AnswerGuard, GuardSettings, looping
from agent.trajectory import Step
from agent.types import AssistantMessage, Observation, ToolCall, Usage


def feed(guard: AnswerGuard, text: str, kind: str = "reasoning", size: int = 7) -> str | None:
    """The guard's first word on a text that comes in pieces."""
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    return next((reason for piece in pieces if (reason := guard.watch(kind, piece, 0))), None)


def prose(num_chars: int) -> str:
    words = random.Random(1)
    return " ".join(f"w{words.randrange(3000)}" for _ in range(num_chars // 4))[:num_chars]


@pytest.mark.parametrize("loop", ["Wait, let me think again. ", "a", "思考。", prose(1200)])
def test_reasoning_that_says_the_same_again_and_again_is_ended(loop: str) -> None:
    assert feed(AnswerGuard(GuardSettings()), prose(3000) + loop * (40_000 // len(loop))) == "repetition"


def test_long_reasoning_that_goes_somewhere_is_not_ended() -> None:
    assert feed(AnswerGuard(GuardSettings()), prose(50_000)) is None


def test_saying_everything_twice_is_not_yet_a_loop() -> None:
    assert feed(AnswerGuard(GuardSettings()), prose(2500) * 2) is None


def test_reasoning_without_end_is_ended_at_the_cap() -> None:
    assert feed(AnswerGuard(GuardSettings(max_reasoning_chars=9000)), prose(10_000)) == "reasoning_cap"


def test_too_many_calls_in_one_answer_end_it() -> None:
    guard = AnswerGuard(GuardSettings())
    assert [guard.watch("tool_call", "{}", index) for index in (0, 15, 16)] == [None, None, "call_cap"]


def test_a_new_try_starts_from_nothing() -> None:
    guard = AnswerGuard(GuardSettings(max_reasoning_chars=9000))
    assert feed(guard, prose(8000)) is None
    assert guard.watch("restart", "", 0) is None
    assert feed(guard, prose(8000)) is None


def step(number: int, command: str, text: str, *, error: bool = False, dropped: bool = False) -> Step:
    call = ToolCall(id="c", name="bash", arguments=command)
    answer = StepMessage(
        step=number,
        message=AssistantMessage(tool_calls=(call,)),
        usage=Usage(),
        duration_s=0.0,
        temperature=0.3,
        thinking=True,
    )
    seen = Observation(call_id="c", text=text, error=error)
    return Step(
        number,
        answers=(answer,),
        intents=(ToolIntent(step=number, intent_id=str(number), call=call),),
        results=(ToolCompleted(step=number, intent_id=str(number), observation=seen),),
        trips=(GuardTripped(step=number, pattern="same_result", action="drop"),) if dropped else (),
    )


def pattern(*work: tuple[str, str], error: bool = False) -> str | None:
    return looping([step(i, command, text, error=error) for i, (command, text) in enumerate(work)], GuardSettings())


def test_the_same_call_with_the_same_result_is_a_loop_at_the_fourth_time() -> None:
    assert pattern(*[("ls", "a")] * 3) is None
    assert pattern(*[("ls", "a")] * 4) == "same_result"


def test_the_same_call_with_the_same_error_is_a_loop_at_the_third_time() -> None:
    assert pattern(*[("ls", "a")] * 2, error=True) is None
    assert pattern(*[("ls", "a")] * 3, error=True) == "same_error"


def test_going_back_and_forth_is_a_loop_after_six_steps() -> None:
    a, b = ("ls", "a"), ("pwd", "b")
    assert pattern(a, b, a, b, a) is None
    assert pattern(a, b, a, b, a, b) == "alternation"


def test_three_calls_in_turn_are_a_loop_after_twelve_steps() -> None:
    a, b, c = ("ls", "a"), ("pwd", "b"), ("date", "c")
    assert pattern(*[a, b, c, a, c, b, a, b, c, b, a]) is None
    assert pattern(*[a, b, c, a, c, b, a, b, c, b, a, c]) == "rotation"


def test_the_same_call_with_news_is_no_loop() -> None:
    assert pattern(*[("tail log", f"line {i}") for i in range(8)]) is None


def test_the_same_result_in_another_time_is_the_same_result() -> None:
    assert pattern(*[("pytest", f"1 failed in 0.0{i}s") for i in range(4)]) == "same_result"


def test_a_dropped_step_does_not_count() -> None:
    work = [step(i, "ls", "a", dropped=i == 3) for i in range(4)]
    assert looping(work, GuardSettings()) is None
    assert looping([*work, step(4, "ls", "a")], GuardSettings()) == "same_result"
