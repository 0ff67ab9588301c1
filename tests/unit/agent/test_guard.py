"""Degenerate answers and loops are seen; honest work is not."""

import random
from pathlib import Path
from string import ascii_lowercase

import pytest

import agent
from agent.events import GuardTripped, StepMessage, ToolCompleted, ToolIntent
from agent.guard import AnswerGuard, GuardSettings, looping
from agent.trajectory import Step
from agent.types import AssistantMessage, Observation, ToolCall, Usage


def feed(guard: AnswerGuard, text: str, kind: str = "reasoning", size: int = 7) -> str | None:
    """The guard's first word on a text that comes in pieces."""
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    return next((reason for piece in pieces if (reason := guard.watch(kind, piece, 0))), None)


def prose(num_chars: int) -> str:
    """Of words that come at random out of three thousand."""
    draw = random.Random(1)
    words = ["".join(draw.choices(ascii_lowercase, k=5)) for _ in range(3000)]
    return " ".join(draw.choices(words, k=num_chars // 4))[:num_chars]


def two_states() -> str:
    """As a successor of the model is known to: 1,803 times, with a word changed here and there, and no answer."""
    draw = random.Random(2)
    plans = ("I should just begin.", "I think I should simply begin.", "They want me to go on.", "I'll begin.")
    lists = ("Let me write the list first.", "Let me write the list now.", "OK, the list.", "So, the list it is.")
    return "".join(" ".join(draw.sample(draw.choice((plans, lists)), draw.randint(2, 3))) + "\n\n" for _ in range(900))


def same_diagnosis() -> str:
    """As the model itself is known to: the same few names are checked again until the limit."""
    draw = random.Random(3)
    names = ("setTagForFrame", "getTag", "initFrame", "flagTable")
    return "".join(
        f"Let's check {draw.choice(names)}... Maybe the {draw.choice(('flag', 'tag', 'frame'))} is not set... "
        for _ in range(600)
    )


def counting() -> str:
    return "".join(f"Let me look at line {line} again. Nothing is wrong there. " for line in range(1000, 1900))


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param("Wait, let me think again. " * 1600, id="a sentence"),
        pytest.param("a" * 40_000, id="a letter"),
        pytest.param("思考。" * 13_000, id="no spaces"),
        pytest.param(prose(1000) * 40, id="a paragraph"),
        pytest.param(prose(4000) * 10, id="a long paragraph"),
        pytest.param(two_states(), id="two states"),
        pytest.param(same_diagnosis(), id="the same diagnosis"),
        pytest.param(counting(), id="counting"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_reasoning_that_says_the_same_again_and_again_is_ended(loop: str, size: int) -> None:
    assert feed(AnswerGuard(GuardSettings()), prose(3000) + loop, size=size) == "repetition"


def test_an_answer_that_repeats_itself_is_ended_too() -> None:
    assert (
        feed(AnswerGuard(GuardSettings()), "</think>\nI will look into it now.\n" * 300, kind="content") == "repetition"
    )


def test_following_a_program_by_hand_is_not_a_loop() -> None:
    trace = "".join(f"i={i}: total={i * i} and rest={900 - i}\n" for i in range(300))
    assert feed(AnswerGuard(GuardSettings()), prose(12_000) + trace + prose(12_000)) is None


def test_the_code_of_this_repository_is_not_a_loop() -> None:
    code = "".join(path.read_text() for path in sorted(Path(agent.__file__).parent.glob("*.py")))
    assert feed(AnswerGuard(GuardSettings(max_reasoning_chars=10**9)), code, size=50) is None


def test_long_reasoning_that_goes_somewhere_is_not_ended() -> None:
    assert feed(AnswerGuard(GuardSettings()), prose(50_000)) is None


def test_saying_everything_twice_is_not_yet_a_loop() -> None:
    assert feed(AnswerGuard(GuardSettings()), prose(2500) * 2) is None


def test_reasoning_without_end_is_ended_at_the_cap() -> None:
    assert feed(AnswerGuard(GuardSettings(max_reasoning_chars=9000)), prose(10_000)) == "reasoning_cap"


def test_too_many_calls_in_one_answer_end_it() -> None:
    guard = AnswerGuard(GuardSettings())
    assert [guard.watch("tool_call", "{}", index) for index in (0, 15, 16)] == [None, None, "call_cap"]


def test_the_same_call_many_times_in_one_answer_ends_it_before_any_is_made() -> None:
    guard = AnswerGuard(GuardSettings())
    calls = [(index, piece) for index in range(5) for piece in ('{"command": "mkdir', ' new"}')]
    assert [guard.watch("tool_call", piece, index) for index, piece in calls] == [None] * 8 + ["same_calls"] * 2


def test_different_calls_in_one_answer_do_not_end_it() -> None:
    guard = AnswerGuard(GuardSettings())
    assert {guard.watch("tool_call", f'{{"path": "{index}.py"}}', index) for index in range(16)} == {None}


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


@pytest.mark.parametrize(("num_calls", "num_steps"), [(5, 24), (11, 48)])
def test_more_calls_in_turn_are_a_loop_after_more_steps(num_calls: int, num_steps: int) -> None:
    """As successors of the model are known to; no call is the one just before it."""
    draw = random.Random(num_calls)
    reads = [(f"cat {number}.py", "text") for number in range(num_calls)]
    work = [read for _ in range(1 + num_steps // num_calls) for read in draw.sample(reads, num_calls)]
    assert pattern(*work[: num_steps - 1]) is None
    assert pattern(*work[:num_steps]) == "rotation"


def test_reading_between_edits_is_no_loop() -> None:
    reading = [("cat a.py", "text"), ("pytest", "1 failed")]
    work = [turn for number in range(20) for turn in (*reading, (f"sed -i {number}d a.py", ""))]
    assert pattern(*work) is None


def test_the_same_call_with_news_is_no_loop() -> None:
    assert pattern(*[("tail log", f"line {i}") for i in range(8)]) is None


def test_the_same_result_in_another_time_is_the_same_result() -> None:
    assert pattern(*[("pytest", f"1 failed in 0.0{i}s") for i in range(4)]) == "same_result"


def test_a_dropped_step_does_not_count() -> None:
    work = [step(i, "ls", "a", dropped=i == 3) for i in range(4)]
    assert looping(work, GuardSettings()) is None
    assert looping([*work, step(4, "ls", "a")], GuardSettings()) == "same_result"
