"""From events to messages: the golden cases."""

import json

import pytest

from agent.events import (
    GuardTripped,
    KeptImage,
    MessageTaken,
    StepCompleted,
    StepMessage,
    StepStarted,
    ToolCompleted,
    ViewCompacted,
)
from agent.history import earlier, view
from agent.log import MemoryLog
from agent.trajectory import last_tree
from agent.types import AssistantMessage, Message, ModelOptions, Observation, Said, ToolCall, Usage

pytestmark = pytest.mark.anyio

CALL = ToolCall(id="call_0", name="bash", arguments='{"command":  "ls \\u00e9"}')
START: list[Message] = [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}]


async def step(
    log: MemoryLog, number: int, message: AssistantMessage, *results: Observation, aborted: str | None = None
) -> None:
    await log.append("step.started", StepStarted(step=number).model_dump(mode="json"))
    answer = StepMessage(
        step=number,
        message=message,
        usage=Usage(),
        duration_s=0.0,
        temperature=0.3,
        thinking=True,
        aborted=aborted,
    )
    await log.append("step.message", answer.model_dump(mode="json"))
    for index, result in enumerate(results):
        body = ToolCompleted(step=number, intent_id=f"{number}-{index}", observation=result, tree=f"tree-{number}")
        await log.append("tool.completed", body.model_dump(mode="json"))


def assistant(reasoning: str, content: str = "", arguments: str = CALL.arguments) -> Message:
    call = {"id": "call_0", "type": "function", "function": {"name": "bash", "arguments": arguments}}
    return {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": [call]}


def tool(text: str, call_id: str = "call_0") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


async def test_a_run_without_events_is_the_prompt_and_the_problem() -> None:
    assert view("S", "P", []) == START


async def test_arguments_and_reasoning_go_back_exactly_as_they_came() -> None:
    log = MemoryLog()
    await step(
        log,
        1,
        AssistantMessage(content="c", reasoning_content=" think\n", tool_calls=(CALL,)),
        Observation(call_id="call_0", text="a\n[exit code: 0]"),
    )
    assert view("S", "P", log.events) == [*START, assistant(" think\n", "c"), tool("a\n[exit code: 0]")]


async def test_every_assistant_message_carries_reasoning_even_where_the_endpoint_sent_none() -> None:
    log = MemoryLog()
    for number, reasoning in enumerate((None, "", "text"), start=1):
        await step(log, number, AssistantMessage(reasoning_content=reasoning, tool_calls=(CALL,)))
    assert [m["reasoning_content"] for m in view("S", "P", log.events)[2:]] == ["", "", "text"]
    kept = [e.body["message"]["reasoning_content"] for e in log.events if e.type == "step.message"]
    assert kept == [None, "", "text"]


@pytest.mark.parametrize(
    ("reasoning", "content", "sent"),
    [
        pytest.param(None, "<think>hm</think>\n\nDone.", ("hm", "Done."), id="thoughts that no parser took out"),
        pytest.param("", "\n<think></think>Done.", ("", "Done."), id="an empty pair"),
        pytest.param("hm", "<think>again</think>Done.", ("hm", "Done."), id="thoughts after thoughts"),
        pytest.param("hm", "</think>Done.", ("hm", "&lt;/think>Done."), id="half a pair"),
        pytest.param("a </think> b", "It ends at </think>.", ("a </think> b", "It ends at &lt;/think>."), id="a word"),
    ],
)
async def test_tags_of_thoughts_never_come_back_in_the_content(
    reasoning: str | None, content: str, sent: tuple[str, str]
) -> None:
    log = MemoryLog()
    message = AssistantMessage(content=content, reasoning_content=reasoning)
    await step(log, 1, message, Observation(call_id="", text="go on"))
    answer = view("S", "P", log.events)[2]
    assert (answer["reasoning_content"], answer["content"]) == sent


def thought(*answers: Said, name: str = "a", thinking: bool = True) -> list[str]:
    """What the model ``name`` sees of the reasoning of earlier answers."""
    asked = Said(role="user", content="?")
    said = [message for answer in answers for message in (asked, answer)]
    shown = earlier(said, ModelOptions(name=name, thinking=thinking))
    assert [message["content"] for message in shown] == [message.content for message in said]
    assert {"model", "thinking"}.isdisjoint(key for message in shown for key in message)
    return [message["reasoning_content"] for message in shown if message["role"] == "assistant"]


def answered(reasoning: str | None, model: str | None = None, *, thinking: bool | None = None) -> Said:
    return Said(role="assistant", content="yes", reasoning_content=reasoning, model=model, thinking=thinking)


async def test_earlier_answers_carry_their_reasoning_also_where_there_was_none() -> None:
    assert thought(answered("1"), answered(None), answered("3", "a", thinking=True)) == ["1", "", "3"]


async def test_reasoning_of_another_model_and_all_before_it_is_left_out_whole() -> None:
    both = answered("1", "a"), answered("2", "b"), answered("3", "a")
    assert thought(*both) == ["", "", "3"]
    assert thought(*both, name="b") == ["", "", ""]


async def test_reasoning_from_before_thinking_was_set_otherwise_is_left_out_whole() -> None:
    both = answered("1", "a", thinking=True), answered("", "a", thinking=False), answered("3", "a", thinking=True)
    assert thought(*both) == ["", "", "3"]
    assert thought(*both[:1], thinking=False) == [""]


async def test_tags_of_thoughts_in_an_earlier_answer_never_come_back_in_its_content() -> None:
    said = [Said(role="assistant", content="<think>hm</think>Done.")]
    (sent,) = earlier(said, ModelOptions(name="a"))
    assert (sent["reasoning_content"], sent["content"]) == ("hm", "Done.")


async def test_observations_of_parallel_calls_keep_the_order_of_the_calls() -> None:
    log = MemoryLog()
    calls = (CALL, ToolCall(id="call_1", name="bash", arguments="{}"))
    await step(
        log,
        1,
        AssistantMessage(tool_calls=calls),
        Observation(call_id="call_0", text="first"),
        Observation(call_id="call_1", text="second"),
    )
    assert view("S", "P", log.events)[3:] == [tool("first"), tool("second", "call_1")]


async def test_an_answer_without_a_call_is_followed_by_the_nudge_as_a_user_message() -> None:
    log = MemoryLog()
    await step(log, 1, AssistantMessage(content="done"), Observation(call_id="", text="call a tool", error=True))
    assert view("S", "P", log.events)[2:] == [
        {"role": "assistant", "content": "done", "reasoning_content": ""},
        {"role": "user", "content": "call a tool"},
    ]


async def test_aborted_answers_and_dropped_steps_stay_in_the_log_only() -> None:
    log = MemoryLog()
    await step(log, 1, AssistantMessage(content="round and round"), aborted="repetition")
    await step(log, 2, AssistantMessage(tool_calls=(CALL,)), Observation(call_id="call_0", text="same"))
    trip = GuardTripped(step=2, pattern="same_result", action="drop")
    await log.append("guard.tripped", trip.model_dump(mode="json"))
    assert view("S", "P", log.events) == START


async def test_arguments_that_are_no_json_object_are_wrapped_so_that_templates_can_read_them() -> None:
    log = MemoryLog()
    await step(log, 1, AssistantMessage(tool_calls=(CALL.model_copy(update={"arguments": '{"comm'}),)))
    sent = view("S", "P", log.events)[2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"invalid_json": '{"comm'}


async def test_the_view_only_grows() -> None:
    log = MemoryLog()
    for number in range(1, 4):
        before = view("S", "P", log.events)
        await step(log, number, AssistantMessage(tool_calls=(CALL,)), Observation(call_id="call_0", text=str(number)))
        assert view("S", "P", log.events)[: len(before)] == before


async def test_the_newest_snapshot_is_that_of_the_last_call() -> None:
    log = MemoryLog()
    assert last_tree(log.events) is None
    await step(log, 1, AssistantMessage(tool_calls=(CALL,)), Observation(call_id="call_0", text=""))
    completed = StepCompleted(step=1, tree="tree-1", usage=Usage(), duration_s=0.0)
    await log.append("step.completed", completed.model_dump(mode="json"))
    await step(log, 2, AssistantMessage(tool_calls=(CALL,)), Observation(call_id="call_0", text=""))
    assert last_tree(log.events) == "tree-2"


async def test_images_stay_with_the_users_words_also_where_the_view_was_compacted() -> None:
    log = MemoryLog()
    image = KeptImage(task_id="t", name="messages/m/0.png", media_type="image/png")
    heard = MessageTaken(step=1, message_id="m", text="like this", images=(image,))
    await log.append("message.taken", heard.model_dump(mode="json"))
    await step(log, 1, AssistantMessage(tool_calls=(CALL,)), Observation(call_id="call_0", text="1"))
    part = {"type": "image_url", "image_url": {"url": "artifact:image/png;t/messages/m/0.png"}}
    assert view("S", "P", log.events)[2]["content"] == [{"type": "text", "text": "like this"}, part]

    compacted = ViewCompacted(step=2, from_step=2, note="N")
    await log.append("view.compacted", compacted.model_dump(mode="json"))
    text, *parts = view("S", "P", log.events)[1]["content"]
    assert text["text"].startswith("P\n\nlike this\n\n")
    assert parts == [part]
