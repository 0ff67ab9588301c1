"""What a client hears whose answer outlasts the server."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, endless, until
from tests.integration.model_server.serving import serving

pytestmark = pytest.mark.anyio


async def last_event(http: httpx.AsyncClient, url: str, body: dict[str, Any], began: asyncio.Event) -> Any:
    async with http.stream("POST", url, json=body) as answer:
        assert answer.status_code == 200
        began.set()
        return json.loads((await answer.aread()).decode().strip().rsplit("data: ", 1)[1])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_answers_that_outlast_the_drain_end_with_an_error_that_says_why(path: str) -> None:
    engine = endless(interval_s=0.01)
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60_000}
    app = create_app(engine, TOKENIZER, ServerSettings(model_name=MODEL))
    async with httpx.AsyncClient() as http:
        async with serving(app, drain_s=0) as url:
            whole = asyncio.create_task(http.post(url + path, json=ask))
            began = asyncio.Event()
            streamed = asyncio.create_task(last_event(http, url + path, ask | {"stream": True}, began))
            await began.wait()
            await until(lambda: engine.stats().running == 2)
        refused = await whole
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        bodies = [refused.json(), await streamed]
    for body in bodies:
        assert body["error"]["message"] == "The server is shutting down. Send the request again."
    assert len(engine.cancelled) == 2
