"""Whatever stands in a field, the server answers in its protocol and goes on."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from model_server.chat.markers import IM_END
from model_server.engine.scripted import ScriptedEngine
from model_server.server.completion_schema import CompletionRequest
from model_server.server.messages_schema import MessagesRequest
from model_server.server.native_schema import NativeRequest
from model_server.server.schemas import ChatRequest
from tests.integration.model_server.scripted_service import MODEL, ids, service

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "hi"}
DEEP = "[" * 5000 + "]" * 5000
ABSURD = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e308",
    "-1",
    "0",
    str(10**40),
    "0.5",
    "true",
    '""',
    '"\\ud800"',
    '"\\u0000"',
    "[]",
    "[[]]",
    "[{}]",
    "[null]",
    '["\\ud800"]',
    "{}",
    '{"": null}',
    '{"1": NaN}',
    '{"type": {}}',
    DEEP,
)
"""JSON values, as text: some of them no encoder would write."""
ENDPOINTS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "/v1/chat/completions": (ChatRequest, {"model": MODEL, "messages": [USER]}),
    "/v1/completions": (CompletionRequest, {"model": MODEL, "prompt": "hi"}),
    "/v1/messages": (MessagesRequest, {"model": MODEL, "messages": [USER], "max_tokens": 5}),
    "/generate": (NativeRequest, {"input_ids": [1]}),
}


@pytest.fixture(scope="module")
async def http() -> AsyncGenerator[httpx.AsyncClient, None]:
    engine = ScriptedEngine(lambda request: ids(f"x{IM_END}"), context_length=200)
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        yield http


async def post(http: httpx.AsyncClient, path: str, body: str) -> httpx.Response:
    return await http.post(path, content=body.encode("utf-8", "surrogatepass"))


def with_field(body: dict[str, Any], name: str, value: str) -> str:
    return json.dumps(body | {name: "VALUE"}).replace('"VALUE"', value)


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_no_value_of_a_field_makes_the_server_fail(http: httpx.AsyncClient, path: str) -> None:
    schema, body = ENDPOINTS[path]
    names = [field.alias or name for name, field in schema.model_fields.items()]
    for name in names:
        for value in ABSURD:
            answer = await post(http, path, with_field(body, name, value))
            assert answer.status_code in (200, 400, 404), (name, value, answer.text)
            assert answer.status_code == 200 or answer.json()["error"]["message"], (name, value)


TOOL = '{"type": "function", "function": {"name": "f", "parameters": VALUE}}'
CALL = '{"id": "a", "function": {"name": "f", "arguments": VALUE}}'
NESTED = {
    "message": ("messages", "[VALUE]"),
    "role": ("messages", '[{"role": VALUE, "content": "x"}]'),
    "content": ("messages", '[{"role": "user", "content": VALUE}]'),
    "part": ("messages", '[{"role": "user", "content": [{"type": "text", "text": VALUE}]}]'),
    "reasoning": ("messages", '[{"role": "assistant", "content": "x", "reasoning_content": VALUE}]'),
    "call": ("messages", '[{"role": "assistant", "tool_calls": [VALUE]}]'),
    "arguments": ("messages", '[{"role": "assistant", "tool_calls": [' + CALL + "]}]"),
    "argument": ("messages", '[{"role": "assistant", "tool_calls": [' + CALL.replace("VALUE", '{"a": VALUE}') + "]}]"),
    "tool": ("tools", "[VALUE]"),
    "function": ("tools", '[{"type": "function", "function": VALUE}]'),
    "parameters": ("tools", f"[{TOOL}]"),
    "properties": ("tools", "[" + TOOL.replace("VALUE", '{"properties": VALUE}') + "]"),
    "property": ("tools", "[" + TOOL.replace("VALUE", '{"properties": {"a": VALUE}}') + "]"),
    "type": ("tools", "[" + TOOL.replace("VALUE", '{"properties": {"a": {"type": VALUE}}}') + "]"),
    "schema": ("response_format", '{"type": "json_schema", "json_schema": {"name": "a", "schema": VALUE}}'),
    "schema type": (
        "response_format",
        '{"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": VALUE}}}',
    ),
    "named tool": ("tool_choice", '{"type": "function", "function": {"name": VALUE}}'),
}


@pytest.mark.parametrize("place", NESTED)
async def test_no_value_within_a_field_makes_the_server_fail(http: httpx.AsyncClient, place: str) -> None:
    name, around = NESTED[place]
    _, body = ENDPOINTS["/v1/chat/completions"]
    for value in (*ABSURD, json.dumps(DEEP)):
        answer = await post(http, "/v1/chat/completions", with_field(body, name, around.replace("VALUE", value)))
        assert answer.status_code in (200, 400), (value, answer.text)


ENDLESS = "0123456789" * 200_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ENDLESS}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ENDLESS[:300]}] * 9000}),
        ("/v1/messages", {"messages": [{"role": "user", "content": ENDLESS}], "max_tokens": 5}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": ENDLESS}]}),
        ("/v1/completions", {"prompt": ENDLESS}),
        ("/tokenize", {"prompt": ENDLESS}),
    ],
    ids=["one message", "messages", "blocks", "count", "prompt", "tokens"],
)
async def test_a_text_many_times_too_long_is_refused_for_its_beginning(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    answer = await http.post(path, json={"model": MODEL} | body, timeout=120)
    assert answer.status_code == 400, answer.text
    assert "The first 1048576 characters of the prompt have " in answer.json()["error"]["message"]
    assert " but the context holds 200. Shorten " in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [USER], "metadata": [[]] * 70_000}),
        ("/v1/chat/completions", {"messages": [USER | {"content": [{"type": "text", "text": "x"}] * 70_000}]}),
        ("/v1/messages", {"messages": [USER], "max_tokens": 5, "metadata": {"user_id": [{}] * 70_000}}),
        ("/v1/completions", {"prompt": [1] * 70_000, "echo": True}),
        ("/generate", {"input_ids": [1] * 70_000}),
        ("/tokenize", {"prompt": "hi", "unknown": [0] * 70_000}),
        ("/detokenize", {"tokens": [1] * 70_000}),
    ],
    ids=["brackets", "parts", "blocks", "prompt", "ids", "zeros", "tokens"],
)
async def test_a_request_of_many_times_the_values_that_fill_a_context_is_not_read(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    answer = await http.post(path, json={"model": MODEL} | body, timeout=120)
    assert answer.status_code == 400
    assert "commas and brackets, more than 200 tokens can hold" in answer.json()["error"]["message"]


async def test_a_context_of_token_ids_is_read_whatever_its_length() -> None:
    engine = ScriptedEngine(lambda request: ids(f"x{IM_END}"), context_length=100_000)
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/generate", json={"input_ids": [1] * 99_000}, timeout=120)
    assert answer.status_code == 200, answer.text
