"""The same weights in our process and behind a fake SGLang: the server gives the same answers."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from model_server.chat.markers import END_THINK
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.sglang.client import Endpoint, SGLangEngine
from model_server.sglang.native import Vocabulary
from model_server.testing.fake_sglang import FakeSGLang
from model_server.testing.forms import FormReader
from tests.integration.model_server.serving import serving
from tests.numerics.small_models import random_model, small_config
from tests.unit.model_server.small_tokenizer import small_tokenizer

pytestmark = pytest.mark.anyio

TOKENIZER = ChatTokenizer(small_tokenizer())
CONFIG = small_config(
    vocab_size=TOKENIZER.vocab_size,
    num_hidden_layers=3,
    hybrid_layer_pattern=(0, 1, 0),
    moe_layer_freq=(0, 1, 1),
    max_position_embeddings=1024,
)
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 6}, "far": {"type": "boolean"}},
            "required": ["place"],
        },
    },
}
SCHEMA = {"type": "object", "properties": {"size": {"type": "integer", "maximum": 99}}, "required": ["size"]}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, "seed": 5}
THINK = {"chat_template_kwargs": {"enable_thinking": True}, "max_thinking_tokens": 6}
NATIVE: dict[str, Any] = {"input_ids": [5, 6, 7, 8], "rid": "mine"}
ROUTES = NATIVE | {"return_routed_experts": True, "sampling_params": {"temperature": 0, "max_new_tokens": 9}}

REQUESTS = {
    "greedy": ("/v1/chat/completions", CHAT | {"temperature": 0}),
    "sampled": ("/v1/chat/completions", CHAT | {"temperature": 0.9, "top_p": 0.8, "top_k": 40, "min_p": 0.01, "n": 2}),
    "logprobs": ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 3}),
    "bias": ("/v1/chat/completions", CHAT | {"logit_bias": {"70": 9, "71": -9}}),
    "budget": ("/v1/chat/completions", CHAT | THINK),
    "json": ("/v1/chat/completions", CHAT | {"response_format": FORM}),
    "json after thinking": ("/v1/chat/completions", CHAT | THINK | {"response_format": FORM}),
    "calls": ("/v1/chat/completions", CHAT | {"tools": [LOOK], "tool_choice": "required", "max_tokens": 200}),
    "one call": (
        "/v1/chat/completions",
        CHAT | THINK | {"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    ),
    "json or calls": ("/v1/chat/completions", CHAT | {"tools": [LOOK], "response_format": FORM, "max_tokens": 200}),
    "tools and thinking": ("/v1/chat/completions", CHAT | THINK | {"tools": [LOOK]}),
    "stop string": (
        "/v1/completions",
        {"model": "m", "prompt": "def", "max_tokens": 60, "stop": ["a", "e"], "seed": 2},
    ),
    "ids": ("/generate", NATIVE | {"return_logprob": True, "sampling_params": {"temperature": 0}}),
    "routes": ("/generate", ROUTES | {"routed_experts_start_len": 2}),
    "late routes": ("/generate", ROUTES | {"routed_experts_start_len": 6}),
    "past the end": ("/generate", NATIVE | {"sampling_params": {"ignore_eos": True, "sampling_seed": 1}}),
}


def engine() -> EmbeddedEngine:
    return EmbeddedEngine(random_model(CONFIG, 0), max_running=4)


@asynccontextmanager
async def behind_sglang() -> AsyncGenerator[SGLangEngine, None]:
    embedded, end_think = engine(), TOKENIZER.marker_id(END_THINK)
    fake = FakeSGLang(embedded, config=CONFIG, end_think_id=end_think, grammar=FormReader(TOKENIZER))
    async with serving(fake.app) as url:
        endpoint = Endpoint(url, CONFIG.max_position_embeddings)
        yield SGLangEngine(endpoint, Vocabulary(TOKENIZER.end_ids, end_think), CONFIG)
    await embedded.close()


@pytest.fixture(scope="module")
async def servers() -> AsyncGenerator[list[httpx.AsyncClient], None]:
    async with AsyncExitStack() as stack:
        clients = []
        for served in (engine(), await stack.enter_async_context(behind_sglang())):
            app = create_app(served, TOKENIZER, ServerSettings(model_name="m"), CONFIG)
            url = await stack.enter_async_context(serving(app))
            clients.append(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60)))
        yield clients


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_is_the_same_from_both(servers: list[httpx.AsyncClient], name: str) -> None:
    path, body = REQUESTS[name]
    ours, theirs = [(await http.post(path, json=body)) for http in servers]
    assert (ours.status_code, theirs.status_code) == (200, 200), (ours.text, theirs.text)
    (facts, numbers), (their_facts, their_numbers) = told(ours.json()), told(theirs.json())
    assert their_facts == facts
    # How many tokens share a step depends on the moment, and PyTorch's sums on that.
    assert their_numbers == pytest.approx(numbers, abs=1e-4)


def told(value: Any, path: str = "") -> tuple[dict[str, Any], list[float]]:
    """What an answer holds by its place, and its broken numbers, without what differs from one time to the next."""
    if isinstance(value, float):
        return {path: float}, [value]
    if not isinstance(value, dict | list):
        return {path: value}, []
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    facts, numbers = {path: len(value)}, list[float]()
    for key, part in parts:
        if key not in ("id", "created", "e2e_latency"):
            more, further = told(part, f"{path}.{key}")
            facts |= more
            numbers += further
    return facts, numbers
