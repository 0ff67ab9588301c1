"""The model client against a real HTTP endpoint that does what endpoints do, good and bad."""

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from agent.config import ModelSettings, model_settings
from agent.errors import ModelError
from agent.guard import AnswerGuard, GuardSettings
from agent.model import Completion, Delta, StreamGuard, open_model
from agent.testing import Cut, Garbage, ScriptedEndpoint, Stalled, Status, call, in_order
from agent.testing.scripted_endpoint import Fault
from agent.types import AssistantMessage, Message, ModelOptions, ToolCall, Usage

pytestmark = pytest.mark.anyio

SECRET = "sk-very-secret"
QUESTION: list[Message] = [{"role": "user", "content": "hello"}]
ANSWER = AssistantMessage(
    content="Grüße, 世界",
    reasoning_content="first this,\nthen that",
    tool_calls=(
        ToolCall(id="call_a", name="bash", arguments='{"command": "echo &lt; null </parameter>"}'),
        ToolCall(id="call_b", name="finish", arguments="{}"),
    ),
    finish_reason="tool_calls",
)


async def ask(
    url: str,
    options: ModelOptions | None = None,
    deltas: list[Delta] | None = None,
    watch: StreamGuard | None = None,
    **settings: float,
) -> Completion:
    given = {"api_key": SECRET, "name": "default", "backoff_s": 0.0, "retries": 2, **settings}
    async with open_model(ModelSettings.model_validate({"url": url, **given})) as model:
        on_delta = deltas.append if deltas is not None else None
        return await model.complete(QUESTION, [{"type": "function"}], options or ModelOptions(), on_delta, watch)


async def failure(endpoint: ScriptedEndpoint, **settings: float) -> ModelError:
    with endpoint.running() as url, pytest.raises(ModelError) as caught:
        await ask(url, None, None, None, **settings)
    assert SECRET not in str(caught.value)
    return caught.value


async def test_an_answer_comes_out_as_it_was_streamed() -> None:
    with ScriptedEndpoint(in_order(ANSWER)).running() as url:
        completion = await ask(url)
    assert completion.message == ANSWER
    assert completion.usage == Usage(prompt_tokens=100, completion_tokens=10)
    assert completion.aborted is None


@pytest.mark.parametrize("reasoning", [None, "", "text"])
async def test_absent_empty_and_present_reasoning_are_three_states(reasoning: str | None) -> None:
    answer = AssistantMessage(content="x", reasoning_content=reasoning, finish_reason="stop")
    with ScriptedEndpoint(in_order(answer)).running() as url:
        assert (await ask(url)).message.reasoning_content == reasoning


async def test_the_request_says_everything_explicitly() -> None:
    endpoint = ScriptedEndpoint(in_order(ANSWER, ANSWER))
    with endpoint.running() as url:
        await ask(url, ModelOptions(temperature=0.0, thinking=False, seed=7, max_tokens=50))
        await ask(url, ModelOptions(name="other"))
    first, second = endpoint.requests
    assert first == {
        "model": "default",
        "messages": QUESTION,
        "tools": [{"type": "function"}],
        "temperature": 0.0,
        "top_p": 0.95,
        "max_tokens": 50,
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False, "keep_all_reasoning": True},
    }
    assert (second["model"], second["chat_template_kwargs"]["enable_thinking"]) == ("other", True)
    assert "seed" not in second
    assert endpoint.headers[0]["authorization"] == f"Bearer {SECRET}"


async def test_whoever_follows_sees_every_piece_in_order() -> None:
    deltas: list[Delta] = []
    with ScriptedEndpoint(in_order(ANSWER)).running() as url:
        await ask(url, deltas=deltas)
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == ANSWER.reasoning_content
    assert "".join(d.text for d in deltas if d.kind == "content") == ANSWER.content
    assert "".join(d.text for d in deltas if d.kind == "tool_call" and d.index == 1) == "{}"


async def test_a_degenerate_answer_is_ended_in_the_middle_and_kept() -> None:
    endless = AssistantMessage(reasoning_content="Wait. " * 20_000)
    with ScriptedEndpoint(in_order(endless)).running() as url:
        completion = await ask(url, watch=AnswerGuard(GuardSettings()))
    assert completion.aborted == "repetition"
    assert completion.message.reasoning_content
    assert len(completion.message.reasoning_content) < 10_000
    assert completion.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "fault",
    [
        Status(503, "starting", {"Retry-After": "0"}),
        Status(429),
        Status(500),
        Cut(ANSWER),
        Garbage(),
        Garbage('data: {"error": {"message": "engine restarted"}}\n\n'),
        Garbage('data: {"choices": [{"delta": {"content": 7}}]}\n\n'),
        Garbage(""),
    ],
    ids=str,
)
async def test_a_failure_that_may_pass_is_tried_again(fault: Fault) -> None:
    deltas: list[Delta] = []
    endpoint = ScriptedEndpoint(in_order(ANSWER), faults=[fault, fault])
    with endpoint.running() as url:
        assert (await ask(url, deltas=deltas)).message == ANSWER
    assert len(endpoint.requests) == 3
    last_start = max((i for i, d in enumerate(deltas) if d.kind == "restart"), default=-1)
    assert "".join(d.text for d in deltas[last_start + 1 :] if d.kind == "content") == ANSWER.content


@pytest.mark.parametrize("fault", [Stalled(), Stalled(ANSWER)], ids=["before", "in the middle"])
async def test_an_endpoint_that_falls_silent_is_given_up_in_time(fault: Fault) -> None:
    endpoint = ScriptedEndpoint(in_order(ANSWER), faults=[fault, fault])
    error = await failure(endpoint, first_token_s=0.3, idle_s=0.3, retries=1)
    assert (error.code, error.retryable, len(endpoint.requests)) == ("timeout", True, 2)


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (Status(401, f'{{"error": {{"message": "bad key {SECRET}"}}}}'), "unauthorized", "MIMO_MODEL_API_KEY"),
        (Status(404, '{"error": {"message": "no model x"}}'), "not_found", "no model x"),
        (Status(400, '{"error": {"message": "bad tools"}}'), "refused", "bad tools"),
        (
            Status(400, '{"error": {"message": "too many tokens", "code": "context_length_exceeded"}}'),
            "context_length_exceeded",
            "too many tokens",
        ),
        (
            Status(400, '{"error": {"message": "This model\'s maximum context length is 64"}}'),
            "context_length_exceeded",
            "64",
        ),
        (Garbage("<html>a proxy</html>", "text/html"), "protocol", "event stream"),
    ],
    ids=str,
)
async def test_a_failure_that_would_come_again_is_not_tried_again(fault: Fault, code: str, says: str) -> None:
    endpoint = ScriptedEndpoint(in_order(ANSWER), faults=[fault])
    error = await failure(endpoint)
    assert (error.code, error.retryable, len(endpoint.requests)) == (code, False, 1)
    assert says in str(error)


async def test_an_answer_that_no_model_writes_in_its_tokens_is_not_read_to_its_end() -> None:
    chunk = json.dumps({"choices": [{"delta": {"content": "A" * 2**24}, "finish_reason": "stop"}]})
    endpoint = ScriptedEndpoint(in_order(ANSWER), faults=[Garbage(f"data: {chunk}\n\ndata: [DONE]\n\n")] * 3)
    error = await failure(endpoint)
    assert (error.code, error.retryable, len(endpoint.requests)) == ("protocol", True, 3)
    assert "sent more than 9,437,184 bytes as one answer" in str(error)


async def test_tries_come_to_an_end() -> None:
    endpoint = ScriptedEndpoint(in_order(ANSWER), faults=[Status(503, "still loading")] * 9)
    error = await failure(endpoint)
    assert (error.code, error.retryable, len(endpoint.requests)) == ("away", True, 3)
    assert "still loading" in str(error)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


async def test_an_endpoint_that_is_down_is_named_without_its_password(closed_port: int) -> None:
    with pytest.raises(ModelError) as caught:
        await ask(f"http://user:{SECRET}@127.0.0.1:{closed_port}/v1")
    assert (caught.value.code, caught.value.retryable) == ("unreachable", True)
    assert f"http://127.0.0.1:{closed_port}/v1" in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_a_cancelled_call_ends_at_once() -> None:
    endpoint = ScriptedEndpoint(in_order(call("finish")), faults=[Stalled(ANSWER)])
    with endpoint.running() as url:
        asking = asyncio.create_task(ask(url))
        while not endpoint.requests:  # noqa: ASYNC110 - they are filled by another thread
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def test_settings_come_from_the_environment_and_hide_the_key() -> None:
    settings = model_settings(
        {"MIMO_MODEL_URL": "https://host/v1", "MIMO_MODEL_NAME": "", "MIMO_MODEL_API_KEY": SECRET}
    )
    assert (settings.url, settings.name) == ("https://host/v1", ModelSettings().name)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    with pytest.raises(ValueError, match="url") as caught:
        model_settings({"MIMO_MODEL_URL": "ftp://host", "MIMO_MODEL_API_KEY": SECRET})
    assert SECRET not in str(caught.value)
