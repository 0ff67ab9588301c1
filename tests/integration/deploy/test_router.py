"""The gateway in front of several model servers, with the arguments that the chart gives it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.model import ROUTING_KEY_HEADER, routing_key
from benchmarks.router import KEY, MODEL, Server, client, converse, converse_all, free_port, gateway, servers
from deploy.cluster import programs
from model_server.server.native_schema import NativeRequest, NativeSampling
from model_server.server.schemas import ChatRequest
from tests.helm.rendered import containers, render
from tests.integration.model_server.serving import serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(programs.missing()) or not programs.are_built(),
        reason="Helm is not built: deploy/setup.sh --for-tests",
    ),
]

ALERTS = Path(__file__).parents[3] / "deploy" / "alerts" / "models.yaml"
CALL = {"id": "call_0", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
CHAT: Mapping[str, Any] = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "Repair it."},
        {"role": "user", "content": "It fails."},
        {"role": "assistant", "content": "", "reasoning_content": "Why?", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_0", "content": "a.py"},
        {"role": "assistant", "content": "So.", "reasoning_content": ""},
        {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
    ],
    "tools": [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "object"}}},
    "chat_template_kwargs": {"enable_thinking": True, "keep_all_reasoning": True},
    "reasoning_effort": "none",
    "temperature": 0.3,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": 0.1,
    "seed": 7,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1.0},
    "logprobs": True,
    "top_logprobs": 3,
    "max_thinking_tokens": 5,
    "return_routed_experts": True,
    "routed_experts_start_len": 2,
    "max_tokens": 9,
    "max_completion_tokens": 9,
    "stop": ["END"],
    "n": 1,
    "session_id": "a session",
    "cache_salt": "a salt",
    "priority": 3,
    "stream": True,
    "stream_options": {"include_usage": True},
}
NATIVE: Mapping[str, Any] = {
    "input_ids": [1, 2, 3],
    "sampling_params": {
        "max_new_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.1,
        "sampling_seed": 3,
        "stop": ["x"],
        "stop_token_ids": [4],
        "ignore_eos": True,
        "no_stop_trim": True,
    },
    "return_logprob": True,
    "top_logprobs_num": 2,
    "return_text_in_logprobs": True,
    "logprob_start_len": 0,
    "return_routed_experts": True,
    "routed_experts_start_len": 1,
    "forced_experts": "AAAA",
    "forced_experts_shape": [1, 1, 4],
    "session_id": "a session",
    "cache_salt": "a salt",
    "priority": 2,
    "rid": "mine",
    "stream": False,
}
ANSWER: Mapping[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "", "reasoning_content": "Why?", "tool_calls": [CALL]},
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
    "mimo": {"segment": 1},
    "sglext": {"routed_experts": "AAAA", "routed_experts_shape": [1, 1, 4]},
    "metadata": {"weight_version": "7"},
}
CHUNK: Mapping[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"reasoning_content": "Why?"}, "finish_reason": None}],
    "mimo": {"segment": 1},
    "sglext": ANSWER["sglext"],
}


class Recorder:
    """A model server that keeps what it is asked, and says the same to everyone."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[Mapping[str, str]] = []
        asked = ("/v1/chat/completions", "/generate")
        self.app = Starlette(
            routes=[
                Route("/health", self._alive),
                Route("/server_info", self._described),
                *(Route(path, self._answer, methods=["POST"]) for path in asked),
            ]
        )

    async def _alive(self, _: Request) -> Response:
        return Response()

    async def _described(self, _: Request) -> Response:
        return JSONResponse({"served_model_name": MODEL, "model_path": MODEL, "version": "0.1.0"})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if body.get("stream"):
            return Response(f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n", media_type="text/event-stream")
        return JSONResponse(ANSWER)


@asynccontextmanager
async def recorded() -> AsyncIterator[tuple[Recorder, httpx.AsyncClient]]:
    recorder = Recorder()
    async with (
        serving(recorder.app) as url,  # type: ignore[arg-type] # any application is served
        routed([url]) as address,
        httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as http,
    ):
        yield recorder, http


@asynccontextmanager
async def routed(urls: list[str], *, prometheus_port: int = 0) -> AsyncIterator[str]:
    """The gateway as the chart starts it, in front of these servers instead of the chart's."""
    [pod] = (
        pod for each, pod in render({"router": {"enabled": True}}, "dev").pods() if "router" in str(each["metadata"])
    )
    [container] = containers(pod)
    given = container["args"]
    async with gateway([*given[: given.index("--worker-urls")], "--worker-urls", *urls], prometheus_port) as url:
        yield url


async def test_every_field_of_a_chat_reaches_the_server() -> None:
    assert set(CHAT) == {field.alias or name for name, field in ChatRequest.model_fields.items()}
    async with recorded() as (recorder, http):
        await http.post("/v1/chat/completions", json=CHAT, headers={ROUTING_KEY_HEADER: "a task"})
    assert recorder.bodies == [CHAT]
    assert recorder.headers[0][ROUTING_KEY_HEADER.lower()] == "a task"
    assert recorder.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_every_field_of_a_request_by_token_ids_but_one_reaches_the_server() -> None:
    """The gateway knows no ``logit_bias`` there, and drops it."""
    assert set(NATIVE) == {field.alias or name for name, field in NativeRequest.model_fields.items()}
    sampling = {field.alias or name for name, field in NativeSampling.model_fields.items()}
    assert set(NATIVE["sampling_params"]) == sampling - {"logit_bias"}
    async with recorded() as (recorder, http):
        await http.post("/generate", json=NATIVE)
    [body] = recorder.bodies
    assert NATIVE.items() <= body.items()


async def test_every_field_of_an_answer_reaches_the_client() -> None:
    async with recorded() as (_, http):
        whole = await http.post("/v1/chat/completions", json={**CHAT, "stream": False, "stream_options": None})
        assert whole.json() == ANSWER
        streamed = await http.post("/v1/chat/completions", json=CHAT)
        assert streamed.text == f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"


async def test_who_has_no_key_neither_asks_nor_changes_where_requests_go() -> None:
    async with recorded() as (recorder, http):
        del http.headers["Authorization"]
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 401
        assert (await http.post("/workers", json={"url": "http://127.0.0.1:1"})).status_code == 401
        assert not recorder.bodies


async def test_the_gateway_exports_what_an_alert_asks_of_it() -> None:
    asked = set(re.findall(r"\bsmg_\w+", ALERTS.read_text()))
    assert asked
    port = free_port()
    async with (
        serving(Recorder().app) as url,  # type: ignore[arg-type] # any application is served
        routed([url], prometheus_port=port),
        httpx.AsyncClient(trust_env=False) as watcher,
    ):
        exported: set[str] = set()
        while not asked <= exported:  # once it has looked at its server
            await asyncio.sleep(0.2)
            series = (await watcher.get(f"http://127.0.0.1:{port}/metrics")).text
            exported = {line.partition("{")[0] for line in series.splitlines()}


async def test_all_turns_and_attempts_of_a_task_have_one_key_and_other_tasks_another() -> None:
    begun = [{"role": "system", "content": "Repair it."}, {"role": "user", "content": "It fails."}]
    assert routing_key(begun) == routing_key([*begun, {"role": "assistant", "content": "Why?"}])
    assert routing_key(begun) != routing_key([*begun[:1], {"role": "user", "content": "It is slow."}])


async def test_turns_find_their_beginning_in_a_cache_and_outlive_a_server() -> None:
    async with AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(servers(2))
        model = await stack.enter_async_context(
            client(await stack.enter_async_context(routed([first.url, second.url])))
        )
        used = await converse_all(model, 16, 16)
        assert used.cached_tokens / used.prompt_tokens >= 0.9
        for server in (first, second):
            assert await prompt_tokens(server) > 0, "all went to one server"

        talking = asyncio.create_task(converse_all(model, 8, 16))
        await asyncio.sleep(0.5)
        await first.kill()
        await talking  # raises what a client was refused

        await first.start_again()
        number = 100
        while not await prompt_tokens(first):  # the gateway has seen that it is back
            await converse(model, number, 1)
            number += 1


async def prompt_tokens(server: Server) -> float:
    """How many the server has read; 0 while it does not listen."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as http:
        try:
            series = (await http.get(f"{server.url}/metrics")).text
        except httpx.TransportError:
            return 0
    lines = [line for line in series.splitlines() if line.startswith("sglang:realtime_tokens_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
