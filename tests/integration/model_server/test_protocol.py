"""The server under the official OpenAI client: answers streamed and whole, tools, reasoning, errors, leaving."""

import asyncio
import json
from itertools import repeat
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from model_server.chat.markers import IM_END
from model_server.chat.template import render
from model_server.engine.scripted import ScriptedEngine
from model_server.types import EngineError, GenerateRequest
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, endless, ids, service, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_engines")]

THINKING = {"chat_template_kwargs": {"enable_thinking": True}}
CALL = "<tool_call>\n<function=bash>\n<parameter=command>echo '</parameter>' é</parameter>\n</function>\n</tool_call>"
BASH: Any = {
    "type": "function",
    "function": {
        "name": "bash",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
USER: Any = {"role": "user", "content": "hi"}


async def test_a_whole_answer_has_content_usage_and_a_finish_reason() -> None:
    engine = ScriptedEngine(lambda request: ids(f"héllo 😀{IM_END}"), cached_tokens=3)
    async with service(engine) as (client, _):
        answer = await client.chat.completions.create(model=MODEL, messages=[USER], seed=7, temperature=0.3, top_p=0.9)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("héllo 😀", "stop")
    assert "reasoning_content" not in choice.message.model_dump()
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(ids(f"héllo 😀{IM_END}"))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    request = engine.requests[0]
    assert request.prompt_ids == tuple(TOKENIZER.encode(render([USER], enable_thinking=False)))
    assert (request.sampling.seed, request.sampling.temperature, request.sampling.top_p) == (7, 0.3, 0.9)
    assert answer.usage.prompt_tokens == len(request.prompt_ids)


async def streamed(client: AsyncOpenAI, **arguments: Any) -> tuple[dict[str, Any], list[Any]]:
    """The message a client puts together of a stream, and all chunks."""
    message: dict[str, Any] = {"content": "", "calls": []}
    chunks = []
    create: Any = client.chat.completions.create
    async for chunk in await create(**{"model": MODEL, "messages": [USER], "stream": True} | arguments):
        chunks.append(chunk)
        for choice in chunk.choices:
            delta = choice.delta.model_dump(exclude_none=True)
            message["content"] += delta.get("content", "")
            if "reasoning_content" in delta:
                message["reasoning"] = message.get("reasoning", "") + delta["reasoning_content"]
            message["calls"] += delta.get("tool_calls", [])
            message["ending"] = choice.finish_reason
    return message, chunks


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        (f"<think>why é</think>ok{CALL}{CALL}{IM_END}", "tool_calls"),
        (f"<think></think>ok{IM_END}", "stop"),
        (f"<think>a{CALL}b{IM_END}", "tool_calls"),
        (f"<think>r</think>{CALL[:-20]}{IM_END}", "stop"),
    ],
)
async def test_streamed_and_whole_answers_are_the_same_message(text: str, ending: str) -> None:
    async with service(answering(text, text)) as (client, _):
        message, chunks = await streamed(
            client, tools=[BASH], extra_body=THINKING, stream_options={"include_usage": True}
        )
        whole = await client.chat.completions.create(model=MODEL, messages=[USER], tools=[BASH], extra_body=THINKING)
    choice = whole.choices[0]
    said = choice.message.model_dump()
    assert message["content"] == (said["content"] or "")
    assert message["reasoning"] == said["reasoning_content"]
    assert [call["function"] for call in message["calls"]] == [call["function"] for call in said["tool_calls"] or ()]
    assert [call["index"] for call in message["calls"]] == list(range(len(message["calls"])))
    assert chunks[-2].choices[0].finish_reason == choice.finish_reason == ending
    assert chunks[-1].usage == whole.usage
    assert getattr(chunks[-2], "mimo", None) == getattr(whole, "mimo", None)


async def test_clients_that_end_lines_wherever_unicode_does_get_every_event_whole() -> None:
    text = "a\u2028b\x85c\x0bd\u2029e"
    body = {"model": MODEL, "messages": [USER], "stream": True}
    async with service(answering(text + IM_END)) as (_, url), httpx.AsyncClient(base_url=f"{url}/v1") as http:
        said = await http.post("/chat/completions", json=body)
    *events, last = [line.removeprefix("data: ") for line in said.text.splitlines() if line]
    assert last == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events) == text


async def test_a_stream_cut_at_any_byte_is_no_whole_answer_to_the_official_client() -> None:
    body = {"model": MODEL, "messages": [USER], "stream": True}
    async with service(answering(f"é😀{IM_END}")) as (_, url), httpx.AsyncClient(base_url=f"{url}/v1") as http:
        whole = (await http.post("/chat/completions", json=body)).content
    ended = whole.index(b"\n\n", whole.index(b'"finish_reason":"stop"')) + 2
    cuts = [whole[:length] for length in range(len(whole) + 1)]
    unread = iter(cuts)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=next(unread))

    proxy = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with AsyncOpenAI(base_url="http://model", api_key="none", max_retries=0, http_client=proxy) as client:
        messages = [(await streamed(client))[0] for _ in cuts]
    for length, message in enumerate(messages):
        assert "é😀".startswith(message["content"])
        is_whole = (message["content"], message.get("ending")) == ("é😀", "stop")
        assert is_whole == (length >= ended), length


async def test_a_tool_call_has_typed_arguments_and_its_reasoning_is_counted() -> None:
    async with service(answering(f"<think>why</think>{CALL}{IM_END}")) as (client, _):
        answer = await client.chat.completions.create(model=MODEL, messages=[USER], tools=[BASH], extra_body=THINKING)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert json.loads(calls[0].function.arguments) == {"command": "echo '</parameter>' é"}  # type: ignore[union-attr]
    assert answer.choices[0].message.content is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == len(ids("why"))


async def test_a_tool_loop_renders_history_exactly_with_results_in_the_order_of_their_calls() -> None:
    engine = answering(f"done{IM_END}")
    call_a = {"id": "a", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    call_b = call_a | {"id": "b"}
    assistant = {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [call_a, call_b]}
    results = [{"role": "tool", "tool_call_id": id_, "content": f"result {id_}"} for id_ in "ab"]
    async with service(engine) as (client, _):
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "developer", "content": "S"}, USER, assistant, *reversed(results)],  # type: ignore[list-item]
            tools=[BASH],
            extra_body=THINKING,
        )
    expected = render([{"role": "system", "content": "S"}, USER, assistant, *results], [BASH], enable_thinking=True)
    assert engine.requests[0].prompt_ids == tuple(TOKENIZER.encode(expected))


async def test_without_tools_or_with_choice_none_a_call_is_text_and_tools_are_not_shown() -> None:
    engine = answering(f"{CALL}{IM_END}", f"{CALL}{IM_END}")
    async with service(engine) as (client, _):
        plain = await client.chat.completions.create(model=MODEL, messages=[USER])
        none = await client.chat.completions.create(model=MODEL, messages=[USER], tools=[BASH], tool_choice="none")
    assert plain.choices[0].message.content == none.choices[0].message.content == CALL
    assert engine.requests[0].prompt_ids == engine.requests[1].prompt_ids


async def test_fields_that_change_nothing_are_taken_and_clients_may_add_their_own_to_history() -> None:
    engine = answering(f"x{IM_END}", f"x{IM_END}")
    asked: dict[str, Any] = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    said: Any = {"role": "assistant", "content": "a", "reasoning_content": ""}
    async with service(engine) as (client, _):
        await client.chat.completions.create(model=MODEL, messages=[USER, said, USER])
        marked = said | {"provider_specific_fields": {"refusal": None}, "annotations": [], "refusal": None, "id": "m"}
        await client.chat.completions.create(model=MODEL, messages=[USER, marked, USER], **asked)
    assert engine.requests[0].prompt_ids == engine.requests[1].prompt_ids


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
async def test_an_effort_turns_thinking_on_unless_the_template_is_told(fields: dict[str, Any], thinks: bool) -> None:
    engine = answering(f"x{IM_END}")
    async with service(engine) as (client, _):
        await client.chat.completions.create(model=MODEL, messages=[USER], extra_body=fields)
    assert engine.requests[0].prompt_ids == tuple(TOKENIZER.encode(render([USER], enable_thinking=thinks)))


async def test_an_answer_ends_at_a_stop_string_and_the_sequence_is_cancelled() -> None:
    engine = ScriptedEngine(lambda request: (token for _ in repeat(0) for token in ids("one two ")))
    async with service(engine) as (client, _):
        answer = await client.chat.completions.create(model=MODEL, messages=[USER], stop=["e two o", "never"])
        message, _ = await streamed(client, stop="two")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("on", "stop")
    assert (message["content"], message["ending"]) == ("one ", "stop")
    assert len(engine.cancelled) == 2


async def test_an_answer_that_reaches_max_tokens_says_length_and_keeps_what_was_cut() -> None:
    half = ids("😀")[:2]
    async with service(ScriptedEngine(lambda request: [*ids("ab"), *half])) as (client, _):
        answer = await client.chat.completions.create(
            model=MODEL, messages=[USER], max_completion_tokens=len(ids("ab")) + 2
        )
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("ab\ufffd", "length")


async def test_without_max_tokens_the_context_is_the_limit() -> None:
    engine = answering(f"x{IM_END}")
    async with service(engine) as (client, _):
        await client.chat.completions.create(model=MODEL, messages=[USER])
    request = engine.requests[0]
    assert request.sampling.max_tokens == engine.stats().context_length - len(request.prompt_ids)


async def test_the_model_list_says_how_long_the_context_is() -> None:
    async with service(answering()) as (client, _):
        models = await client.models.list()
        card = await client.models.retrieve(MODEL)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
    assert [model.id for model in models.data] == [card.id] == [MODEL]
    assert card.max_model_len == 65_536  # type: ignore[attr-defined]


async def test_a_stream_that_fails_ends_with_an_error_event_and_never_with_done() -> None:
    async with service(ScriptedEngine(lambda request: ids("ab"))) as (client, url):
        with pytest.raises(openai.APIError, match="report request chatcmpl-"):
            await streamed(client)
        async with httpx.AsyncClient() as http:
            body = {"model": MODEL, "messages": [USER], "stream": True}
            text = (await http.post(f"{url}/v1/chat/completions", json=body)).text
    assert "[DONE]" not in text
    assert json.loads(text.strip().rsplit("data: ", 1)[1])["error"]["code"] == "internal_error"


async def test_a_whole_stream_ends_with_done() -> None:
    async with service(answering(f"a{IM_END}")) as (_, url), httpx.AsyncClient() as http:
        body = {"model": MODEL, "messages": [USER], "stream": True}
        answer = await http.post(f"{url}/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_failing_engine_is_a_500_with_the_request_id_and_a_full_one_a_429() -> None:
    def broken(request: GenerateRequest) -> list[int]:
        raise EngineError("secret detail")

    async with service(ScriptedEngine(broken)) as (client, _):
        with pytest.raises(openai.InternalServerError, match="report request chatcmpl-") as failed:
            await client.chat.completions.create(model=MODEL, messages=[USER])
    assert "secret" not in str(failed.value)
    async with service(endless(max_running=0)) as (client, _):
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as full:
                await client.chat.completions.create(model=MODEL, messages=[USER], stream=stream)
            assert full.value.response.headers["retry-after"]
            assert full.value.code == "overloaded"


async def test_a_bug_while_streaming_still_ends_the_stream_with_an_error_event() -> None:
    def buggy(request: GenerateRequest) -> Any:
        yield from ids("ab")
        raise ZeroDivisionError

    async with service(ScriptedEngine(buggy)) as (client, _):
        with pytest.raises(openai.APIError, match="report request"):
            await streamed(client)


async def test_a_client_that_leaves_cancels_its_sequence() -> None:
    engine = endless()
    async with service(engine) as (client, url):
        stream = await client.chat.completions.create(model=MODEL, messages=[USER], stream=True)
        await anext(aiter(stream))
        await stream.close()
        await until(lambda: len(engine.cancelled) == 1)
        async with httpx.AsyncClient() as http:
            whole = asyncio.create_task(
                http.post(f"{url}/v1/chat/completions", json={"model": MODEL, "messages": [USER]})
            )
            await until(lambda: engine.stats().running == 1)
            whole.cancel()
            await until(lambda: len(engine.cancelled) == 2)
    assert engine.stats().running == 0
    assert engine.closed


async def test_requests_run_side_by_side() -> None:
    engine = endless(interval_s=0.002)
    async with service(engine) as (client, _):
        requests = [
            asyncio.create_task(client.chat.completions.create(model=MODEL, messages=[USER], max_tokens=200))
            for _ in range(4)
        ]
        await until(lambda: engine.stats().running == 4)
        answers = await asyncio.gather(*requests)
    assert [answer.choices[0].finish_reason for answer in answers] == ["length"] * 4


async def test_a_key_guards_the_protocol_but_not_the_probes() -> None:
    async with service(answering(f"x{IM_END}", f"x{IM_END}"), api_key="s3cret") as (client, url):
        with pytest.raises(openai.AuthenticationError, match="Authorization") as refused:
            await client.models.list()
        assert refused.value.code == "invalid_api_key"
        assert (await client.with_options(api_key="s3cret").models.list()).data
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/livez")).status_code == 200
            assert (await http.get(f"{url}/health")).status_code == 200


async def test_health_means_that_a_token_was_generated() -> None:
    async with service(ScriptedEngine(lambda request: []), health_fresh_s=0.0) as (_, url), httpx.AsyncClient() as http:
        answer = await http.get(f"{url}/health")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"]
    slow = endless(interval_s=60)
    async with service(slow, health_timeout_s=0.3) as (_, url), httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/health")).status_code == 503
        await until(lambda: len(slow.cancelled) == 1)


async def test_a_server_that_answers_is_healthy_without_a_token_of_its_own() -> None:
    engine = answering(f"x{IM_END}")
    async with service(engine) as (client, url), httpx.AsyncClient() as http:
        await client.chat.completions.create(model=MODEL, messages=[USER])
        assert (await http.get(f"{url}/health")).json()["status"] == "ready"
    assert len(engine.requests) == 1


async def test_a_client_that_leaves_while_it_sends_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with service(answering()) as (_, url):
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_logs_name_the_request_and_hold_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="model_server")
    async with service(answering(f"private answer{IM_END}")) as (client, _):
        answer = await client.chat.completions.create(model=MODEL, messages=[USER | {"content": "private ask"}])
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model=MODEL, messages=[USER | {"role": "private"}])
    text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("model_server"))
    assert answer.id in text
    assert "outcome=stop" in text
    assert "private" not in text


async def test_tokens_of_a_text_and_of_a_conversation_can_be_asked_for_and_come_back() -> None:
    engine = answering(f"x{IM_END}")
    async with service(engine) as (client, url), httpx.AsyncClient(base_url=url) as http:
        text = (await http.post("/tokenize", json={"model": MODEL, "prompt": "def añd <|im_end|>"})).json()
        assert text["tokens"] == TOKENIZER.encode_text("def añd <|im_end|>")
        assert text["count"] == len(text["tokens"])
        back = await http.post("/detokenize", json={"model": MODEL, "tokens": text["tokens"]})
        assert back.json() == {"text": "def añd <|im_end|>"}
        asked: dict[str, Any] = {"model": MODEL, "messages": [USER], "tools": [BASH]}
        conversation = (await http.post("/tokenize", json=asked)).json()
        await client.chat.completions.create(**asked)
        assert tuple(conversation["tokens"]) == engine.requests[0].prompt_ids
        assert (await http.post("/tokenize", json={"model": MODEL})).json()["error"]["param"] == "prompt"
        refused = await http.post("/detokenize", json={"model": MODEL, "tokens": [-1]})
        assert refused.json()["error"]["param"] == "tokens[0]"


async def test_metrics_count_requests_and_tokens_by_what_they_cost() -> None:
    engine = ScriptedEngine(lambda request: ids(f"abc{IM_END}"), cached_tokens=3)
    async with service(engine) as (client, url), httpx.AsyncClient(base_url=url) as http:
        usage = (await client.chat.completions.create(model=MODEL, messages=[USER])).usage
        assert usage is not None
        exported = (await http.get("/metrics")).text
    samples = {
        (sample.name, sample.labels.get("mode") or sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(exported)
        for sample in family.samples
        if sample.labels.get("model_name") == MODEL
    }
    assert samples["sglang:num_requests_total", "stop"] == 1
    assert samples["sglang:realtime_tokens_total", "prefill_cache"] == 3
    assert samples["sglang:realtime_tokens_total", "prefill_compute"] == usage.prompt_tokens - 3
    assert samples["sglang:realtime_tokens_total", "decode"] == usage.completion_tokens
    assert samples["sglang:time_to_first_token_seconds_count", None] == 1
    assert samples["sglang:num_running_reqs", None] == samples["sglang:num_queue_reqs", None] == 0
