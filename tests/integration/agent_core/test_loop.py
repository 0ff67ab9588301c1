"""The loop with a scripted model, a real sandbox and real git: what it does, and how it ends."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.errors import ModelError
from agent.guard import GuardSettings
from agent.log import MemoryLog
from agent.model import Completion, Delta, StreamGuard
from agent.testing import ScriptedModel, call, in_order, turns
from agent.trajectory import steps
from agent.types import AssistantMessage, Limits, Message, ModelOptions, StopReason, ToolCall, Usage
from sandbox.errors import SandboxLost
from sandbox.types import Resources, SandboxSpec
from tests.integration.agent_core.conftest import Desk, texts

pytestmark = pytest.mark.anyio

FIX = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b", reasoning="it subtracts")
TEST = call("bash", command="python -B -c 'from calc import add; print(add(1, 2))'")
FINISH = call("finish", summary="add adds")
REPAIR = (call("bash", command="cat calc.py"), FIX, TEST, FINISH)


def says(content: str = "", **fields: Any) -> AssistantMessage:
    return AssistantMessage(content=content, **{"finish_reason": "stop", **fields})


def calls(*given: tuple[str, str]) -> AssistantMessage:
    return AssistantMessage(
        tool_calls=tuple(ToolCall(id=f"call_{i}", name=n, arguments=a) for i, (n, a) in enumerate(given)),
        finish_reason="tool_calls",
    )


async def test_a_repair_runs_to_its_end(desk: Desk) -> None:
    model = ScriptedModel(turns(*REPAIR))
    assert await desk.work(model) is StopReason.FINISHED
    read, edited, tested, finished = desk.observations()
    assert read == "def add(a, b):\n    return a - b\n[exit code: 0]"
    assert edited == "[edited line 2]"
    assert tested == "3\n[exit code: 0]"
    assert finished == "[finished]"
    assert "-    return a - b\n+    return a + b\n" in await desk.patch()
    first, *_, last = [messages for messages, _ in model.requests]
    assert [m["role"] for m in first] == ["system", "user"]
    assert first[1]["content"] == "add() subtracts"
    assert last[: len(first)] == first
    assert last[4]["reasoning_content"] == "it subtracts"


async def test_the_log_tells_each_step_in_order(desk: Desk) -> None:
    await desk.work(turns(*REPAIR))
    step = ["step.started", "step.message", "tool.intent", "tool.completed", "step.completed"]
    assert [event.type for event in desk.log.events] == [*step * 4, "run.stopped"]
    trees = [step.completed.tree for step in steps(desk.log.events) if step.completed]
    assert trees[0] == desk.base_tree
    assert trees[1] == trees[2] == trees[3] != desk.base_tree
    assert (1, Delta("reasoning", "it subtracts")) not in desk.deltas
    assert (2, Delta("reasoning", "it subtracts")) in desk.deltas


async def test_several_calls_of_one_answer_run_in_order(desk: Desk) -> None:
    both = calls(("bash", '{"command": "echo 1 > x"}'), ("bash", '{"command": "cat x"}'), ("finish", "{}"))
    assert await desk.work(in_order(both)) is StopReason.FINISHED
    assert desk.observations() == ["[exit code: 0]", "1\n[exit code: 0]", "[finished]"]


async def test_finishing_without_a_change_is_refused_once(desk: Desk) -> None:
    assert await desk.work(in_order(FINISH, FINISH)) is StopReason.FINISHED
    assert desk.observations() == ["[error] nothing was changed yet", "[finished]"]
    assert await desk.patch() == ""


@pytest.mark.parametrize(
    ("bad", "reply"),
    [
        (calls(("edit", "{}")), "unknown tool 'edit'; the tools are bash, str_replace, finish"),
        (calls(("bash", '{"comm')), "bash: the arguments are not JSON"),
        (calls(("bash", '{"comm')).model_copy(update={"finish_reason": "length"}), "cut off at the token limit"),
        (calls(("bash", "[]")), "not a JSON object"),
        (calls(("bash", '{"command": ' + "[" * 9999 + "]" * 9999 + "}")), "nested too deeply"),
        (calls(("bash", "{}")), "bash: command: Field required"),
        (calls(("bash", '{"command": "ls", "cwd": "/"}')), "bash: cwd: Extra inputs are not permitted"),
        (calls(("bash", '{"command": 7}')), "bash: command: Input should be a valid string"),
        (calls(("bash", '{"command": "a\\u0000b"}')), "NUL"),
        (calls(("bash", '{"command": "\\ud800"}')), "bash: command"),
        (says("I am done."), "no tool call"),
        (says("", finish_reason="length", reasoning_content="hm"), "cut off at the token limit"),
    ],
)
async def test_a_malformed_answer_is_told_to_the_model_and_the_run_goes_on(
    desk: Desk, bad: AssistantMessage, reply: str
) -> None:
    assert await desk.work(in_order(bad, FIX, FINISH)) is StopReason.FINISHED
    assert desk.observations()[0].startswith("[error] ")
    assert reply in desk.observations()[0]
    assert "tool.intent" not in [event.type for event in desk.log.events if event.body.get("step") == 1]


async def test_three_malformed_answers_in_a_row_end_the_run(desk: Desk) -> None:
    bad = calls(("edit", "{}"))
    assert await desk.work(in_order(bad, says("x"), FIX, bad, says("x"), bad)) is StopReason.FORMAT_ERRORS
    assert len(steps(desk.log.events)) == 6
    assert "+ b" in await desk.patch()


async def test_reasoning_alone_is_asked_again_once_before_the_nudge(desk: Desk) -> None:
    silent = says("", reasoning_content="I should edit")
    model = ScriptedModel(in_order(silent, FIX, silent, silent, FINISH))
    assert await desk.work(model) is StopReason.FINISHED
    assert [len(messages) for messages, _ in model.requests] == [2, 2, 4, 4, 6]
    assert desk.observations()[1] == "[error] the answer has no tool call; call one of bash, str_replace, finish"


@pytest.mark.parametrize(
    ("limits", "reason", "detail"),
    [
        (Limits(max_steps=2), StopReason.STEP_LIMIT, "2 steps"),
        (Limits(max_tokens=250), StopReason.TOKEN_BUDGET, "250 tokens"),
        (Limits(wall_clock_s=1.0), StopReason.WALL_CLOCK, "1 s"),
    ],
)
async def test_every_limit_has_its_own_stop_reason(desk: Desk, limits: Limits, reason: StopReason, detail: str) -> None:
    script = in_order(*[call("bash", command=f"echo {i}; sleep 0.3") for i in range(9)])
    assert await desk.work(script, limits=limits) is reason
    assert detail in desk.stopped_because()


async def test_steps_in_a_row_of_which_nothing_but_errors_came_end_the_run(desk: Desk) -> None:
    script = in_order(*[call("bash", command=f"exit {code}") for code in (1, 2, 0, 3, 4, 5, 6)])
    assert await desk.work(script, limits=Limits(max_error_steps=3)) is StopReason.ERROR_LIMIT
    assert len(steps(desk.log.events)) == 6
    assert "3 steps in a row" in desk.stopped_because()


async def test_a_sandbox_that_is_as_old_as_it_may_become_ends_the_run_in_the_middle_of_a_command(desk: Desk) -> None:
    await desk.log.append("run.provisioned", {"sandbox": "first"})
    endless = in_order(call("bash", command="sleep 600"))
    assert await desk.work(endless, limits=Limits(sandbox_lifetime_s=1)) is StopReason.SANDBOX_LIFETIME
    assert "1 s" in desk.stopped_because()


async def test_a_sandbox_grows_older_with_every_worker_that_takes_it_over_and_a_new_one_is_young(desk: Desk) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    log = MemoryLog(now=lambda: now)
    for sandbox in ("first", "second", "second"):
        now += timedelta(seconds=100)
        await log.append("run.provisioned", {"sandbox": sandbox})
    work = in_order(FIX, FINISH)
    assert await desk.work(work, log=log, limits=Limits(sandbox_lifetime_s=90)) is StopReason.SANDBOX_LIFETIME
    now += timedelta(seconds=100)
    young = MemoryLog(events=log.events[:-1], now=lambda: now)
    await young.append("run.provisioned", {"sandbox": "third"})
    assert await desk.work(work, log=young, limits=Limits(sandbox_lifetime_s=90)) is StopReason.FINISHED


async def test_cached_prompt_tokens_do_not_count_against_the_budget(desk: Desk) -> None:
    model = ScriptedModel(turns(*REPAIR), usage=Usage(prompt_tokens=1000, cached_tokens=990, completion_tokens=5))
    assert await desk.work(model, limits=Limits(max_tokens=100)) is StopReason.FINISHED


async def test_time_runs_out_in_the_middle_of_a_command(desk: Desk) -> None:
    endless = in_order(call("bash", command="sleep 600"))
    assert await desk.work(endless, limits=Limits(wall_clock_s=1.0)) is StopReason.WALL_CLOCK


async def test_a_command_without_end_is_ended_and_the_model_goes_on(desk: Desk) -> None:
    script = in_order(call("bash", command="echo begun; sleep 600"), FIX, FINISH)
    assert await desk.work(script, limits=Limits(command_timeout_s=1.0)) is StopReason.FINISHED
    assert desk.observations()[0].startswith("begun\n[timed out after 1 s;")


class Endless:
    """A model that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_cancelled_run_ends_in_the_middle_of_an_answer(desk: Desk) -> None:
    model = Endless()
    working = asyncio.create_task(desk.work(model))
    await model.asked.wait()
    desk.inbox.cancelled.set()
    assert await asyncio.wait_for(working, 10) is StopReason.CANCELLED


async def test_a_cancelled_run_ends_in_the_middle_of_a_command_and_keeps_its_patch(desk: Desk) -> None:
    working = asyncio.create_task(desk.work(in_order(FIX, call("bash", command="sleep 600"))))
    while [event.type for event in desk.log.events].count("tool.intent") < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    desk.inbox.cancelled.set()
    assert await asyncio.wait_for(working, 10) is StopReason.CANCELLED
    assert "+ b" in await desk.patch()


async def test_a_run_that_was_cancelled_before_it_began_asks_nothing(desk: Desk) -> None:
    desk.inbox.cancelled.set()
    assert await desk.work(in_order()) is StopReason.CANCELLED


@pytest.mark.parametrize(
    ("code", "reason"),
    [("busy", StopReason.MODEL_ERROR), ("context_length_exceeded", StopReason.CONTEXT_EXHAUSTED)],
)
async def test_a_model_that_cannot_answer_ends_the_run_with_what_it_said(
    desk: Desk, code: str, reason: StopReason
) -> None:
    def fail(messages: Sequence[Message]) -> AssistantMessage:
        if len(messages) == 2:
            return FIX
        raise ModelError("the endpoint is gone", retryable=False, code=code)

    assert await desk.work(fail) is reason
    assert desk.stopped_because() == "the endpoint is gone"
    assert "+ b" in await desk.patch()


async def test_a_degenerate_answer_is_sampled_hotter_and_then_without_thinking(desk: Desk) -> None:
    endless = AssistantMessage(reasoning_content="Wait, no. " * 1000)
    model = ScriptedModel(in_order(endless, endless, FIX, FINISH))
    options = ModelOptions(temperature=0.0, seed=5)
    assert await desk.work(model, options=options) is StopReason.FINISHED
    asked = [(o.temperature, o.thinking, o.seed) for _, o in model.requests]
    assert asked == [(0.0, True, 5), (0.3, True, 6), (0.3, False, 7), (0.0, True, 5)]
    assert [len(messages) for messages, _ in model.requests] == [2, 2, 2, 4]
    first = steps(desk.log.events)[0]
    assert [answer.aborted for answer in first.answers] == ["repetition", "repetition", None]
    assert [trip.action for trip in first.trips] == ["hotter", "thinking_off"]


async def test_an_answer_that_stays_degenerate_ends_the_run(desk: Desk) -> None:
    many = calls(*[("bash", "{}")] * 5)
    assert await desk.work(in_order(many, many, many), guard=GuardSettings(max_calls=3)) is StopReason.STUCK
    assert "call_cap" in desk.stopped_because()


async def test_a_loop_leaves_the_view_and_the_run_goes_on(desk: Desk) -> None:
    same = call("bash", command="cat missing")
    model = ScriptedModel(in_order(same, same, same, FIX, FINISH))
    assert await desk.work(model) is StopReason.FINISHED
    assert [len(messages) for messages, _ in model.requests] == [2, 4, 6, 6, 8]
    assert [options.temperature for _, options in model.requests] == [0.3, 0.3, 0.3, 0.6, 0.3]
    assert len(desk.observations()) == 5


async def test_a_loop_that_goes_on_is_sampled_hotter_and_hotter_and_ends_the_run(desk: Desk) -> None:
    model = ScriptedModel(in_order(*[call("bash", command="cat missing")] * 9))
    assert await desk.work(model, options=ModelOptions(temperature=0.0)) is StopReason.STUCK
    assert [round(options.temperature, 1) for _, options in model.requests] == [0.0, 0.0, 0.0, 0.3, 0.6, 0.9]
    assert [len(messages) for messages, _ in model.requests] == [2, 4, 6, 6, 6, 6]


async def test_a_full_disk_is_an_observation(desk: Desk) -> None:
    desk.spec = SandboxSpec(resources=Resources(disk_mib=32))
    fill = call("bash", command="head -c 2G /dev/zero > big; rm big")
    assert await desk.work(in_order(fill, FIX, FINISH)) is StopReason.FINISHED
    assert "No space left" in desk.observations()[0]


async def test_a_work_tree_that_is_too_large_to_keep_is_told_to_the_model(desk: Desk) -> None:
    desk.max_kept_bytes = 1_000_000
    fill = call("bash", command="head -c 2M /dev/zero > big")
    assert await desk.work(in_order(fill, call("bash", command="rm big"), FIX, FINISH)) is StopReason.FINISHED
    first, second, *_ = desk.observations()
    assert "[warning] the state of /workspace cannot be kept" in first
    assert second == "[exit code: 0]"
    assert "big" not in await desk.patch()


async def test_forking_without_end_ends_in_the_sandbox(desk: Desk) -> None:
    bomb = call("bash", command="f() { f | f & }; f; sleep 600")
    assert await desk.work(in_order(bomb, FIX, FINISH), limits=Limits(command_timeout_s=1.0)) is StopReason.FINISHED
    assert "+ b" in await desk.patch()


class Dying(MemoryLog):
    """A log whose worker dies right after it stored so many events."""

    def __init__(self, survives: int, old: MemoryLog) -> None:
        super().__init__(events=old.events)
        self._survives = survives

    async def append(self, type: str, body: dict[str, Any]) -> Any:  # noqa: A002
        event = await super().append(type, body)
        if len(self.events) == self._survives:
            raise SandboxLost("the machine is gone")
        return event


async def test_a_run_that_dies_after_any_event_ends_like_one_that_did_not(desk: Desk) -> None:
    await desk.work(turns(*REPAIR))
    whole = desk.log
    for survives in range(1, len(whole.events)):
        dying = Dying(survives, MemoryLog())
        with pytest.raises(SandboxLost):
            await desk.work(turns(*REPAIR), log=dying)
        log = MemoryLog(events=dying.events)
        interrupted = log.events[-1].type == "tool.intent"
        # The model sees that its call did not happen and makes it again.
        answers = again(REPAIR, steps(log.events)[-1].number) if interrupted else REPAIR
        assert await desk.work(turns(*answers), log=log) is StopReason.FINISHED, survives
        assert await desk.patch(log) == await desk.patch(whole)
        told = [text for text in texts(log.events) if "worker was restarted" not in text]
        assert told == texts(whole.events)
        assert len(texts(log.events)) - len(told) == interrupted
        assert [e.type for e in log.events].count("run.resumed") == 1


def again(answers: Sequence[AssistantMessage], step: int) -> list[AssistantMessage]:
    return [*answers[:step], *answers[step - 1 :]]


async def test_a_run_that_had_stopped_is_not_run_again(desk: Desk) -> None:
    await desk.work(turns(*REPAIR))
    events = list(desk.log.events)
    assert await desk.work(in_order()) is StopReason.FINISHED
    assert desk.log.events == events


async def test_an_interrupted_call_is_never_given_an_invented_result(desk: Desk) -> None:
    log = Dying(3, desk.log)
    with pytest.raises(SandboxLost):
        await desk.work(in_order(call("bash", command="echo x >> calc.py")), log=log)
    model = ScriptedModel(turns(FIX, FIX, FINISH))
    resumed = MemoryLog(events=log.events)
    assert await desk.work(model, log=resumed) is StopReason.FINISHED
    told = model.requests[0][0][-1]
    assert told["role"] == "tool"
    assert "was not completed" in told["content"]
    assert "+x" not in await desk.patch(resumed)


async def test_the_prompt_keeps_the_date_of_the_runs_start(desk: Desk) -> None:
    model = ScriptedModel(in_order(FINISH, FINISH))
    await desk.work(model)
    assert desk.log.events[0].at.date().isoformat() in model.requests[0][0][0]["content"]
    assert json.dumps(model.requests[0][0][0]) == json.dumps(model.requests[1][0][0])
