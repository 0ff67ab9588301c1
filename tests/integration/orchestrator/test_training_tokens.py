"""The tokens of answers, as our own engine samples them, from the model server to what training reads."""

import base64
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from agent.api.app import create_app
from agent.config import ModelSettings
from agent.model import open_model
from agent.orchestrator.worker import Worker
from agent.store.open import open_store
from agent.store.sql import SqlStore
from agent.types import Limits, ModelOptions, TaskRequest
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.server.app import create_app as create_model_server
from model_server.server.settings import ServerSettings
from tests.integration.model_server.serving import serving
from tests.integration.orchestrator.conftest import Clock, users
from tests.numerics.small_models import small_config
from tests.unit.model_server.small_tokenizer import small_tokenizer

pytestmark = pytest.mark.anyio

MAX_TOKENS = 12


@pytest.fixture
async def store(store_url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(store_url, clock=clock, artifacts=f"file://{tmp_path}/kept") as opened:
        yield opened


@asynccontextmanager
async def engine_url() -> AsyncIterator[str]:
    """Random weights: what it says is no call, so a run ends with its third answer."""
    torch.manual_seed(0)
    tokenizer = ChatTokenizer(small_tokenizer())
    model = MiMoV2Flash(small_config(vocab_size=small_tokenizer().get_vocab_size() + 10, max_position_embeddings=8192))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    engine = EmbeddedEngine(model, max_running=2)
    app = create_model_server(engine, tokenizer, ServerSettings(model_name="small"), model.config)
    async with serving(app) as url:
        yield f"{url}/v1"


async def samples(
    store: SqlStore, make_worker: Callable[..., Worker], request: TaskRequest, **settings: Any
) -> list[dict[str, Any]]:
    task = await users(store).submit(request)
    async with engine_url() as url, open_model(ModelSettings(url=url, name="small", **settings)) as model:
        await make_worker(model=model).drain()
    transport = httpx.ASGITransport(create_app(store, _same))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.get(f"/v1/tasks/{task.id}/trajectory", params={"format": "training"})
    (run,) = answer.json()["runs"]
    found: list[dict[str, Any]] = run["samples"]
    return found


async def _same(path: Path, commit: str) -> str:
    return commit


@pytest.fixture
def request_(make_request: Callable[..., TaskRequest]) -> TaskRequest:
    options = ModelOptions(max_tokens=MAX_TOKENS, thinking=False, seed=1)
    return make_request(checks=(), limits=Limits(max_steps=3), model=options)


async def test_training_gets_ids_logprobs_and_experts_of_every_answer(
    store: SqlStore, make_worker: Callable[..., Worker], request_: TaskRequest
) -> None:
    found = await samples(store, make_worker, request_, record_tokens=True)

    assert len(found) >= 3
    for sample in found:
        usage = sample["answer"]["usage"]
        assert len(sample["token_ids"]) == len(sample["logprobs"]) == usage["completion_tokens"]
        assert all(logprob <= 0 for logprob in sample["logprobs"])
        assert sample["routed_experts_shape"][0] == usage["prompt_tokens"] + usage["completion_tokens"] - 1
        assert len(base64.b64decode(sample["routed_experts"])) == math.prod(sample["routed_experts_shape"])


async def test_training_gets_none_of_them_where_they_were_not_asked_for(
    store: SqlStore, make_worker: Callable[..., Worker], request_: TaskRequest
) -> None:
    found = await samples(store, make_worker, request_)

    assert len(found) >= 3
    names = ("token_ids", "logprobs", "routed_experts", "routed_experts_shape")
    assert {sample[name] for sample in found for name in names} == {None}
