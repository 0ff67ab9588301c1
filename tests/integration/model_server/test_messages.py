"""``/v1/messages`` under the official Anthropic client: the same answers as the other protocol, in blocks."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic

from model_server.chat.markers import IM_END
from model_server.chat.template import render
from model_server.engine.scripted import ScriptedEngine
from model_server.types import EngineError, GenerateRequest
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, endless, ids, service, until

pytestmark = pytest.mark.anyio

USER: Any = {"role": "user", "content": "hi"}
ASK: dict[str, Any] = {"model": MODEL, "messages": [USER], "max_tokens": 1000}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
CALL = "<tool_call>\n<function=bash>\n<parameter=command>echo '</parameter>' é</parameter>\n</function>\n</tool_call>"
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
BASH: Any = {"name": "bash", "description": "Run it.", "input_schema": PARAMETERS}
INPUT = {"command": "echo '</parameter>' é"}


@asynccontextmanager
async def messages(engine: ScriptedEngine, **settings: Any) -> AsyncGenerator[AsyncAnthropic, None]:
    async with (
        service(engine, **settings) as (_, url),
        AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


def prompt(*turns: Any, system: str | None = None, thinking: bool = False, tools: bool = False) -> tuple[int, ...]:
    """Token ids of a conversation that is written as a chat completion."""
    first = [] if system is None else [{"role": "system", "content": system}]
    function = {"name": "bash", "description": "Run it.", "parameters": PARAMETERS}
    shown = [{"type": "function", "function": function}] if tools else []
    return tuple(TOKENIZER.encode(render([*first, *turns], shown, enable_thinking=thinking)))


def content(message: Any) -> list[dict[str, Any]]:
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    return [{key: value for key, value in block.items() if key != "id"} for block in blocks]


@pytest.mark.usefixtures("both_engines")
@pytest.mark.parametrize(
    ("text", "reason", "kinds"),
    [
        (f"<think>why é</think>ok{CALL}{CALL}{IM_END}", "tool_use", ["thinking", "text", "tool_use", "tool_use"]),
        (f"<think>a{CALL}b{IM_END}", "tool_use", ["thinking", "tool_use", "text"]),
        (f"<think></think>o😀k{IM_END}", "end_turn", ["text"]),
        (f"<think>r</think>{IM_END}", "end_turn", ["thinking"]),
        (IM_END, "end_turn", []),
    ],
)
async def test_streamed_and_whole_answers_are_the_same_blocks(text: str, reason: str, kinds: list[str]) -> None:
    asked = ASK | {"tools": [BASH], "thinking": THINKING}
    async with messages(answering(text, text)) as client:
        async with client.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
        whole = await client.messages.create(**asked)
    assert [block.type for block in whole.content] == kinds
    assert content(streamed) == content(whole)
    assert streamed.stop_reason == whole.stop_reason == reason
    assert streamed.usage.model_dump(exclude_none=True) == whole.usage.model_dump(exclude_none=True)
    assert whole.usage.output_tokens == len(ids(text))


async def test_events_come_in_the_order_of_the_protocol() -> None:
    async with messages(answering(f"<think>why</think>ok{CALL}{IM_END}")) as client:
        stream = await client.messages.create(**ASK, tools=[BASH], thinking=THINKING, stream=True)
        events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    blocks = [(event.type, event.index) for event in events[1:-2] if event.type != "content_block_delta"]
    assert blocks == [(f"content_block_{kind}", index) for index in range(3) for kind in ("start", "stop")]
    deltas = [event.delta.type for event in events if event.type == "content_block_delta"]
    assert list(dict.fromkeys(deltas)) == ["thinking_delta", "signature_delta", "text_delta", "input_json_delta"]
    assert deltas.count("signature_delta") == 1


async def test_a_call_has_its_input_and_reused_tokens_are_counted_apart() -> None:
    engine = ScriptedEngine(lambda request: ids(f"<think>why</think>{CALL}{IM_END}"), cached_tokens=3)
    async with messages(engine) as client:
        message = await client.messages.create(**ASK, tools=[BASH], thinking=THINKING)
    assert content(message)[1] == {"type": "tool_use", "name": "bash", "input": INPUT}
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (len(engine.requests[0].prompt_ids) - 3, 3)
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == len(ids("why"))


async def test_a_tool_loop_sends_back_what_it_got_and_the_prompt_is_exact() -> None:
    engine = answering(f"<think>a </think>b</think>ok{CALL}{CALL}{IM_END}", f"done{IM_END}")
    asked = ASK | {"tools": [BASH], "thinking": THINKING, "system": [{"type": "text", "text": "S"}]}
    async with messages(engine) as client:
        first = await client.messages.create(**asked)
        calls = [block for block in first.content if block.type == "tool_use"]
        results: list[Any] = [
            {"type": "tool_result", "tool_use_id": calls[1].id, "content": "two", "is_error": True},
            {
                "type": "tool_result",
                "tool_use_id": calls[0].id,
                "content": [{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}],
            },
            {"type": "text", "text": "and now?"},
        ]
        history = [USER, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        await client.messages.create(**asked | {"messages": history})
    call = {"function": {"name": "bash", "arguments": INPUT}}
    turn = {"role": "assistant", "reasoning_content": "a ", "content": "b</think>ok", "tool_calls": [call, call]}
    told = [{"role": "tool", "content": "one"}, {"role": "tool", "content": "two"}]
    user = {"role": "user", "content": "and now?"}
    assert engine.requests[1].prompt_ids == prompt(USER, turn, *told, user, system="S", thinking=True, tools=True)


async def test_thinking_is_off_unless_asked_for_and_has_a_budget() -> None:
    engine = answering(*[f"x{IM_END}"] * 4)
    async with messages(engine) as client:
        for thinking in ({}, {"type": "disabled"}, {"type": "adaptive"}, THINKING):
            await client.messages.create(**ASK | ({"thinking": thinking} if thinking else {}))
    off, also_off, on, bounded = engine.requests
    assert off.prompt_ids == also_off.prompt_ids == prompt(USER)
    assert on.prompt_ids == bounded.prompt_ids == prompt(USER, thinking=True)
    assert on.sampling.deadline is None
    assert bounded.sampling.deadline is not None
    assert bounded.sampling.deadline.num_tokens == 1025


async def test_a_turn_without_thinking_keeps_text_that_looks_like_it() -> None:
    engine = answering(f"x{IM_END}")
    said = {"role": "assistant", "content": "a</think>b"}
    async with messages(engine) as client:
        await client.messages.create(**ASK | {"messages": [USER, said, USER]})
    assert engine.requests[0].prompt_ids == prompt(USER, said | {"reasoning_content": ""}, USER)


@pytest.mark.parametrize(
    ("choice", "shown", "forced"),
    [
        ({"type": "auto"}, True, False),
        ({"type": "any"}, True, True),
        ({"type": "tool", "name": "bash"}, True, True),
        ({"type": "none"}, False, False),
    ],
)
async def test_every_tool_choice_is_kept(choice: Any, shown: bool, forced: bool) -> None:
    engine = answering(f"{CALL}{IM_END}")
    async with messages(engine) as client:
        message = await client.messages.create(**ASK, tools=[BASH], tool_choice=choice)
    assert engine.requests[0].prompt_ids == prompt(USER, tools=shown)
    assert (engine.requests[0].sampling.grammar is not None) == forced
    assert message.content[0].type == ("tool_use" if shown else "text")


async def test_without_parallel_calls_the_first_one_ends_the_answer() -> None:
    engine = answering(*[f"ok{CALL}{CALL}{IM_END}"] * 2)
    async with service(engine) as (openai, url), AsyncAnthropic(base_url=url, api_key="none") as client:
        choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
        message = await client.messages.create(**ASK, tools=[BASH], tool_choice=choice)
        function: Any = {"type": "function", "function": {"name": "bash", "parameters": PARAMETERS}}
        answer = await openai.chat.completions.create(
            model=MODEL, messages=[USER], tools=[function], parallel_tool_calls=False
        )
        await until(lambda: len(engine.cancelled) == 2)
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.stop_reason == "tool_use"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert len(answer.choices[0].message.tool_calls or ()) == 1


async def test_json_of_a_schema_is_enforced() -> None:
    engine = answering(f"{{}}{IM_END}")
    async with messages(engine) as client:
        form: Any = {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"}
        await client.messages.create(**ASK, output_config=form)
        assert engine.requests[0].sampling.grammar is not None
        bad: Any = {"format": {"type": "json_schema", "schema": {"not": {}}}}
        with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format\.schema cannot be enforced"):
            await client.messages.create(**ASK, output_config=bad)


async def test_what_ended_an_answer_is_named() -> None:
    async with messages(endless("ab", context_length=200)) as client:
        stopped = await client.messages.create(**ASK, stop_sequences=["aa"])
        short = await client.messages.create(**ASK | {"max_tokens": 5})
        full = await client.messages.create(**ASK)
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content) == ("stop_sequence", "aa", [])
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 5)
    assert full.stop_reason == "model_context_window_exceeded"
    assert full.usage.output_tokens + full.usage.input_tokens == 200


async def test_tokens_are_counted_as_they_are_billed() -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": [USER], "tools": [BASH], "system": "S"}
    async with messages(answering(f"x{IM_END}")) as client:
        counted = await client.messages.count_tokens(**asked)
        message = await client.messages.create(**asked, max_tokens=5)
    assert counted.input_tokens == message.usage.input_tokens


async def test_fields_of_other_servers_change_nothing() -> None:
    engine = answering(f"x{IM_END}", f"x{IM_END}")
    mark: Any = {"type": "ephemeral"}
    asked: dict[str, Any] = {
        "betas": ["context-1m-2025-08-07"],
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": mark,
        "context_management": {"edits": []},
        "tools": [BASH | {"cache_control": mark, "type": "custom", "strict": True}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": mark}]}],
    }
    async with messages(engine) as client:
        await client.messages.create(**ASK, tools=[BASH])
        await client.beta.messages.create(**ASK | asked)
    assert engine.requests[0].prompt_ids == engine.requests[1].prompt_ids


async def test_models_are_listed_for_both_protocols() -> None:
    async with messages(answering()) as client:
        models = await client.models.list()
        card = await client.models.retrieve(MODEL)
    assert [model.id for model in models.data] == [card.id] == [MODEL]
    assert card.type == "model"
    assert card.created_at.year >= 2026


async def test_the_key_may_come_in_either_header() -> None:
    async with service(answering(f"x{IM_END}", f"x{IM_END}"), api_key="s3cret") as (_, url):
        for client in (
            AsyncAnthropic(base_url=url, api_key="s3cret"),
            AsyncAnthropic(base_url=url, auth_token="s3cret"),
        ):
            async with client:
                assert (await client.messages.create(**ASK)).content
        async with AsyncAnthropic(base_url=url, api_key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError, match="x-api-key"):
                await client.messages.create(**ASK)


@pytest.fixture(scope="module")
async def http() -> AsyncGenerator[httpx.AsyncClient, None]:
    engine = endless(context_length=200)
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        yield http
    assert not engine.requests, "a bad request reached the engine"


def block(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [fields]}]


CALLED = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [USER, {"role": "assistant", "content": "{"}]}, "last message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": block(type="image", source={})}, "messages[0].content[0]"),
        ({"messages": block(type="text")}, "messages[0].content[0].text.text"),
        ({"messages": block(type="thinking", thinking="x")}, "messages[0].content[0]"),
        ({"messages": block(type="tool_result", tool_use_id="a")}, "messages[0].content[0]"),
        ({"messages": [CALLED, *2 * block(type="tool_result", tool_use_id="a")]}, "messages[2].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]}, "assistant"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "function name"),
        ({"tools": [{"name": "f", "input_schema": {"properties": {"a>b": {}}}}]}, "parameter name"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "no tool named f"),
        ({"tool_choice": {"type": "any"}}, "needs tools"),
        (
            {"tool_choice": {"type": "any"}, "tools": [{"name": "f", "input_schema": {"required": ["a"]}}]},
            "tools[0].input_schema.required",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"temperature": -1}, "temperature"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"max_token": 5}, "max_token"),
        ({"system": 3}, "system"),
        ({"messages": [{"role": "user", "content": "word " * 500}]}, "Shorten messages"),
    ],
)
async def test_a_bad_request_is_refused_in_the_protocols_shape(
    http: httpx.AsyncClient, fields: dict[str, Any], path: str
) -> None:
    answer = await http.post("/v1/messages", content=json.dumps(ASK | fields))
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert path in body["error"]["message"]


async def test_errors_have_the_types_of_the_protocol() -> None:
    def broken(request: GenerateRequest) -> list[int]:
        raise EngineError("secret detail")

    async with messages(ScriptedEngine(broken)) as client:
        with pytest.raises(anthropic.InternalServerError, match="report request msg_"):
            await client.messages.create(**ASK)
        with pytest.raises(anthropic.NotFoundError, match=f"This server has: {MODEL}"):
            await client.messages.create(**ASK | {"model": "other"})
        with pytest.raises(anthropic.NotFoundError):
            await client.post("/v1/messages/batches", cast_to=object)
    async with messages(endless(max_running=0)) as client:
        with pytest.raises(anthropic.RateLimitError) as full:
            await client.messages.create(**ASK, stream=True)
    assert full.value.response.headers["retry-after"]


async def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    async with messages(ScriptedEngine(lambda request: ids("ab"))) as client:
        with pytest.raises(anthropic.APIStatusError, match="report request msg_"):
            async with client.messages.stream(**ASK) as stream:
                await stream.get_final_message()


async def test_a_client_that_leaves_cancels_its_sequence() -> None:
    engine = endless()
    async with messages(engine) as client:
        stream = await client.messages.create(**ASK | {"max_tokens": 60_000}, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await until(lambda: len(engine.cancelled) == 1)
