"""A fake SGLang over an engine, and our client of it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from model_server.chat.markers import END_THINK
from model_server.chat.tokens import ChatTokenizer
from model_server.sglang.client import Endpoint, SGLangEngine
from model_server.sglang.native import Vocabulary
from model_server.testing.fake_sglang import FakeSGLang
from model_server.types import Engine
from tests.integration.model_server.serving import serving
from tests.numerics.small_models import small_config

CONFIG = small_config(num_hidden_layers=3, hybrid_layer_pattern=(0, 1, 1), moe_layer_freq=(0, 1, 1))
"""Routes come for all three layers, and two of them have experts."""


@asynccontextmanager
async def behind_sglang(engine: Engine, tokenizer: ChatTokenizer) -> AsyncGenerator[SGLangEngine, None]:
    """The client; at its end the engine below is closed too."""
    fake = FakeSGLang(engine, config=CONFIG, end_think_id=tokenizer.marker_id(END_THINK))
    async with serving(fake.app) as url:
        yield client_of(url, tokenizer, context_length=engine.stats().context_length)
    await engine.close()


def client_of(url: str, tokenizer: ChatTokenizer, **endpoint: Any) -> SGLangEngine:
    vocabulary = Vocabulary(tokenizer.end_ids, tokenizer.marker_id(END_THINK))
    return SGLangEngine(Endpoint(url, **{"context_length": 65_536, **endpoint}), vocabulary, CONFIG)
