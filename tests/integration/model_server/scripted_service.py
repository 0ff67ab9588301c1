"""The server over a scripted engine, with the small tokenizer, and the official client for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from typing import Any

from openai import AsyncOpenAI

from model_server.chat.markers import CONTROL_MARKERS
from model_server.chat.template import Span
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.scripted import ScriptedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from tests.integration.model_server.fake_service import behind_sglang
from tests.integration.model_server.serving import serving
from tests.unit.model_server.small_tokenizer import small_tokenizer

TOKENIZER = ChatTokenizer(small_tokenizer())
MODEL = "small"
THROUGH_SGLANG = False
"""Whether engines are behind a fake SGLang; conftest changes it."""


def ids(text: str) -> list[int]:
    """Token ids of sampled text in which markers are markers."""
    spans, rest = [], text
    while rest:
        starts = {rest.find(marker): marker for marker in CONTROL_MARKERS if marker in rest}
        at = min(starts, default=len(rest))
        marker = starts.get(at, "")
        spans += [Span(rest[:at], False), Span(marker, True)] if marker else [Span(rest, False)]
        rest = rest[at + len(marker) :]
    return TOKENIZER.encode(span for span in spans if span.text)


@asynccontextmanager
async def service(engine: ScriptedEngine, **settings: Any) -> AsyncGenerator[tuple[AsyncOpenAI, str], None]:
    """The engine is in the server's process, or behind a fake SGLang (see conftest)."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(behind_sglang(engine, TOKENIZER)) if THROUGH_SGLANG else engine
        app = create_app(served, TOKENIZER, ServerSettings(model_name=MODEL, **settings))
        url = await stack.enter_async_context(serving(app))
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        yield await stack.enter_async_context(client), url


def answering(*texts: str) -> ScriptedEngine:
    return ScriptedEngine.replaying(*(ids(text) for text in texts))


def endless(text: str = "x", **options: Any) -> ScriptedEngine:
    return ScriptedEngine(lambda request: repeat(ids(text)[0]), **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- the engine under test has no event to wait for
            await asyncio.sleep(0.005)
