"""Every endpoint that generates hands penalties to the engine."""

from typing import Any

import httpx
import pytest

from tests.integration.model_server.scripted_service import MODEL, answering, ids, service

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_engines")]

PENALTIES = {"frequency_penalty": -0.5, "presence_penalty": 2, "repetition_penalty": 1.25}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **PENALTIES}),
        ("/v1/completions", {"model": MODEL, "prompt": "hi", **PENALTIES}),
        ("/generate", {"input_ids": ids("hi"), "sampling_params": PENALTIES}),
    ],
)
async def test_penalties_come_to_the_engine(path: str, body: dict[str, Any]) -> None:
    engine = answering("hello<|im_end|>")
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.post(path, json=body)).status_code == 200
    sampling = engine.requests[0].sampling
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) == (-0.5, 2.0, 1.25)
