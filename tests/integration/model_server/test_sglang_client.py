"""Our client and server before an SGLang that starts, drains, hangs, breaks, or is gone."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from itertools import repeat
from typing import Any

import httpx
import pytest
import torch

from model_server.chat.markers import IM_END
from model_server.engine.scripted import ScriptedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.sglang.client import SGLangEngine
from model_server.sglang.health import SGLangFailed, problem, until_generating
from model_server.testing.fake_sglang import FakeSGLang, State
from model_server.types import (
    ContextLengthExceeded,
    Engine,
    EngineError,
    EngineUnavailable,
    GenerateRequest,
    Logprobs,
    Overloaded,
    SamplingParams,
    TokenEvent,
)
from tests.integration.model_server.fake_service import CONFIG, client_of
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, endless, ids, until
from tests.integration.model_server.serving import serving
from tests.unit.model_server.canned_engine import CannedEngine

pytestmark = pytest.mark.anyio

PROMPT = tuple(ids("hi"))


@asynccontextmanager
async def faked(
    engine: Engine, *, state: State = State.READY, incremental: bool = True, **endpoint: Any
) -> AsyncGenerator[tuple[FakeSGLang, SGLangEngine], None]:
    fake = FakeSGLang(engine, config=CONFIG, incremental=incremental)
    fake.state = state
    async with serving(fake.app) as url:
        client = client_of(url, TOKENIZER, **endpoint)
        yield fake, client
        await client.close()


def asked(max_tokens: int = 8, **fields: Any) -> GenerateRequest:
    return GenerateRequest("mine", PROMPT, SamplingParams(max_tokens=max_tokens, stop_ids=TOKENIZER.end_ids), **fields)


async def told(engine: SGLangEngine, request: GenerateRequest) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]


@pytest.mark.parametrize("incremental", [True, False])
async def test_everything_that_an_engine_tells_arrives(incremental: bool) -> None:
    experts = torch.randint(0, 8, (4, 2, 2), dtype=torch.uint8)
    events = (
        TokenEvent(5, cached_tokens=1, logprobs=Logprobs(-0.5, ((5, -0.5), (6, -1.0)))),
        TokenEvent(6, cached_tokens=1, logprobs=Logprobs(-0.25, ((6, -0.25), (5, -2.0)))),
        TokenEvent(7, "length", 1, Logprobs(-1.5, ((5, -0.5), (6, -1.0))), experts),
    )
    request = GenerateRequest("r", PROMPT, SamplingParams(max_tokens=3, num_logprobs=2), experts_from=0)
    async with faked(CannedEngine(*events), incremental=incremental) as (_, engine):
        found = await told(engine, request)
    assert found[:2] == list(events[:2])
    assert (found[2].token_id, found[2].finish_reason, found[2].logprobs) == (7, "length", events[2].logprobs)
    assert found[2].experts is not None
    assert torch.equal(found[2].experts, experts)


async def test_names_of_requests_never_begin_alike_so_that_one_can_be_ended_alone() -> None:
    engine = endless(interval_s=0.01)
    async with faked(engine) as (fake, client):
        first, second = client.generate(asked(5_000)), client.generate(asked(5_000))
        async with aclosing(second) as other:
            async with aclosing(first) as one:
                await anext(one)
                await anext(other)
                assert (client.stats().running, client.stats().waiting) == (2, 0)
            await until(lambda: fake.num_running == 1)
            await anext(other)
            assert fake.aborted == [fake.bodies[0]["rid"]]
        await until(lambda: not fake.num_running)
    assert client.stats().running == 0


async def test_a_whole_answer_is_not_aborted() -> None:
    async with faked(answering(f"a{IM_END}")) as (fake, client):
        assert [event.finish_reason for event in await told(client, asked())] == [None, "stop"]
        assert fake.aborted == []


async def test_before_its_first_answer_it_is_starting() -> None:
    async with faked(answering("a"), state=State.STARTING) as (fake, client):
        with pytest.raises(EngineUnavailable, match="starting"):
            await told(client, asked())
        assert fake.bodies == []


async def test_once_it_drains_it_gets_no_new_requests_and_ends_those_it_has() -> None:
    engine = endless(interval_s=0.01)
    async with faked(engine, ready_s=0) as (fake, client), aclosing(client.generate(asked(60))) as running:
        await anext(running)
        fake.state = State.DRAINING
        with pytest.raises(EngineUnavailable, match="draining"):
            await told(client, asked())
        assert len(fake.bodies) == 1
        assert [event async for event in running][-1].finish_reason == "length"


async def test_where_nobody_listens_it_is_not_up_yet_or_gone() -> None:
    fake = FakeSGLang(answering(f"a{IM_END}"))
    async with serving(fake.app) as url:
        knew, never = client_of(url, TOKENIZER, ready_s=0), client_of(url, TOKENIZER)
        await told(knew, asked())
    for client, words in ((knew, "gone"), (never, "not up yet")):
        with pytest.raises(EngineUnavailable, match=words):
            await told(client, asked())
        await client.close()


async def test_a_silent_stream_is_given_up_and_ended() -> None:
    async with faked(endless(), state=State.WEDGED, stall_s=0.2) as (fake, client):
        with pytest.raises(EngineError, match=r"silent for 0\.2 s"):
            await told(client, asked())
        assert fake.aborted == [fake.bodies[0]["rid"]]


@pytest.mark.parametrize("state", [State.DYING, State.CUTTING])
async def test_a_stream_without_its_end_is_an_error_and_no_short_answer(state: State) -> None:
    async with faked(endless(), state=state) as (_, client):
        events = client.generate(asked())
        assert [(await anext(events)).finish_reason for _ in range(2)] == [None, None]
        with pytest.raises(EngineError, match=r"broke|ended before"):
            await anext(events)


async def test_a_slow_one_is_only_slow() -> None:
    async with faked(answering(f"a{IM_END}"), state=State.SLOW) as (_, client):
        assert len(await told(client, asked())) == 2


async def test_a_full_one_and_a_prompt_that_is_too_long_are_told_apart() -> None:
    async with faked(endless(max_running=0)) as (_, client):
        with pytest.raises(Overloaded):
            await told(client, asked())
    async with faked(endless(context_length=4)) as (_, client):  # it holds less than our settings say
        with pytest.raises(ContextLengthExceeded):
            await told(client, asked())
        with pytest.raises(ContextLengthExceeded, match="65536"):
            await told(client, asked(65_536))


async def test_what_it_refuses_for_another_reason_names_the_reason() -> None:
    async with faked(endless()) as (_, client):
        with pytest.raises(EngineError, match="input_ids"):
            await told(client, GenerateRequest("r", (), SamplingParams(max_tokens=1)))


async def test_a_session_counts_its_segments() -> None:
    async with faked(ScriptedEngine(lambda request: ids(f"a{IM_END}"))) as (_, client):
        first = await told(client, asked(session_id="s"))
        again = await told(client, asked(session_id="s"))  # its prompt does not go on from the answer
        other = await told(client, asked())
    assert [events[-1].segment for events in (first, again, other)] == [0, 1, None]


async def test_a_start_is_over_with_the_first_token() -> None:
    async with faked(endless(), state=State.STARTING) as (fake, client):
        waiting = asyncio.create_task(until_generating(client, interval_s=0.02, budget_s=30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        fake.state = State.READY
        assert await waiting > 0


@pytest.mark.parametrize(("alive", "reason"), [(True, "generated nothing in 0.1 s"), (False, "ended while it started")])
async def test_a_start_that_never_ends_is_given_up_with_its_reason(alive: bool, reason: str) -> None:
    async with faked(endless(), state=State.STARTING) as (_, client):
        with pytest.raises(SGLangFailed, match=reason):
            await until_generating(client, is_alive=lambda: alive, interval_s=0.02, budget_s=0.1)


async def test_a_hanging_one_listens_and_is_not_healthy() -> None:
    async with faked(endless(), state=State.WEDGED) as (_, client):
        assert await problem(client, timeout_s=0.2) == "no token came in 0.2 s"
    async with faked(endless()) as (_, client):
        assert await problem(client) is None


@asynccontextmanager
async def served(fake_engine: Engine, **endpoint: Any) -> AsyncGenerator[tuple[FakeSGLang, httpx.AsyncClient], None]:
    """Our server before the fake."""
    fake = FakeSGLang(fake_engine, config=CONFIG)
    async with serving(fake.app) as url:
        settings = ServerSettings(model_name=MODEL, health_fresh_s=0, health_timeout_s=0.3)
        app = create_app(client_of(url, TOKENIZER, **endpoint), TOKENIZER, settings, CONFIG)
        async with serving(app) as front, httpx.AsyncClient(base_url=front) as http:
            yield fake, http


CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING, State.WEDGED])
async def test_health_says_what_is_wrong_with_the_engine(state: State) -> None:
    async with served(endless(), ready_s=0) as (fake, http):
        assert (await http.get("/health")).status_code == 200
        fake.state = state
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert (await http.get("/livez")).status_code == 200


async def test_a_request_in_a_bad_moment_may_be_sent_again() -> None:
    async with served(endless()) as (fake, http):
        fake.state = State.STARTING
        answer = await http.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("state", [State.DYING, State.CUTTING])
async def test_a_stream_that_broke_ends_with_an_error_for_the_client_too(state: State) -> None:
    async with served(endless()) as (fake, http):
        fake.state = state
        text = (await http.post("/v1/chat/completions", json=CHAT | {"stream": True})).text
    last = text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == "internal_error"


async def test_what_sglang_cannot_do_is_a_400_that_says_so() -> None:
    async with served(endless()) as (_, http):
        answer = await http.post(
            "/generate", json={"input_ids": [1], "sampling_params": {"stop_token_ids": [3], "ignore_eos": True}}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert "past the end of a turn" in answer.json()["error"]["message"]


async def test_clients_that_leave_leave_nothing_running() -> None:
    engine = ScriptedEngine(lambda request: repeat(ids("x")[0]), interval_s=0.01)
    async with served(engine) as (fake, http):

        async def leave() -> None:
            async with http.stream(
                "POST", "/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 9_000}
            ) as answer:
                await anext(answer.aiter_lines())

        await asyncio.gather(*(leave() for _ in range(20)))
        await until(lambda: not fake.num_running and engine.stats().running == 0)
