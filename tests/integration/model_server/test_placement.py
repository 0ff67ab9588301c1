"""Whose cache a request goes on from, when its turn is, and routes that are taken again."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic
from prometheus_client.parser import text_string_to_metric_families

from model_server.chat.markers import IM_END
from model_server.engine.engine import EmbeddedEngine
from model_server.server.app import create_app
from model_server.server.placement_fields import ROUTING_KEY_HEADER
from model_server.server.settings import ServerSettings
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, ids, service
from tests.integration.model_server.serving import serving
from tests.integration.model_server.tiny_model import tiny_model

pytestmark = pytest.mark.anyio

USER: Any = {"role": "user", "content": "hi"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": MODEL, "messages": [USER]},
    "/v1/completions": {"model": MODEL, "prompt": "hi"},
    "/v1/messages": {"model": MODEL, "messages": [USER], "max_tokens": 9},
    "/generate": {"input_ids": [1]},
}


@pytest.mark.parametrize("path", BODIES)
async def test_every_endpoint_takes_a_session_a_routing_key_a_priority_and_a_salt(path: str) -> None:
    engine = answering(f"x{IM_END}", f"x{IM_END}")
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.post(path, json=BODIES[path])).status_code == 200
        placed = BODIES[path] | {"session_id": "s", "priority": -3, "cache_salt": "mine"}
        assert (await http.post(path, json=placed, headers={ROUTING_KEY_HEADER: "task"})).status_code == 200
    plain, request = engine.requests
    assert (plain.session_id, plain.routing_key, plain.priority, plain.cache_salt) == (None, None, 0, "")
    assert (request.session_id, request.routing_key, request.priority) == ("s", "task", -3)
    assert request.cache_salt not in ("", "mine")


async def test_a_salt_is_of_the_key_and_never_the_callers_alone() -> None:
    salts = []
    for key in (None, "one", "two"):
        engine = answering(*[f"x{IM_END}"] * 3)
        headers = {"x-api-key": key or "none"}
        async with service(engine, api_key=key) as (_, url), httpx.AsyncClient(base_url=url, headers=headers) as http:
            for salt in (None, "a", "b"):
                await http.post("/generate", json={"input_ids": [1], "cache_salt": salt})
        salts += [request.cache_salt for request in engine.requests]
    assert len(set(salts)) == 9


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"session_id": "s", "n": 2}, "session_id"),
        ("/v1/completions", {"session_id": "s", "prompt": ["a", "b"]}, "session_id"),
        ("/v1/chat/completions", {"session_id": ""}, "session_id"),
        ("/generate", {"priority": 10**6}, "priority"),
        ("/generate", {"cache_salt": "x" * 300}, "cache_salt"),
    ],
)
async def test_a_place_that_makes_no_sense_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    engine = answering()
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        answer = await http.post(path, json=BODIES[path] | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not engine.requests


@pytest.fixture(scope="module")
async def http() -> AsyncGenerator[httpx.AsyncClient, None]:
    """Random weights on the real engine."""
    model = tiny_model()
    app = create_app(EmbeddedEngine(model, max_running=4), TOKENIZER, ServerSettings(model_name=MODEL), model.config)
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


async def generated(http: httpx.AsyncClient, prompt: list[int], **fields: Any) -> dict[str, Any]:
    sampling = {"temperature": 0, "max_new_tokens": 20, "ignore_eos": True}
    asked = {"input_ids": prompt, "sampling_params": sampling, "return_routed_experts": True} | fields
    answer = await http.post("/generate", json=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_session_goes_on_from_its_own_tokens_and_says_when_it_does_not(http: httpx.AsyncClient) -> None:
    first = await generated(http, ids("What is it?"), session_id="a")
    longer = ids("What is it?") + first["output_ids"] + ids("And now?")
    second = await generated(http, longer, session_id="a")
    alone = await generated(http, longer, cache_salt="another")
    other = await generated(http, ids("Another beginning."), session_id="a")
    assert [turn["meta_info"]["segment"] for turn in (first, second, other)] == [0, 0, 1]
    assert second["meta_info"]["cached_tokens"] == len(longer) - len(ids("And now?")) - 1
    assert alone["meta_info"]["cached_tokens"] == 0
    assert "segment" not in alone["meta_info"]
    assert second["output_ids"] == alone["output_ids"]
    assert second["meta_info"]["routed_experts"] == alone["meta_info"]["routed_experts"]


async def test_a_chat_says_the_segment_of_its_session(http: httpx.AsyncClient) -> None:
    asked = {"model": MODEL, "messages": [USER], "max_tokens": 4, "session_id": "chat"}
    whole = (await http.post("/v1/chat/completions", json=asked)).json()
    assert whole["mimo"]["segment"] == 0
    async with AsyncAnthropic(base_url=str(http.base_url), api_key="none") as client:
        again: Any = await client.messages.create(
            model=MODEL, messages=[USER], max_tokens=4, extra_body={"session_id": "chat"}
        )
    assert again.mimo["segment"] == 1


async def test_routes_that_are_given_back_are_taken_again(http: httpx.AsyncClient) -> None:
    prompt = ids("Which way?")
    first = await generated(http, prompt)
    tokens, layers, num = first["meta_info"]["routed_experts_shape"]
    other = bytes(3 - expert for expert in base64.b64decode(first["meta_info"]["routed_experts"])[: len(prompt) * num])
    forced = {"forced_experts": base64.b64encode(other).decode(), "forced_experts_shape": [len(prompt), layers, num]}
    again = await generated(http, prompt, **forced)
    assert base64.b64decode(again["meta_info"]["routed_experts"])[: len(other)] == other
    assert tokens == len(prompt) + 19


@pytest.mark.parametrize(
    ("data", "shape", "param"),
    [
        ("?", [1, 1, 2], "forced_experts"),
        ("AAE=", None, "forced_experts_shape"),
        ("AAE=", [1, 2, 1], "forced_experts_shape"),
        ("AAE=", [0, 1, 2], "forced_experts_shape"),
        ("AAE=", [2**31 - 1, 1, 2], "forced_experts_shape"),
        ("AAEAAQ==", [1, 1, 2], "forced_experts"),
        ("AAA=", [1, 1, 2], "forced_experts"),
        ("AP8=", [1, 1, 2], "forced_experts"),
    ],
)
async def test_routes_that_are_none_of_the_model_are_refused(
    http: httpx.AsyncClient, data: str, shape: list[int] | None, param: str
) -> None:
    body = {"input_ids": [1, 2], "forced_experts": data, "forced_experts_shape": shape}
    answer = await http.post("/generate", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_metrics_tell_what_is_cached(http: httpx.AsyncClient) -> None:
    long = ids("a long prompt, " * 10)
    for _ in range(2):
        await generated(http, long)
    exported = (await http.get("/metrics")).text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(exported)
        for sample in family.samples
        if sample.labels == {"model_name": MODEL}
    }
    assert 0 < values["sglang:cache_hit_rate"] < 1
    assert values["sglang:token_usage"] == values["sglang:num_used_tokens"] == 0
    assert values["sglang:max_total_num_tokens"] >= 512
    assert 0 < values["sglang:swa_token_usage"] <= 1
    assert values["mimo:cache_kept_pages"] > 0
    assert values["mimo:cache_snapshots"] > 0
    assert values["mimo:cache_used_bytes"] > 0
    assert values["sglang:num_retracted_requests_total"] == 0
