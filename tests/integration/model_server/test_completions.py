"""Plain continuations under the official OpenAI client: prompts in every form, echo, stop strings, mistakes."""

import json
from typing import Any

import httpx
import openai
import pytest

from model_server.chat.markers import IM_END
from model_server.engine.scripted import ScriptedEngine
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, endless, ids, service, until

pytestmark = pytest.mark.anyio

PROMPT = "def add(a, b):\n"
CALL = "<think>no</think><tool_call>\n<function=bash>\n</function>\n</tool_call>"


async def test_a_prompt_is_continued_as_it_is_and_markers_in_the_answer_are_text() -> None:
    engine = answering(f"{CALL} é{IM_END}")
    async with service(engine) as (client, _):
        answer = await client.completions.create(
            model=MODEL, prompt=PROMPT + IM_END, max_tokens=200, temperature=0.3, seed=7
        )
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, answer.object) == (f"{CALL} é", "stop", "text_completion")
    request = engine.requests[0]
    assert list(request.prompt_ids) == TOKENIZER.encode_text(PROMPT + IM_END)
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.seed) == (200, 0.3, 7)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(request.prompt_ids)
    assert answer.usage.completion_tokens == len(ids(f"{CALL} é{IM_END}"))


async def test_a_prompt_may_be_token_ids_and_sixteen_tokens_are_the_default() -> None:
    engine = endless()
    async with service(engine) as (client, _):
        answer = await client.completions.create(model=MODEL, prompt=ids(PROMPT))
    assert list(engine.requests[0].prompt_ids) == ids(PROMPT)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("x" * 16, "length")


@pytest.mark.parametrize("echo", [False, True])
async def test_a_streamed_continuation_is_the_whole_one(echo: bool) -> None:
    async with service(answering(f"a 😀 b{IM_END}", f"a 😀 b{IM_END}")) as (client, _):
        ask: dict[str, Any] = {"model": MODEL, "prompt": ids(PROMPT), "echo": echo}
        whole = await client.completions.create(**ask)
        stream = await client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text == (PROMPT if echo else "") + "a 😀 b"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [*[None] * (len(chunks) - 2), "stop"]
    assert chunks[-1].usage == whole.usage


async def test_several_prompts_are_each_answered_n_times_in_their_order() -> None:
    engine = ScriptedEngine(lambda request: [*request.prompt_ids, *ids(IM_END)])
    async with service(engine) as (client, _):
        answer = await client.completions.create(model=MODEL, prompt=["one", "three"], n=2, seed=5, echo=True)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "oneone"),
        (1, "oneone"),
        (2, "threethree"),
        (3, "threethree"),
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids("one")) + len(ids("three"))
    assert sorted(request.sampling.seed or 0 for request in engine.requests) == [5, 5, 6, 6]


async def test_a_stop_string_ends_a_continuation_and_its_sequence() -> None:
    engine = endless("ab")
    async with service(engine) as (client, _):
        answer = await client.completions.create(model=MODEL, prompt=PROMPT, stop="aaa", max_tokens=100)
        await until(lambda: len(engine.cancelled) == 1)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "stop")


async def test_a_client_that_leaves_a_continuation_cancels_it() -> None:
    engine = endless()
    async with service(engine) as (client, _):
        stream = await client.completions.create(model=MODEL, prompt=PROMPT, stream=True, max_tokens=60_000)
        await anext(aiter(stream))
        await stream.close()
        await until(lambda: len(engine.cancelled) == 1)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "invalid_request_error", "prompt"),
        ({"prompt": ""}, "invalid_request_error", "prompt"),
        ({"prompt": []}, "invalid_request_error", "prompt"),
        ({"prompt": [[]]}, "invalid_request_error", "prompt"),
        ({"prompt": [1, "a"]}, "invalid_request_error", "prompt"),
        ({"prompt": [-1]}, "invalid_request_error", "prompt"),
        ({"prompt": {"a": 1}}, "invalid_request_error", "prompt"),
        ({"prompt": [0, 999_999]}, "invalid_request_error", "prompt[1]"),
        ({"prompt": "\ud800"}, "invalid_request_error", "prompt"),
        ({"prompt": ["a"] * 17}, "invalid_request_error", "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "invalid_request_error", "n"),
        ({"prompt": "a " * 300}, "context_length_exceeded", "prompt"),
        ({"max_tokens": 500}, "context_length_exceeded", "max_tokens"),
        ({"max_tokens": 0}, "invalid_request_error", "max_tokens"),
        ({"logprobs": 30}, "invalid_request_error", "logprobs"),
        ({"max_tokens": 0, "echo": True}, "invalid_request_error", "max_tokens"),
        ({"logprobs": 1, "echo": True, "stream": True}, "invalid_request_error", "stream"),
        ({"logprobs": 1, "echo": True, "stop": "x"}, "invalid_request_error", "stop"),
        ({"logprobs": 1, "echo": True, "session_id": "x"}, "invalid_request_error", "session_id"),
        ({"suffix": "x"}, "unsupported_parameter", "suffix"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"messages": []}, "unknown_parameter", "messages"),
        ({"model": "other"}, "model_not_found", "model"),
        ({"stream_options": {"include_usage": True}}, "invalid_request_error", "stream_options"),
    ],
)
async def test_a_bad_request_for_a_continuation_is_refused_with_its_path(
    fields: dict[str, Any], code: str, param: str
) -> None:
    engine = endless(context_length=200)
    async with service(engine) as (_, url), httpx.AsyncClient() as http:
        body = json.dumps({"model": MODEL, "prompt": "a"} | fields)
        answer = await http.post(f"{url}/v1/completions", content=body)
    error = answer.json()["error"]
    assert (answer.status_code // 100, error["code"], error["param"]) == (4, code, param)
    assert error["message"].endswith(".")
    assert not engine.requests


async def test_a_continuation_that_the_engine_has_no_room_for_is_a_429() -> None:
    async with service(endless(max_running=0)) as (client, _):
        with pytest.raises(openai.RateLimitError):
            await client.completions.create(model=MODEL, prompt=PROMPT)
