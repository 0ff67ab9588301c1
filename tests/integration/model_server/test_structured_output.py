"""Answers in a form that was asked for, over HTTP: from random weights, which would say anything, and from nano."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import torch
from openai import AsyncOpenAI

from model_server.__main__ import find_checkpoint
from model_server.chat.markers import END_THINK, THINK, TOOL_CALL
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.weights.load import load_model
from tests.integration.model_server.serving import serving
from tests.numerics.small_models import random_model, small_config
from tests.unit.model_server.small_tokenizer import small_tokenizer

pytestmark = pytest.mark.anyio

USER: Any = {"role": "user", "content": "hi"}
TOKENIZER = ChatTokenizer(small_tokenizer())
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"type": "integer", "minimum": 0}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
    "list": {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 2, "maxItems": 4},
    "choice": {
        "type": "object",
        "properties": {
            "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
            "right": {"$ref": "#/$defs/leaf"},
        },
        "required": ["left", "right"],
        "additionalProperties": False,
        "$defs": {"leaf": {"type": "array", "prefixItems": [{"type": "boolean"}], "minItems": 1, "maxItems": 1}},
    },
}


def tool(name: str, **properties: Any) -> Any:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


LOOK = tool("look", place={"type": "string", "maxLength": 6})
COUNT = tool("count", amount={"type": "integer", "maximum": 50, "minimum": 0}, exact={"type": "boolean"})


def json_schema(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def thinking(budget: int) -> dict[str, Any]:
    return {"chat_template_kwargs": {"enable_thinking": True}, "max_thinking_tokens": budget}


@pytest.fixture(scope="module")
async def client() -> AsyncGenerator[AsyncOpenAI, None]:
    model = random_model(small_config(vocab_size=TOKENIZER.vocab_size + 10), num_mtp_layers=2)
    engine = EmbeddedEngine(model, max_running=4, context_length=4096)
    app = create_app(engine, TOKENIZER, ServerSettings(model_name="m"))
    async with serving(app) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def nano() -> AsyncGenerator[AsyncOpenAI, None]:
    checkpoint = find_checkpoint("mimo-v2-nano")
    engine = EmbeddedEngine(load_model(checkpoint, torch.float32), context_length=4096)
    app = create_app(engine, ChatTokenizer.load(checkpoint), ServerSettings(model_name="m"))
    async with serving(app) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def answer(client: AsyncOpenAI, **fields: Any) -> Any:
    create: Any = client.chat.completions.create
    completion = await create(**{"model": "m", "messages": [USER], "max_tokens": 700} | fields)
    return completion.choices[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", SCHEMAS)
async def test_random_weights_answer_in_json_of_a_schema(client: AsyncOpenAI, name: str, temperature: float) -> None:
    asked = {"temperature": temperature, "seed": 4, "response_format": json_schema(SCHEMAS[name])}
    said = await answer(client, **asked)
    assert (said.finish_reason, said.message.tool_calls) == ("stop", None)
    value = json.loads(said.message.content)
    match name:
        case "object":
            assert value.keys() == {"name", "size"}
            assert len(value["name"]) <= 8
            assert value["size"] >= 0
        case "list":
            assert 2 <= len(value) <= 4
            assert all(item in ("red", "green", 3, None) for item in value)
        case "choice":
            assert value["left"] in (None, [True], [False])
            assert value["right"] in ([True], [False])


async def test_each_of_several_answers_keeps_to_the_form(client: AsyncOpenAI) -> None:
    several = await client.chat.completions.create(
        model="m", messages=[USER], n=4, seed=1, max_tokens=300, response_format=json_schema(SCHEMAS["list"])
    )
    texts = {choice.message.content or "" for choice in several.choices}
    assert len(texts) > 1
    assert all(2 <= len(json.loads(text)) <= 4 for text in texts)


async def test_json_of_any_shape_is_an_object(client: AsyncOpenAI) -> None:
    closing = {str(TOKENIZER.encode_text(text)[0]): 30 for text in '}"'}
    said = await answer(client, seed=1, response_format={"type": "json_object"}, logit_bias=closing)
    assert said.finish_reason == "stop"
    assert isinstance(json.loads(said.message.content), dict)


async def test_a_format_begins_after_free_thinking(client: AsyncOpenAI) -> None:
    asked = {"seed": 2, "response_format": json_schema(SCHEMAS["list"]), "logprobs": True}
    said = await answer(client, **asked, extra_body=thinking(9))
    tokens = [token.token for token in said.logprobs.content]
    assert tokens[0] == THINK
    assert tokens.index(END_THINK) <= 10
    assert said.message.reasoning_content
    assert isinstance(json.loads(said.message.content), list)


async def test_a_required_call_comes_from_random_weights(client: AsyncOpenAI) -> None:
    asked = {"tools": [LOOK, COUNT], "tool_choice": "required"}
    answers = await asyncio.gather(
        *(answer(client, seed=seed, **asked, extra_body=thinking(6) if seed % 2 else {}) for seed in range(4))
    )
    for said in answers:
        assert (said.finish_reason, said.message.content) == ("tool_calls", None)
        for call in said.message.tool_calls:
            arguments = json.loads(call.function.arguments)
            match call.function.name:
                case "look":
                    assert len(arguments["place"]) <= 6
                case "count":
                    assert 0 <= arguments["amount"] <= 50
                    assert isinstance(arguments.get("exact", True), bool)
                case other:
                    raise AssertionError(other)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_named_function_is_called_once(client: AsyncOpenAI, stream: bool) -> None:
    asked: Any = {
        "model": "m",
        "messages": [USER],
        "tools": [LOOK, COUNT],
        "tool_choice": {"type": "function", "function": {"name": "count"}},
        "temperature": 0.0,
        "max_tokens": 300,
    }
    if stream:
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    else:
        calls = (await client.chat.completions.create(**asked)).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["count"]
    assert 0 <= json.loads(calls[0].function.arguments)["amount"] <= 50


async def test_a_forced_call_goes_before_a_format_and_a_free_one_beside_it(client: AsyncOpenAI) -> None:
    asked = {"tools": [COUNT], "response_format": json_schema(SCHEMAS["list"])}
    forced = await answer(client, seed=0, **asked, tool_choice="required")
    assert forced.message.tool_calls
    free = await asyncio.gather(*(answer(client, seed=seed, temperature=2.0, **asked) for seed in range(8)))
    assert {said.finish_reason for said in free} == {"tool_calls", "stop"}
    for said in free:
        assert said.message.tool_calls or isinstance(json.loads(said.message.content), list)


async def test_a_stop_string_and_a_limit_end_an_answer_in_a_form_too(client: AsyncOpenAI) -> None:
    form = json_schema(SCHEMAS["object"])
    stopped = await answer(client, seed=1, response_format=form, stop='"name"')
    assert (stopped.finish_reason, stopped.message.content.strip()) == ("stop", "{")
    cut = await answer(client, seed=1, response_format=form, max_tokens=2)
    assert cut.finish_reason == "length"


async def test_a_call_is_never_begun_within_thinking(client: AsyncOpenAI) -> None:
    likely = {str(TOKENIZER.marker_id(marker)): 50 for marker in (THINK, TOOL_CALL)}
    answers = [
        await answer(client, tools=[LOOK], logit_bias=likely, max_tokens=30, extra_body=thinking(12), seed=seed)
        for seed in range(4)
    ]
    thoughts = [said.message for said in answers if said.message.reasoning_content]
    assert len(thoughts) > 0
    assert not any(TOOL_CALL in message.reasoning_content for message in thoughts)
    assert any(TOOL_CALL in message.content for message in thoughts)


async def test_nano_writes_the_call_it_is_asked_for_and_json_that_it_never_learned(nano: AsyncOpenAI) -> None:
    bash = tool("bash", command={"type": "string"})
    finish = tool("finish")
    named = await answer(
        nano,
        tools=[bash, finish],
        tool_choice={"type": "function", "function": {"name": "finish"}},
        temperature=0.0,
        extra_body=thinking(40),
    )
    assert [call.function.name for call in named.message.tool_calls] == ["finish"]
    required = await answer(nano, tools=[bash, finish], tool_choice="required", temperature=0.0)
    assert required.finish_reason == "tool_calls"
    said = await answer(nano, response_format=json_schema(SCHEMAS["object"]), seed=3)
    assert json.loads(said.message.content).keys() == {"name", "size"}
