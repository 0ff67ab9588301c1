"""Every mistake of a caller has an answer in OpenAI's shape that says what to do."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from model_server.chat.tokens import ChatTokenizer
from model_server.engine.scripted import ScriptedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from tests.integration.model_server.serving import serving
from tests.unit.model_server.small_tokenizer import small_tokenizer

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
DEEP = {"name": "f", "arguments": "[" * 5000}
LIST = {"name": "f", "arguments": "[]"}
UNSATISFIABLE = {"type": "integer", "minimum": 2, "maximum": 1}
SHAPE = "response_format.json_schema.schema"
NO_SCHEMA = ("invalid_request_error", SHAPE)
RESULT = {"role": "tool", "tool_call_id": "a", "content": "x"}


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [USER]} | fields


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | function}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def shaped(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.fixture(scope="module")
async def http() -> AsyncGenerator[httpx.AsyncClient, None]:
    engine = ScriptedEngine(lambda request: [0] * 10_000, context_length=200)
    settings = ServerSettings(model_name="small", max_body_bytes=100_000)
    app = create_app(engine, ChatTokenizer(small_tokenizer()), settings)
    async with serving(app) as url, httpx.AsyncClient(base_url=f"{url}/v1") as client:
        yield client
    assert not engine.requests, "a bad request reached the engine"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "small"}, 400, "invalid_request_error", "messages"),
        (asking(messages=[]), 400, "invalid_request_error", "messages"),
        (asking(model="other"), 404, "model_not_found", "model"),
        (asking(messages=[USER, {"role": "robot", "content": "x"}]), 400, "invalid_request_error", "messages[1].role"),
        (asking(messages=[{"role": "user", "content": 3}]), 400, "invalid_request_error", "messages[0].content"),
        (
            asking(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]),
            400,
            "unsupported_content",
            "messages[0].content[0]",
        ),
        (asking(messages=[USER, RESULT]), 400, "invalid_request_error", "messages[1].tool_call_id"),
        (
            asking(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT, RESULT]),
            400,
            "invalid_request_error",
            "messages[3].tool_call_id",
        ),
        (
            asking(messages=[{"role": "assistant", "tool_calls": [CALL | {"function": LIST}]}]),
            400,
            "invalid_request_error",
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            asking(messages=[{"role": "assistant", "tool_calls": [CALL | {"function": DEEP}]}]),
            400,
            "invalid_request_error",
            "messages[0].tool_calls[0].function.arguments",
        ),
        (asking(messages=[USER | {"reasonin": "x"}]), 400, "unknown_parameter", "messages[0].reasonin"),
        (asking(temprature=1), 400, "unknown_parameter", "temprature"),
        (asking(chat_template_kwargs={"thinking": True}), 400, "unknown_parameter", "chat_template_kwargs.thinking"),
        (asking(temperature="hot"), 400, "invalid_request_error", "temperature"),
        (asking(temperature=3), 400, "invalid_request_error", "temperature"),
        (asking(top_p=0), 400, "invalid_request_error", "top_p"),
        (asking(max_tokens=0), 400, "invalid_request_error", "max_tokens"),
        (asking(max_tokens=True), 400, "invalid_request_error", "max_tokens"),
        (asking(seed=-1), 400, "invalid_request_error", "seed"),
        (asking(stop=[""]), 400, "invalid_request_error", "stop[0]"),
        (asking(stop=["a"] * 17), 400, "invalid_request_error", "stop"),
        (asking(stop="a" * 2000), 400, "invalid_request_error", "stop[0]"),
        (asking(top_k=10**40), 400, "invalid_request_error", "top_k"),
        (asking(frequency_penalty=2.1), 400, "invalid_request_error", "frequency_penalty"),
        (asking(presence_penalty=-2.1), 400, "invalid_request_error", "presence_penalty"),
        (asking(repetition_penalty=0), 400, "invalid_request_error", "repetition_penalty"),
        (asking(functions=[{}]), 400, "unsupported_parameter", "functions"),
        (asking(tool_choice=named("\ud800"), tools=[tool()]), 400, "invalid_request_error", "tool_choice"),
        (asking(stream_options={"include_usage": True}), 400, "invalid_request_error", "stream_options"),
        (asking(n=0), 400, "invalid_request_error", "n"),
        (asking(n=17), 400, "invalid_request_error", "n"),
        (asking(n=2, return_routed_experts=True), 400, "invalid_request_error", "return_routed_experts"),
        (asking(top_logprobs=2), 400, "invalid_request_error", "top_logprobs"),
        (asking(logprobs=True, top_logprobs=50), 400, "invalid_request_error", "top_logprobs"),
        (asking(logit_bias={"word": 1}), 400, "invalid_request_error", "logit_bias.word.[key]"),
        (asking(logit_bias={"7": 1000}), 400, "invalid_request_error", "logit_bias.7"),
        (asking(logit_bias={"999999": 1}), 400, "invalid_request_error", "logit_bias"),
        (asking(min_p=2), 400, "invalid_request_error", "min_p"),
        (asking(max_thinking_tokens=0), 400, "invalid_request_error", "max_thinking_tokens"),
        (asking(response_format={"type": "xml"}), 400, "invalid_request_error", "response_format.type"),
        (asking(response_format={"type": "json_schema"}), 400, "invalid_request_error", "response_format"),
        (asking(response_format={"json_schema": {"name": "a"}}), 400, *NO_SCHEMA),
        (asking(response_format=shaped({"type": "strin"})), 400, "invalid_schema", SHAPE),
        (asking(response_format=shaped({"not": {}})), 400, "invalid_schema", SHAPE),
        (asking(response_format=shaped({"const": "\ud800"})), 400, "invalid_schema", SHAPE),
        (asking(response_format=shaped(nested(100))), 400, "invalid_schema", SHAPE),
        (asking(tool_choice="required"), 400, "invalid_request_error", "tool_choice"),
        (asking(tool_choice={"type": "function"}, tools=[tool()]), 400, "invalid_request_error", "tool_choice"),
        (asking(tool_choice=named("g"), tools=[tool()]), 400, "invalid_request_error", "tool_choice"),
        (
            asking(
                tool_choice=named("g"), tools=[tool(), tool(name="g", parameters={"properties": {"a": UNSATISFIABLE}})]
            ),
            400,
            "invalid_schema",
            "tools[1].function.parameters.properties.a",
        ),
        (
            asking(tool_choice="required", tools=[tool(parameters={"required": ["a"]})]),
            400,
            "invalid_schema",
            "tools[0].function.parameters.required",
        ),
        (asking(tool_choice="maybe"), 400, "invalid_request_error", "tool_choice"),
        (asking(tools=[{"type": "web"}]), 400, "invalid_request_error", "tools[0]"),
        (asking(tools=[tool(name="a b")]), 400, "invalid_request_error", "tools[0].function.name"),
        (asking(tools=[tool(), tool()]), 400, "invalid_request_error", "tools[1].function.name"),
        (asking(tools=[tool(parameters={"type": "array"})]), 400, "invalid_schema", "tools[0].function.parameters"),
        (asking(tools=[tool(parameters=nested(100))]), 400, "invalid_schema", "tools[0].function.parameters"),
        (
            asking(tools=[tool(parameters={"properties": {"a>b": {}}})]),
            400,
            "invalid_schema",
            "tools[0].function.parameters.properties.a>b",
        ),
        (asking(tools=[tool()] * 200), 400, "invalid_request_error", "tools"),
        (asking(max_tokens=500), 400, "context_length_exceeded", "max_tokens"),
        (asking(messages=[{"role": "user", "content": "word " * 500}]), 400, "context_length_exceeded", "messages"),
        (asking(messages=[{"role": "user", "content": "x" * 200_000}]), 413, "request_too_large", None),
        (asking(messages=[{"role": "user", "content": "\ud800"}]), 400, "invalid_request_error", None),
    ],
)
async def test_a_bad_request_is_refused_with_its_path(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = await http.post("/chat/completions", content=json.dumps(body))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(".")


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"", b"[" * 60_000])
async def test_a_body_that_is_no_json_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/chat/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_both_numbers_are_in_the_answer_to_a_request_over_the_context(http: httpx.AsyncClient) -> None:
    message = (await http.post("/chat/completions", json=asking(max_tokens=500))).json()["error"]["message"]
    assert "500" in message
    assert "200" in message


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/chat/completions", 405), ("POST", "/nowhere", 404)])
async def test_unknown_paths_and_methods_have_the_same_shape(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert "chat/completions" in answer.json()["error"]["message"]
