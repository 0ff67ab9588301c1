"""The user speaks to a run while it works: messages, pauses, decisions, answers, and limits that are raised."""

import asyncio
from collections.abc import Sequence

import pytest

from agent.config import Prices
from agent.log import MemoryLog
from agent.model import Delta
from agent.permissions.kinds import Kind
from agent.permissions.policy import Allowed, Asked, Decision, Denied, Part
from agent.profiles.assistant import assistant
from agent.steps.ends import Wait
from agent.testing import ScriptedModel, call, in_order, turns
from agent.types import AssistantMessage, Limits, Message, ModelOptions, Status, StopReason, ToolCall, WaitingOn
from tests.integration.agent_core.conftest import Desk
from tests.integration.agent_core.test_loop import FINISH, FIX, Endless

pytestmark = pytest.mark.anyio

ALLOW = Allowed()
LOOK = call("bash", command="cat calc.py")


def told(model: ScriptedModel, request: int) -> list[str]:
    """What the user said, as one model call saw it."""
    return [message["content"] for message in model.requests[request][0][2:] if message["role"] == "user"]


async def test_a_message_that_steers_stands_before_the_next_answer_and_stays_there(desk: Desk) -> None:
    def script(messages: Sequence[Message]) -> AssistantMessage:
        if len(messages) == 2:
            desk.say("message.added", message_id="m1", text="Keep the name.", delivery="steer")
            return LOOK
        return FIX if len(messages) == 5 else FINISH

    model = ScriptedModel(script)
    assert await desk.work(model) is StopReason.FINISHED
    assert [told(model, i) for i in range(3)] == [[], ["Keep the name."], ["Keep the name."]]
    assert [m["role"] for m in model.requests[2][0]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "user",
        "assistant",
        "tool",
    ]
    assert model.requests[2][0][:5] == model.requests[1][0]


async def test_a_queued_message_waits_for_finish_and_the_run_then_goes_on(desk: Desk) -> None:
    desk.say("message.added", message_id="m1", text="Now write a test.", delivery="queue")
    model = ScriptedModel(in_order(FIX, FINISH, call("bash", command="touch test.py"), FINISH))
    assert await desk.work(model) is StopReason.FINISHED
    assert [told(model, i) for i in range(4)] == [[], [], ["Now write a test."], ["Now write a test."]]


async def test_a_message_taken_back_is_never_read(desk: Desk) -> None:
    desk.say("message.added", message_id="m1", text="Forget it.", delivery="queue")
    desk.say("message.removed", message_id="m1")
    model = ScriptedModel(in_order(FIX, FINISH))
    assert await desk.work(model) is StopReason.FINISHED
    assert len(model.requests) == 2


class Hesitant(Endless):
    """Writes half an answer and stops; the second time it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.then = ScriptedModel(in_order(FIX, FINISH))

    async def complete(self, messages, tools, options, on_delta=None, watch=None):
        if self.asked.is_set():
            return await self.then.complete(messages, tools, options, on_delta, watch)
        on_delta(Delta("reasoning", "I could rewrite"))
        return await super().complete(messages, tools, options, on_delta, watch)


async def test_an_interrupt_ends_the_answer_and_keeps_what_was_written_in_the_log(desk: Desk) -> None:
    model = Hesitant()
    working = asyncio.create_task(desk.work(model))
    await model.asked.wait()
    desk.say("message.added", message_id="m1", text="Just fix it.", delivery="interrupt")
    assert await asyncio.wait_for(working, 60) is StopReason.FINISHED
    assert told(model.then, 0) == ["Just fix it."]
    aborted = next(event.body for event in desk.log.events if event.type == "step.message")
    assert (aborted["aborted"], aborted["message"]["reasoning_content"]) == ("interrupted", "I could rewrite")


async def test_a_paused_run_waits_between_steps_until_it_is_resumed(desk: Desk) -> None:
    desk.say("task.paused")
    assert await desk.work(in_order()) == Wait(Status.PAUSED, None, {})
    desk.say("task.resumed")
    assert await desk.work(in_order(FIX, FINISH)) is StopReason.FINISHED


async def test_a_limit_ends_the_run_or_waits_where_somebody_may_raise_it(desk: Desk) -> None:
    limits = Limits(max_steps=1)
    wait = await desk.work(in_order(FIX), limits=limits, on_limit="ask")
    assert isinstance(wait, Wait)
    assert (wait.waiting_on, wait.body["stop_reason"]) == (WaitingOn.BUDGET, StopReason.STEP_LIMIT)
    desk.say("budget.granted", max_steps=2)
    assert await desk.work(in_order(FINISH), limits=limits, on_limit="ask") is StopReason.FINISHED


async def test_a_run_that_made_nothing_but_errors_goes_on_where_somebody_lets_it(desk: Desk) -> None:
    limits, bad = Limits(max_error_steps=1), call("bash", command="exit 7")
    wait = await desk.work(in_order(bad), limits=limits, on_limit="ask")
    assert isinstance(wait, Wait)
    assert (wait.waiting_on, wait.body["stop_reason"]) == (WaitingOn.BUDGET, StopReason.ERROR_LIMIT)
    desk.say("budget.granted", max_error_steps=2)
    assert await desk.work(in_order(FIX, FINISH), limits=limits, on_limit="ask") is StopReason.FINISHED


async def test_what_a_run_costs_is_a_limit_too(desk: Desk) -> None:
    prices = Prices(prompt=10_000, cached=0, completion=0)  # of a million: 1 for the 100 tokens of each answer
    script = in_order(*[LOOK] * 3)
    assert await desk.work(script, limits=Limits(max_cost=2), prices=prices) is StopReason.COST_BUDGET
    assert len([event for event in desk.log.events if event.type == "step.completed"]) == 2


async def test_a_limit_of_cost_is_refused_where_nothing_has_a_price(desk: Desk) -> None:
    assert await desk.work(in_order(), limits=Limits(max_cost=2)) is StopReason.COST_BUDGET
    assert "no prices" in desk.stopped_because()


def ask_for_bash(called: ToolCall) -> Decision:
    return Asked((Part("rm", Kind.DESTRUCTIVE),)) if called.name == "bash" else Denied("only bash is asked for")


async def test_a_call_that_needs_the_users_word_waits_for_it_and_is_then_made_once(desk: Desk) -> None:
    append = call("bash", command="echo x >> calc.py; cat calc.py")
    wait = await desk.work(in_order(append), approve=ask_for_bash)
    assert isinstance(wait, Wait)
    assert wait.waiting_on is WaitingOn.APPROVAL
    requested = desk.log.events[-1]
    assert (requested.type, requested.body["parts"]) == ("approval.requested", ["rm"])
    assert await desk.work(in_order(), approve=ask_for_bash) == wait
    assert desk.log.events[-1].type != "approval.requested"
    desk.say("approval.decided", approval_id=wait.body["approval_id"], decision="allow")
    assert await desk.work(in_order(FINISH)) is StopReason.FINISHED
    assert desk.observations()[0].count("x\n") == 1


async def test_a_call_that_the_user_denies_is_told_to_the_model_with_the_reason(desk: Desk) -> None:
    wait = await desk.work(in_order(LOOK), approve=ask_for_bash)
    assert isinstance(wait, Wait)
    approval_id = wait.body["approval_id"]
    desk.say("approval.decided", approval_id=approval_id, decision="deny", reason="read calc.md")
    assert await desk.work(in_order(FIX, FINISH), approve=lambda c: ask_for_bash(c) if c.name == "bash" else ALLOW) is (
        StopReason.FINISHED
    )
    assert desk.observations()[0] == "[error] bash: the user does not allow it: read calc.md"


async def test_a_call_that_the_user_corrects_is_made_as_corrected_and_the_model_is_told(desk: Desk) -> None:
    wait = await desk.work(in_order(call("bash", command="rm calc.py")), approve=ask_for_bash)
    assert isinstance(wait, Wait)
    edited = '{"command": "echo kept; wc -l calc.py"}'
    desk.say("approval.decided", approval_id=wait.body["approval_id"], decision="allow", edited_args=edited)
    assert await desk.work(in_order(FIX, FINISH), approve=lambda c: ask_for_bash(c) if c.name == "bash" else ALLOW) is (
        StopReason.FINISHED
    )
    told, *result = desk.observations()[0].splitlines()
    assert edited in told
    assert result[:2] == ["kept", "2 calc.py"]
    made = next(event for event in desk.log.events if event.type == "tool.intent")
    assert made.body["call"]["arguments"] == edited


@pytest.mark.parametrize(
    ("edited", "why"),
    [('{"command": "forbidden"}', "not allowed: never that"), ('{"commands": "ls"}', "commands")],
)
async def test_a_correction_is_bound_by_the_policy_and_by_the_tool(desk: Desk, edited: str, why: str) -> None:
    def approve(called: ToolCall) -> Decision:
        return Denied("never that") if "forbidden" in called.arguments else ask_for_bash(called)

    wait = await desk.work(in_order(call("bash", command="rm calc.py")), approve=approve)
    assert isinstance(wait, Wait)
    desk.say("approval.decided", approval_id=wait.body["approval_id"], decision="allow", edited_args=edited)
    assert await desk.work(in_order(FIX, FINISH), approve=lambda c: approve(c) if c.name == "bash" else ALLOW) is (
        StopReason.FINISHED
    )
    assert why in desk.observations()[0]
    assert "add" in await desk.patch()


async def test_a_policy_that_refuses_everything_ends_the_run(desk: Desk) -> None:
    assert await desk.work(in_order(FIX, FIX, FIX), approve=lambda c: Denied("not here")) is StopReason.POLICY_DENIED
    assert desk.observations()[0] == "[error] str_replace: not allowed: not here"


async def test_the_answer_to_a_question_is_the_users_next_message(desk: Desk) -> None:
    question = call("ask_user", question="Which one?")
    wait = await desk.work(in_order(question), agent=assistant(), review=False)
    assert isinstance(wait, Wait)
    assert (wait.waiting_on, wait.body["text"]) == (WaitingOn.QUESTION, "Which one?")
    desk.say("message.added", message_id="m1", text="The second.", delivery="steer")
    model = ScriptedModel(in_order(FIX, FINISH))
    assert await desk.work(model, agent=assistant(), review=False) is StopReason.FINISHED
    assert desk.observations()[0] == "The second."
    assert told(model, 1) == []


async def test_thinking_on_demand_begins_with_the_first_failure(desk: Desk) -> None:
    model = ScriptedModel(in_order(LOOK, call("bash", command="false"), FIX, FINISH))
    await desk.work(model, options=ModelOptions(thinking="auto"))
    assert [options.thinking for _, options in model.requests] == [False, False, True, True]


async def test_a_worker_that_dies_after_any_event_loses_no_message(desk: Desk) -> None:
    desk.say("message.added", message_id="m1", text="Keep the name.", delivery="steer")
    desk.say("message.added", message_id="m2", text="Now look again.", delivery="queue")
    answers = (FIX, FINISH, LOOK, FINISH)
    await desk.work(turns(*answers))
    for survives in range(1, len(desk.log.events)):
        log = MemoryLog(events=desk.log.events[:survives])
        if log.events[-1].type == "tool.intent":
            continue  # told in test_loop: the model makes the call again
        model = ScriptedModel(turns(*answers))
        assert await desk.work(model, log=log) is StopReason.FINISHED
        taken = [event.body["message_id"] for event in log.events if event.type == "message.taken"]
        assert taken == ["m1", "m2"], survives
