"""What whoever runs the engine tells it over HTTP: sessions that are over, caches to flush, new weights."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI, Response
from pydantic import SecretStr

from model_server.engine.backend import Loaded
from model_server.engine.drafter import Drafter
from model_server.engine.engine import EmbeddedEngine
from model_server.engine.torch_backend import TorchBackend
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.types import Engine
from model_server.weights.load import load_model
from model_server.weights.save import save_checkpoint
from tests.integration.model_server.fake_service import behind_sglang, client_of
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, answering, endless, ids, service, until
from tests.integration.model_server.serving import serving
from tests.integration.model_server.tiny_model import CONTEXT, tiny_model

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"input_ids": ids("hi"), "sampling_params": {"max_new_tokens": 5, "temperature": 0}}
PATHS = ("/close_session", "/flush_cache", "/update_weights_from_disk")


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, Path]:
    """Two of the same model, with different weights."""
    model = tiny_model()
    for name in ("first", "second"):
        save_checkpoint(model, tmp_path / name, quantize=False)
        for weight in model.parameters():
            weight.data.mul_(-0.5)
    return tmp_path / "first", tmp_path / "second"


def loaded(folder: Path) -> Loaded:
    model = load_model(folder, torch.float32)
    return Loaded(model.config, TorchBackend(model, CONTEXT), Drafter(model, CONTEXT))


@pytest.fixture(params=["in process", "behind SGLang"])
async def http(request: pytest.FixtureRequest, checkpoints: tuple[Path, Path]) -> AsyncIterator[httpx.AsyncClient]:
    model = load_model(checkpoints[0], torch.float32)
    engine = EmbeddedEngine(model, context_length=CONTEXT, reload=loaded)
    settings = ServerSettings(model_name=MODEL)
    if request.param == "in process":
        async with serving(create_app(engine, TOKENIZER, settings)) as url, httpx.AsyncClient(base_url=url) as http:
            yield http
        return
    async with (
        behind_sglang(engine, TOKENIZER) as client,
        serving(create_app(client, TOKENIZER, settings)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield http


async def test_new_weights_answer_from_then_on_and_say_their_name(
    http: httpx.AsyncClient, checkpoints: tuple[Path, Path]
) -> None:
    before = (await http.post("/generate", json=ASK)).json()
    assert before["meta_info"]["weight_version"] == "default"
    body = {"model_path": str(checkpoints[1]), "weight_version": "step 2", "load_format": None}
    answer = await http.post("/update_weights_from_disk", json=body)
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    after = (await http.post("/generate", json=ASK)).json()
    assert after["output_ids"] != before["output_ids"]
    assert (after["meta_info"]["weight_version"], after["meta_info"]["cached_tokens"]) == ("step 2", 0)
    assert (await http.get("/server_info")).json()["weight_version"] == "step 2"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert (await http.post("/v1/chat/completions", json=chat)).json()["metadata"] == {"weight_version": "step 2"}
    text = (await http.post("/v1/chat/completions", json=chat | {"stream": True})).text
    assert json.loads(text.split("\n\n")[-3].removeprefix("data: "))["metadata"] == {"weight_version": "step 2"}
    text = (await http.post("/v1/completions", json={"model": MODEL, "prompt": "hi"})).json()
    assert text["metadata"] == {"weight_version": "step 2"}


async def test_weights_that_cannot_be_loaded_change_nothing(
    http: httpx.AsyncClient, checkpoints: tuple[Path, Path]
) -> None:
    before = (await http.post("/generate", json=ASK)).json()
    (checkpoints[1] / "model.safetensors").write_bytes(b"\x08\x00\x00")
    other = shutil.copytree(checkpoints[0], checkpoints[0].with_name("other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"sliding_window": 9}))
    for folder in (checkpoints[1], other, other / "none"):
        answer = await http.post("/update_weights_from_disk", json={"model_path": str(folder)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_weights"), answer.text
    after = (await http.post("/generate", json=ASK)).json()
    assert after["output_ids"] == before["output_ids"]
    assert after["meta_info"]["weight_version"] == "default"


async def test_a_flushed_cache_is_empty(http: httpx.AsyncClient) -> None:
    prompt = ASK | {"input_ids": ids("hi") * 20}
    await http.post("/generate", json=prompt)
    assert (await http.post("/generate", json=prompt)).json()["meta_info"]["cached_tokens"] > 0
    assert (await http.post("/flush_cache")).status_code == 200
    assert (await http.post("/generate", json=prompt)).json()["meta_info"]["cached_tokens"] == 0


async def test_what_a_prompt_is_thought_of_is_told_in_sglangs_words(http: httpx.AsyncClient) -> None:
    prompt = ids("hello you")
    scored = {"input_ids": prompt, "return_logprob": True, "logprob_start_len": 1, "top_logprobs_num": 2}
    answer = (await http.post("/generate", json=scored | {"sampling_params": {"max_new_tokens": 0}})).json()
    facts = answer["meta_info"]
    assert (answer["output_ids"], answer["text"], facts["completion_tokens"]) == ([], "", 0)
    assert facts["finish_reason"] == {"type": "length", "length": 0}
    assert facts["output_token_logprobs"] == []
    assert [token for _, token, _ in facts["input_token_logprobs"]] == prompt[1:]
    assert facts["input_token_logprobs"][0] == [None, prompt[1], None]
    assert facts["input_top_logprobs"][0] is None
    for (logprob, _, _), likeliest in zip(
        facts["input_token_logprobs"][1:], facts["input_top_logprobs"][1:], strict=True
    ):
        assert logprob <= likeliest[0][0] < 0
        assert len(likeliest) == 2
    # The same tokens as an answer to the same beginning have the same scores.
    forced = {"temperature": 0, "max_new_tokens": 1, "logit_bias": {str(prompt[2]): 100}}
    first = await http.post(
        "/generate", json={"input_ids": prompt[:2], "return_logprob": True, "sampling_params": forced}
    )
    ((logprob, token, _),) = first.json()["meta_info"]["output_token_logprobs"]
    assert token == prompt[2]
    assert logprob == pytest.approx(facts["input_token_logprobs"][1][0], abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprob_start_len": 0}, "logprob_start_len"),
        ({"sampling_params": {"max_new_tokens": 0}}, "sampling_params.max_new_tokens"),
        ({"logprob_start_len": -2, "return_logprob": True}, "logprob_start_len"),
    ],
)
async def test_scores_that_make_no_sense_are_refused(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await http.post("/generate", json=ASK | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_closed_session_is_forgotten_and_begins_anew(http: httpx.AsyncClient) -> None:
    first = (await http.post("/generate", json=ASK | {"session_id": "chat"})).json()
    other = ASK | {"input_ids": ids("you"), "session_id": "chat"}
    assert (
        first["meta_info"]["segment"],
        (await http.post("/generate", json=other)).json()["meta_info"]["segment"],
    ) == (
        0,
        1,
    )
    assert (await http.post("/close_session", json={"session_id": "chat"})).json() == {"success": True}
    assert (await http.post("/close_session", json={"session_id": "chat"})).json() == {"success": False}
    assert (await http.post("/generate", json=ASK | {"session_id": "chat"})).json()["meta_info"]["segment"] == 0


@pytest.mark.parametrize("path", PATHS)
async def test_the_servers_key_is_needed(path: str) -> None:
    async with service(answering(), api_key=SecretStr("k")) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.post(path, json={"session_id": "x", "model_path": "x"})).status_code == 401


async def test_a_session_of_another_salt_is_another(http: httpx.AsyncClient) -> None:
    for salt in ("mine", "yours"):
        await http.post("/generate", json=ASK | {"session_id": "chat", "cache_salt": salt})
    assert (await http.post("/close_session", json={"session_id": "chat"})).json() == {"success": False}
    assert (await http.post("/close_session", json={"session_id": "chat", "cache_salt": "mine"})).json()["success"]
    other = ASK | {"input_ids": ids("you"), "session_id": "chat"}
    for salt, segment in (("mine", 0), ("yours", 1)):
        answer = (await http.post("/generate", json=other | {"cache_salt": salt})).json()
        assert answer["meta_info"]["segment"] == segment


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/close_session", {}, "session_id"),
        ("/close_session", {"session_id": ""}, "session_id"),
        ("/update_weights_from_disk", {"model_path": 7}, "model_path"),
        ("/update_weights_from_disk", {"model_path": "x", "manifest": {}}, "manifest"),
        ("/update_weights_from_disk", {"model_path": "x", "weigth_version": "y"}, "weigth_version"),
    ],
)
async def test_what_makes_no_sense_is_refused(path: str, body: dict[str, Any], param: str) -> None:
    async with service(answering()) as (_, url), httpx.AsyncClient(base_url=url) as http:
        answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_busy_sglang_flushes_nothing_and_says_when_to_come_again(checkpoints: tuple[Path, Path]) -> None:
    engine = endless()
    async with (
        behind_sglang(engine, TOKENIZER) as client,
        serving(create_app(client, TOKENIZER, ServerSettings(model_name=MODEL))) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        asked = {"input_ids": ids("hi"), "stream": True, "sampling_params": {"max_new_tokens": 60_000}}
        async with http.stream("POST", "/generate", json=asked):
            await until(lambda: engine.stats().running == 1)
            answer = await http.post("/flush_cache")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert answer.headers["Retry-After"]
    assert engine.num_flushes == 0


async def test_sglangs_own_series_are_exported_beside_ours_as_long_as_it_lives() -> None:
    engine = answering("hi<|im_end|>")
    async with behind_sglang(engine, TOKENIZER) as client:
        alive = await exported(client)
    gone = await exported(client_of("http://127.0.0.1:9", TOKENIZER))
    assert 'sglang:gen_throughput{tp_rank="0"} 0.0' in alive
    assert "gen_throughput" not in gone
    for text in (alive, gone):
        assert text.count("# TYPE sglang:num_running_reqs ") == 1
        assert f'sglang:num_running_reqs{{model_name="{MODEL}"}} 0.0' in text


async def test_how_long_an_engine_has_not_answered_is_exported() -> None:
    answers = f'mimo:engine_away_seconds{{model_name="{MODEL}"}} 0.0\n'
    async with behind_sglang(answering("hi<|im_end|>"), TOKENIZER) as client:
        assert answers in await exported(client)
    gone = await exported(client_of("http://127.0.0.1:9", TOKENIZER))
    assert "mimo:engine_away_seconds{" in gone
    assert answers not in gone


async def test_series_that_cannot_be_read_do_not_harm_ours() -> None:
    app = FastAPI()
    app.add_api_route("/metrics", lambda: Response("<html> {no series", media_type="text/html"))
    async with serving(app) as url:
        text = await exported(client_of(url, TOKENIZER))
    assert f'sglang:num_running_reqs{{model_name="{MODEL}"}} 0.0' in text
    assert "html" not in text


async def exported(engine: Engine) -> str:
    app = create_app(engine, TOKENIZER, ServerSettings(model_name=MODEL))
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    return answer.text
