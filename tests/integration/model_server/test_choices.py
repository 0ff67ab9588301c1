"""Several answers to one request: their indices, their counts, and what one of them does to the others."""

import asyncio
from itertools import count
from typing import Any

import httpx
import openai
import pytest

from model_server.chat.markers import IM_END
from model_server.engine.scripted import ScriptedEngine
from model_server.types import EngineError, GenerateRequest
from tests.integration.model_server.scripted_service import MODEL, answering, endless, ids, service, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_engines")]

USER: Any = {"role": "user", "content": "hi"}
ASK: dict[str, Any] = {"model": MODEL, "messages": [USER]}
TEXTS = ("one", "and two", "é")


def three() -> ScriptedEngine:
    return answering(*(text + IM_END for text in TEXTS))


async def test_every_choice_has_its_place_and_the_prompt_counts_once() -> None:
    engine = three()
    async with service(engine) as (client, _):
        answer = await client.chat.completions.create(**ASK, n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == list(enumerate(TEXTS))
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.requests[0].prompt_ids)
    assert answer.usage.completion_tokens == sum(len(ids(text + IM_END)) for text in TEXTS)


async def test_streamed_choices_are_the_whole_ones() -> None:
    async with service(three()) as (client, _):
        stream = await client.chat.completions.create(**ASK, n=3, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    said, endings = ["", "", ""], []
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        said[choice.index] += choice.delta.content or ""
        endings += [choice.index] if choice.finish_reason == "stop" else []
    assert tuple(said) == TEXTS
    assert sorted(endings) == [0, 1, 2]
    assert [chunk.choices[0].index for chunk in chunks[:3]] == [0, 1, 2]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == sum(len(ids(text + IM_END)) for text in TEXTS)


async def test_choices_run_side_by_side_and_leaving_cancels_them_all() -> None:
    engine = endless()
    async with service(engine) as (client, url):
        stream = await client.chat.completions.create(**ASK, n=3, stream=True)
        seen: set[int] = set()
        async for chunk in stream:
            seen |= {choice.index for choice in chunk.choices if choice.delta.content}
            if len(seen) == 3:
                break
        await stream.close()
        await until(lambda: len(engine.cancelled) == 3)
        async with httpx.AsyncClient() as http:
            whole = asyncio.create_task(http.post(f"{url}/v1/chat/completions", json=ASK | {"n": 2}))
            await until(lambda: engine.stats().running == 2)
            whole.cancel()
            await until(lambda: len(engine.cancelled) == 5)
    assert len(set(engine.cancelled)) == 5
    assert engine.stats().running == 0


async def test_a_seed_gives_every_choice_draws_of_its_own() -> None:
    engine = three()
    async with service(engine) as (client, _):
        await client.chat.completions.create(**ASK, n=3, seed=2**63 - 2)
    assert [request.sampling.seed for request in engine.requests] == [2**63 - 2, 2**63 - 1, 0]


async def test_one_choice_that_fails_fails_the_request_and_cancels_the_others() -> None:
    calls = count()

    def second_breaks(request: GenerateRequest) -> Any:
        if next(calls) == 1:
            raise EngineError("broken")
        while True:
            yield ids("x")[0]

    engine = ScriptedEngine(second_breaks)
    async with service(engine) as (client, _):
        with pytest.raises(openai.InternalServerError, match="report request chatcmpl-"):
            await client.chat.completions.create(**ASK, n=3)
        await until(lambda: engine.stats().running == 0)
    assert len(engine.cancelled) == 3


async def test_a_full_engine_refuses_all_choices() -> None:
    engine = endless(max_running=2)
    async with service(engine) as (client, _):
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**ASK, n=3)
        await until(lambda: engine.stats().running == 0)


async def test_tokens_reused_by_all_choices_count_as_cached() -> None:
    engine = ScriptedEngine(lambda request: ids(f"a{IM_END}"), cached_tokens=3)
    async with service(engine) as (client, _):
        usage = (await client.chat.completions.create(**ASK, n=4)).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 3
