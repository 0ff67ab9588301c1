"""Whether an endpoint keeps reasoning is measured, over HTTP, with the history that runs send."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.config import ModelSettings
from agent.conformance import examine
from agent.model import HttpModel
from agent.orchestrator.contract import ContractWatch
from agent.probe import probe

pytestmark = pytest.mark.anyio


class Gateway:
    """Counts the characters it passes on as tokens."""

    def __init__(self, *lost: str) -> None:
        self.lost = set(lost)
        self.counts = True
        self.says = "ok"
        self.seen: list[dict[str, Any]] = []

    def model(self) -> HttpModel:
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
        ]
        client = httpx.AsyncClient(transport=httpx.ASGITransport(Starlette(routes=routes)))
        return HttpModel(ModelSettings(url="http://gateway/v1", name="m", retries=0), client)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        kept = [{k: v for k, v in message.items() if k not in self.lost} for message in body["messages"]]
        tokens = len(json.dumps(kept)) if self.counts else 0
        events = (
            {"choices": [{"index": 0, "delta": {"content": self.says}, "finish_reason": "stop"}]},
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


async def findings(gateway: Gateway) -> dict[str, bool]:
    return {finding.name: finding.passed async for finding in examine(gateway.model())}


async def test_an_endpoint_that_carries_everything_conforms() -> None:
    assert set((await findings(Gateway())).values()) == {True}


async def test_an_endpoint_that_loses_something_is_told_what() -> None:
    assert [name for name, passed in (await findings(Gateway("reasoning_content"))).items() if not passed] == [
        "keeps reasoning"
    ]
    lost = await findings(Gateway("content", "tool_calls"))
    assert not lost["takes hard values in calls and results"]


async def test_an_endpoint_that_leaves_thinking_in_the_answer_does_not_conform() -> None:
    gateway = Gateway()
    gateway.says = "<think>hm</think> ok"
    assert await findings(gateway) == {"answers with thinking": False}
