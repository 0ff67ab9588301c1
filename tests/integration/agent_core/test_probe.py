"""Whether an endpoint keeps reasoning is measured, over HTTP, with the history that runs send."""

import asyncio
import json
from typing import Any

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.config import ModelSettings
from agent.conformance import examine
from agent.model import HttpModel, open_model
from agent.orchestrator.contract import ContractWatch
from agent.probe import probe
from model_server.__main__ import find_checkpoint
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.weights.load import load_model
from tests.integration.model_server.serving import serving

pytestmark = pytest.mark.anyio


class Gateway:
    """Counts the characters it passes on as tokens."""

    def __init__(self, *lost: str) -> None:
        self.lost = set(lost)
        self.counts = True
        self.says = "ok"
        self.says_unasked = ""
        """In front of that, where the request says nothing about thinking."""
        self.seen: list[dict[str, Any]] = []

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
        ]
        return Starlette(routes=routes)

    def model(self, **settings: Any) -> HttpModel:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app))
        return HttpModel(ModelSettings(url="http://gateway/v1", name="m", retries=0, **settings), client)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        kept = [{k: v for k, v in message.items() if k not in self.lost} for message in body["messages"]]
        tokens = len(json.dumps(kept)) if self.counts else 0
        said = self.says if "enable_thinking" in body["chat_template_kwargs"] else self.says_unasked + self.says
        events = (
            {"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}},
        )
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return StreamingResponse(iter([text]), media_type="text/event-stream")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": 4096}]})


async def test_an_endpoint_that_passes_reasoning_on_keeps_the_contract() -> None:
    gateway = Gateway()
    contract = await probe(gateway.model())
    assert contract.keeps_reasoning
    with_it, without = (body["messages"] for body in gateway.seen)
    assert [message["role"] for message in with_it] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert [message.get("reasoning_content") for message in without] == [None, None, "", None, "", None]
    assert gateway.seen[0]["chat_template_kwargs"]["keep_all_reasoning"] is True


async def test_an_endpoint_that_loses_the_field_breaks_the_contract_and_is_told_what_to_do() -> None:
    contract = await probe(Gateway("reasoning_content").model())
    assert not contract.keeps_reasoning
    assert "drops reasoning_content" in str(contract)


async def test_an_endpoint_that_does_not_count_proves_nothing() -> None:
    gateway = Gateway()
    gateway.counts = False
    contract = await probe(gateway.model())
    assert not contract.keeps_reasoning
    assert "does not count" in str(contract)


async def test_a_worker_takes_runs_only_while_the_contract_is_kept() -> None:
    gateway = Gateway("reasoning_content")
    watch = ContractWatch(gateway.model(), every_s=0.01, retry_s=0.01)
    assert not watch.kept
    watching = asyncio.create_task(watch.run())
    while len(gateway.seen) < 4:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not watch.kept
    gateway.lost.clear()
    while not watch.kept:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    gateway.lost.add("reasoning_content")
    while watch.kept:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    watching.cancel()


async def test_the_context_is_what_the_endpoint_says_of_the_model_or_what_is_set() -> None:
    assert await Gateway().model().context_tokens() == 4096
    client = httpx.AsyncClient(transport=httpx.ASGITransport(Starlette()))
    assert await HttpModel(ModelSettings(url="http://x/v1"), client).context_tokens() is None
    assert await HttpModel(ModelSettings(url="http://x/v1", context_tokens=7), client).context_tokens() == 7


async def findings(model: HttpModel) -> dict[str, bool]:
    return {finding.name: finding.passed async for finding in examine(model)}


async def test_an_endpoint_that_carries_everything_conforms() -> None:
    assert set((await findings(Gateway().model())).values()) == {True}


async def test_our_own_model_server_conforms() -> None:
    checkpoint = find_checkpoint("mimo-v2-nano")
    engine = EmbeddedEngine(load_model(checkpoint, torch.float32), context_length=4096)
    app = create_app(engine, ChatTokenizer.load(checkpoint), ServerSettings(model_name="nano"))
    async with serving(app) as url, open_model(ModelSettings(url=f"{url}/v1", name="nano", retries=0)) as model:
        found = [finding async for finding in examine(model)]
    assert [finding for finding in found if not finding.passed] == []
    assert len(found) == 7


async def test_an_endpoint_that_knows_reasoning_by_another_name_is_told_it_by_that() -> None:
    foreign = Gateway("reasoning_content")
    assert (await findings(foreign.model(reasoning_field="reasoning")))["keeps reasoning"]
    assert {"reasoning_content"}.isdisjoint(name for body in foreign.seen for m in body["messages"] for name in m)


async def test_an_endpoint_that_loses_something_is_told_what() -> None:
    lost = await findings(Gateway("reasoning_content").model())
    assert [name for name, passed in lost.items() if not passed] == ["keeps reasoning"]
    lost = await findings(Gateway("content", "tool_calls").model())
    assert not lost["takes hard values in calls and results"]


@pytest.mark.parametrize("left", ["<think>hm</think> ok", "</think>ok", "<tool_call><function=bash></function>"])
async def test_an_endpoint_that_leaves_thoughts_or_calls_in_the_text_does_not_conform(left: str) -> None:
    gateway = Gateway()
    gateway.says = left
    assert await findings(gateway.model()) == {"answers with thinking": False}


async def test_an_endpoint_that_takes_answers_apart_only_where_thinking_is_said_does_not_conform() -> None:
    gateway = Gateway()
    gateway.says_unasked = "<think>hm</think>"
    found = await findings(gateway.model())
    assert [name for name, passed in found.items() if not passed] == ["answers with thinking unset"]
