"""The whole server over a tiny random checkpoint: loaded, asked over HTTP, and as a process stopped by a signal."""

import asyncio
import base64
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import AsyncOpenAI

from model_server.chat.markers import END_THINK
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.weights.load import load_model
from model_server.weights.save import save_checkpoint
from tests.integration.model_server.serving import server_process, serving
from tests.integration.model_server.tiny_model import CONTEXT, tiny_model
from tests.unit.model_server.small_tokenizer import FIXED_TEXT, small_tokenizer

pytestmark = pytest.mark.anyio

MODEL = "tiny-random"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights and a small vocabulary, in the hub's layout."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny_random"
    save_checkpoint(tiny_model(), folder, quantize=False)
    small_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
async def client(checkpoint: Path) -> AsyncGenerator[AsyncOpenAI, None]:
    """The same parts in this process, which spares loading the tensor library once more."""
    model = load_model(checkpoint, torch.float32)
    engine = EmbeddedEngine(model, max_running=4)
    app = create_app(engine, ChatTokenizer.load(checkpoint), ServerSettings(model_name=MODEL), model.config)
    async with serving(app) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def said(client: AsyncOpenAI, prompt: str, *, seed: int = 1, temperature: float = 1.0) -> str:
    """A streamed answer of at most 24 tokens."""
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=24,
        seed=seed,
        temperature=temperature,
        stream=True,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_a_seed_repeats_an_answer_whatever_runs_beside_it(client: AsyncOpenAI) -> None:
    alone = await said(client, "a")
    together = await asyncio.gather(*(said(client, prompt) for prompt in ("a", "b", "a", "c")))
    assert alone == together[0] == together[2]
    assert await said(client, "a", seed=2) != alone


async def test_greedy_answers_repeat_without_a_seed(client: AsyncOpenAI) -> None:
    assert await said(client, "a", seed=1, temperature=0.0) == await said(client, "a", seed=2, temperature=0.0)


async def test_logprobs_cover_the_answer_streamed_and_whole(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 12,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = await client.chat.completions.create(**asked)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 12
    for token in logprobs.content:
        assert token.top_logprobs[0].token == token.token
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    assert b"".join(bytes(token.bytes or ()) for token in logprobs.content).decode("utf-8", "replace") == (
        whole.choices[0].message.content
    )
    stream = await client.chat.completions.create(**asked, stream=True)
    streamed = [chunk.choices[0].logprobs async for chunk in stream]
    assert [token for part in streamed if part for token in part.content or ()] == logprobs.content


async def test_an_echoed_prompt_has_the_logprobs_of_the_native_endpoint(client: AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": MODEL, "prompt": "a prompt of its own", "echo": True, "logprobs": 2}
    scored = (await client.completions.create(**ask, max_tokens=0)).choices[0]
    answered = (await client.completions.create(**ask, max_tokens=3, temperature=0)).choices[0]
    ids = small_tokenizer().encode(ask["prompt"]).ids
    async with httpx.AsyncClient(base_url=str(client.base_url).removesuffix("/v1/")) as http:
        body = {"input_ids": ids, "return_logprob": True, "logprob_start_len": 0}
        native = (await http.post("/generate", json=body | {"sampling_params": {"max_new_tokens": 0}})).json()
    expected = [logprob for logprob, *_ in native["meta_info"]["input_token_logprobs"]]
    assert scored.text == ask["prompt"]
    assert scored.logprobs is not None
    assert scored.logprobs.token_logprobs == [None, *expected[1:]]
    assert [bool(likely) for likely in scored.logprobs.top_logprobs or ()] == [False, *[True] * (len(ids) - 1)]
    assert answered.logprobs is not None
    assert answered.logprobs.token_logprobs is not None
    assert answered.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected[1:], abs=1e-4)
    assert len(answered.logprobs.token_logprobs) == len(ids) + 3


async def test_a_bias_makes_a_token_certain(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        max_tokens=2,
        logit_bias={str(small_tokenizer().token_to_id(FIXED_TEXT)): 100},
    )
    assert answer.choices[0].message.content == 2 * FIXED_TEXT


async def test_experts_of_prompt_and_answer_come_with_the_end(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "extra_body": {"return_routed_experts": True, "routed_experts_start_len": 2},
    }
    whole = await client.chat.completions.create(**asked)
    assert whole.usage is not None
    extension = (whole.model_extra or {})["sglext"]
    # One layer with experts, two of them per token; the first two tokens were not asked for, the last was not run.
    assert extension["routed_experts_shape"] == [whole.usage.total_tokens - 3, 1, 2]
    assert set(base64.b64decode(extension["routed_experts"])) <= {0, 1, 2, 3}
    stream = await client.chat.completions.create(**asked, stream=True)
    streamed = [(chunk.model_extra or {}).get("sglext") async for chunk in stream]
    assert streamed == [*[None] * (len(streamed) - 1), extension]


async def test_ids_logprobs_and_experts_of_the_native_endpoint_are_those_of_the_protocol(client: AsyncOpenAI) -> None:
    asked = {"model": MODEL, "prompt": "a", "max_tokens": 6, "temperature": 0.0, "logprobs": 2}
    text = await client.completions.create(**asked)  # type: ignore[call-overload]
    prompt_ids = small_tokenizer().encode("a").ids
    async with httpx.AsyncClient(base_url=str(client.base_url).removesuffix("/v1/")) as http:
        native = {
            "input_ids": prompt_ids,
            "sampling_params": {"temperature": 0, "max_new_tokens": 6},
            "return_logprob": True,
            "top_logprobs_num": 2,
            "return_text_in_logprobs": True,
            "return_routed_experts": True,
        }
        answer = (await http.post("/generate", json=native)).json()
        info = (await http.get("/server_info")).json()
    facts = answer["meta_info"]
    assert answer["text"] == text.choices[0].text
    assert [token for _, token, _ in facts["output_token_logprobs"]] == answer["output_ids"]
    logprobs = text.choices[0].logprobs
    assert [[logprob, shown] for logprob, _, shown in facts["output_token_logprobs"]] == [
        list(pair) for pair in zip(logprobs.token_logprobs, logprobs.tokens, strict=True)
    ]
    assert [{shown: logprob for logprob, _, shown in top} for top in facts["output_top_logprobs"]] == (
        logprobs.top_logprobs
    )
    assert facts["routed_experts_shape"] == [len(prompt_ids) + 5, 1, 2]
    assert set(base64.b64decode(facts["routed_experts"])) <= {0, 1, 2, 3}
    assert info["model_config"]["n_routed_experts"] == 4


async def test_sampled_choices_differ_and_repeat_with_their_seed(client: AsyncOpenAI) -> None:
    async def said() -> list[str | None]:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a"}], max_tokens=16, n=3, seed=4
        )
        return [choice.message.content for choice in answer.choices]

    first = await said()
    assert len(set(first)) == 3
    assert await said() == first


async def test_thinking_ends_at_its_budget(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        max_tokens=40,
        temperature=0.0,
        logit_bias={str(small_tokenizer().token_to_id(END_THINK)): -100},
        extra_body={"max_thinking_tokens": 5, "chat_template_kwargs": {"enable_thinking": True}},
        logprobs=True,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content].index(END_THINK) == 6


async def test_the_context_length_is_the_checkpoints_and_is_enforced(client: AsyncOpenAI) -> None:
    card = await client.models.retrieve(MODEL)
    assert card.max_model_len == CONTEXT  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a"}], max_tokens=CONTEXT
        )
    assert refused.value.code == "context_length_exceeded"


async def test_a_terminated_server_ends_its_answers_first(checkpoint: Path) -> None:
    async with (
        server_process(str(checkpoint)) as (child, url),
        AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a"}], max_tokens=200, seed=1, stream=True
        )
        await anext(aiter(stream))
        child.send_signal(signal.SIGTERM)
        endings = [chunk.choices[0].finish_reason async for chunk in stream]
        assert endings[-1] in ("length", "stop")
        assert await child.wait() == 0
