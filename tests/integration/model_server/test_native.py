"""``/generate`` by token ids, under SGLang's names, and what a trainer or gateway asks of a server beside it."""

import json
from typing import Any

import httpx
import pytest

from model_server.chat.markers import IM_END
from model_server.engine.scripted import ScriptedEngine
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, endless, ids, service, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_engines")]

ASK: dict[str, Any] = {"input_ids": ids("hi")}
END = ids(IM_END)[0]


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_ids_go_in_and_ids_come_out_with_the_one_that_ended_the_answer() -> None:
    engine = ScriptedEngine(lambda request: ids(f"<think>é{IM_END}"), cached_tokens=1)
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        sampling = {"temperature": 0, "max_new_tokens": 50, "sampling_seed": 3, "top_k": -1, "min_p": None}
        answer = (await http.post("/generate", json=ASK | {"sampling_params": sampling, "rid": "mine"})).json()
    assert (answer["text"], answer["output_ids"]) == ("<think>é", ids(f"<think>é{IM_END}"))
    facts = answer["meta_info"]
    assert facts.pop("e2e_latency") > 0
    assert facts == {
        "id": "mine",
        "finish_reason": {"type": "stop", "matched": END},
        "prompt_tokens": len(ids("hi")),
        "completion_tokens": len(answer["output_ids"]),
        "cached_tokens": 1,
        "weight_version": "default",
    }
    request = engine.requests[0]
    assert (list(request.prompt_ids), request.sampling.seed, request.sampling.max_tokens) == (ids("hi"), 3, 50)


async def test_a_stream_repeats_all_so_far_and_ends_as_the_whole_answer() -> None:
    async with (
        service(answering(f"a😀b{IM_END}", f"a😀b{IM_END}")) as (_, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        whole = (await http.post("/generate", json=ASK | {"rid": "r"})).json()
        streamed = events((await http.post("/generate", json=ASK | {"rid": "r", "stream": True})).text)
    assert len(streamed) == len(whole["output_ids"])
    for number, part in enumerate(streamed[:-1], start=1):
        assert part["output_ids"] == whole["output_ids"][:number]
        assert whole["text"].startswith(part["text"])
        assert part["meta_info"]["finish_reason"] is None
        assert part["meta_info"]["completion_tokens"] == number
    for answer in (whole, streamed[-1]):
        del answer["meta_info"]["e2e_latency"]
    assert streamed[-1] == whole


async def test_without_a_limit_an_answer_has_128_tokens_and_null_is_the_context() -> None:
    engine = endless(context_length=300)
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        short = (await http.post("/generate", json=ASK)).json()
        await http.post("/generate", json=ASK | {"sampling_params": {"max_new_tokens": None}})
    assert short["meta_info"]["finish_reason"] == {"type": "length", "length": 128}
    assert engine.requests[1].sampling.max_tokens == 300 - len(ids("hi"))


@pytest.mark.parametrize(
    ("sampling", "text", "matched"),
    [
        ({"stop": ["two", "never"]}, "one ", "two"),
        ({"stop": "two", "no_stop_trim": True}, "one two", "two"),
        ({"stop_token_ids": ids("w")}, "one t", ids("w")[0]),
        ({"no_stop_trim": True}, f"one two {IM_END}", END),
        ({"ignore_eos": True, "stop": "three"}, f"one two {IM_END}", "three"),
    ],
)
async def test_what_ended_an_answer_is_named_and_kept_if_asked(
    sampling: dict[str, Any], text: str, matched: int | str
) -> None:
    async with (
        service(ScriptedEngine(lambda request: ids(f"one two {IM_END}three{IM_END}"))) as (_, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        answer = (await http.post("/generate", json=ASK | {"sampling_params": sampling})).json()
    assert answer["text"] == text
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": matched}


async def test_a_client_that_leaves_cancels_its_native_sequence() -> None:
    engine = endless()
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        body = ASK | {"stream": True, "sampling_params": {"max_new_tokens": 60_000}}
        async with http.stream("POST", "/generate", json=body) as answer:
            await anext(answer.aiter_lines())
        await until(lambda: len(engine.cancelled) == 1)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input_ids": None}, "invalid_request_error", "input_ids"),
        ({"input_ids": []}, "invalid_request_error", "input_ids"),
        ({"input_ids": [[1]]}, "invalid_request_error", "input_ids[0]"),
        ({"input_ids": [0, 999_999]}, "invalid_request_error", "input_ids[1]"),
        ({"input_ids": [0] * 300}, "context_length_exceeded", "input_ids"),
        ({"text": "hi"}, "unsupported_parameter", "text"),
        ({"logprob_start_len": 0}, "invalid_request_error", "logprob_start_len"),
        ({"return_hidden_states": True}, "unsupported_parameter", "return_hidden_states"),
        ({"top_logprobs_num": 2}, "invalid_request_error", "top_logprobs_num"),
        ({"sampling_params": []}, "invalid_request_error", "sampling_params"),
        ({"sampling_params": {"max_tokens": 5}}, "unknown_parameter", "sampling_params.max_tokens"),
        ({"sampling_params": {"max_new_tokens": 0}}, "invalid_request_error", "sampling_params.max_new_tokens"),
        ({"sampling_params": {"max_new_tokens": 500}}, "context_length_exceeded", "sampling_params.max_new_tokens"),
        ({"sampling_params": {"n": 2}}, "unsupported_parameter", "sampling_params.n"),
        ({"sampling_params": {"regex": "a"}}, "unsupported_parameter", "sampling_params.regex"),
        ({"sampling_params": {"logit_bias": {"999999": 1}}}, "invalid_request_error", "sampling_params.logit_bias"),
        (
            {"sampling_params": {"stop_token_ids": [999_999]}},
            "invalid_request_error",
            "sampling_params.stop_token_ids[0]",
        ),
    ],
)
async def test_a_bad_native_request_is_refused_with_its_path(fields: dict[str, Any], code: str, param: str) -> None:
    engine = endless(context_length=200)
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/generate", json=ASK | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert not engine.requests


async def test_health_generate_means_a_token_for_this_very_request() -> None:
    engine = endless()
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        for asked in (1, 2):
            assert (await http.get("/health_generate")).json()["status"] == "ready"
            assert len(engine.requests) == asked
        assert (await http.get("/health")).status_code == 200
        assert len(engine.requests) == 2
    async with service(endless(max_running=0)) as (_, url), httpx.AsyncClient(base_url=url) as http:
        full = await http.get("/health_generate")
        assert (full.status_code, full.json()["error"]["code"]) == (429, "overloaded")
        assert (await http.get("/health")).status_code == 200
    async with service(ScriptedEngine(lambda request: [])) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/health_generate")).json()["error"]["code"] == "not_ready"


async def test_server_info_tells_callers_what_runs_and_no_key() -> None:
    async with (
        service(endless(context_length=200), api_key="s3cret") as (_, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        for path in ("/server_info", "/health_generate"):
            assert (await http.get(path)).status_code == 401
        assert (await http.post("/generate", json=ASK)).status_code == 401
        answer = await http.get("/server_info", headers={"Authorization": "Bearer s3cret"})
    info = answer.json()
    assert (info["served_model_name"], info["context_length"]) == (MODEL, 200)
    assert (info["vocab_size"], info["num_running_reqs"]) == (TOKENIZER.vocab_size, 0)
    assert info["version"]
    assert "s3cret" not in answer.text
