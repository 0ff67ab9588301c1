"""What we say to SGLang and what we expect of it, held against the real one. Skipped where it is not installed."""

import json
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Protocol

import httpx
import pytest
import torch
from fastapi import Body, FastAPI

from model_server.chat.template import render
from model_server.config import ModelConfig
from model_server.sglang.arguments import PINNED_VERSION, LaunchSettings, launch, load_preset
from model_server.sglang.client import Endpoint, SGLangEngine
from model_server.sglang.grammar import constraint
from model_server.sglang.native import TokenReader, Vocabulary, refusal, request_body
from model_server.testing.fake_sglang import FakeSGLang
from model_server.types import (
    ContextLengthExceeded,
    GenerateRequest,
    Logprobs,
    Overloaded,
    SamplingParams,
    TokenDeadline,
    TokenEvent,
    TurnForm,
)
from tests.integration.model_server.serving import serving
from tests.unit.model_server.canned_engine import CannedEngine

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / "build" / "sglang" / "bin" / "python"
PUBLISHED = files("model_server.published").joinpath("MiMo-V2-Flash.json").read_text("utf-8")
CONFIG = ModelConfig.model_validate_json(PUBLISHED)
PRESET = load_preset(PINNED_VERSION)
VOCABULARY = Vocabulary(end_ids=frozenset({151_645}), end_think_id=151_668)

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="build/sglang is missing: make it with tests/contract/sglang/setup.sh"
)


class Ask(Protocol):
    def __call__(self, name: str, argument: Any = None) -> Any:
        """The answer to a question of ``probe.py``."""


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """The real SGLang, for questions that ``probe.py`` can put to it."""
    command = [str(PYTHON), "-W", "ignore", str(Path(__file__).parent / "probe.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/"
    ) as probe:
        assert probe.stdin is not None
        assert probe.stdout is not None
        questions, answers = probe.stdin, probe.stdout

        def asked(name: str, argument: Any = None) -> Any:
            questions.write(json.dumps([name, argument]) + "\n")
            questions.flush()
            answer = json.loads(answers.readline() or '{"error": "the probe ended"}')
            assert "error" not in answer, answer["error"]
            return answer["answer"]

        yield asked
        probe.kill()  # its own end takes seconds


def arguments(**settings: Any) -> list[str]:
    return list(launch(LaunchSettings(**{"model_path": "/weights", **settings}), PRESET, CONFIG).arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"draft_steps": 0, "expert_exchange": "none", "attention_groups": 1},
        {"gpus": 4, "routed_experts": True, "api_key": "key", "host": "0.0.0.0"},
        {"flags": {"attention-backend": "fa3", "enable-hierarchical-cache": True, "load-balance-method": None}},
    ],
)
def test_the_real_parser_takes_every_flag_and_understands_it(ask: Ask, settings: dict[str, Any]) -> None:
    given = arguments(**settings)
    fields = ask("parsed", given)
    assert "refused" not in fields
    for flag, value in zip(given, [*given[1:], "--"], strict=True):
        if flag.startswith("--"):
            read = fields[flag.removeprefix("--").replace("-", "_")]
            assert read == understood(value, type(read)), flag


def understood(value: str, kind: type) -> Any:
    """A value as the parser should read it; a flag follows one that has none."""
    if value.startswith("--"):
        return True
    return json.loads(value) if kind is dict else kind(value)


def test_the_flags_we_know_are_those_of_the_real_parser(ask: Ask) -> None:
    assert sorted(PRESET.known) == ask("flags")


def test_the_real_parser_refuses_the_flag_of_older_commands(ask: Ask) -> None:
    assert "--enable-mtp" in ask("parsed", [*arguments(), "--enable-mtp"])["refused"]


def test_what_follows_from_the_arguments_is_what_they_are_for(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(PUBLISHED)
    # On a machine without GPUs SGLang has no exchange of experts; everything else is as it would be there.
    given = arguments(model_path=str(tmp_path), expert_exchange="none", flags={"device": "cpu"})
    fields = ask("resolved", given)
    assert fields["enable_multi_layer_eagle"] is True
    assert fields["swa_full_tokens_ratio"] == 0.1
    assert fields["max_running_requests"] == 128
    assert fields["chunked_prefill_size"] == 16_384 // 2  # for each attention group


@pytest.mark.parametrize("variables", [PRESET.environment, PRESET.environment_deepep])
def test_the_variables_are_read(ask: Ask, variables: dict[str, str]) -> None:
    for name in variables:
        if name.startswith("SGLANG_"):
            places = ["srt/environ.py", "srt/layers/sampler.py"]
            assert any(ask("source_says", {"file": place, "words": name}) for place in places), name


class FormOnly:
    """A grammar for an engine that enforces forms itself."""

    def __init__(self, form: TurnForm) -> None:
        self.form: TurnForm | None = form

    def start(self) -> Any:
        raise NotImplementedError


BASH = {
    "name": "bash",
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "integer"}, "where": {"type": "object"}},
        "required": ["command"],
    },
}
FULL = GenerateRequest(
    request_id="mine",
    prompt_ids=(1, 2, 3),
    sampling=SamplingParams(
        temperature=0.5,
        top_p=0.9,
        min_p=0.1,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        repetition_penalty=2.0,
        logit_bias=((5, -1.5),),
        seed=2**63 - 1,
        max_tokens=7,
        stop_ids=frozenset({151_645, 151_643}),
        num_logprobs=2,
        deadline=TokenDeadline(VOCABULARY.end_think_id, 11),
        grammar=FormOnly(TurnForm(True, functions=(BASH,))),
    ),
    experts_from=2,
    cache_salt="project",
    session_id="conversation",
    priority=3,
)


PLAIN = GenerateRequest("plain", (1, 2, 3))
SCORED = GenerateRequest("scored", (1, 2, 3), SamplingParams(max_tokens=1, num_logprobs=1), scored_from=1)


@pytest.mark.parametrize("request_", [FULL, PLAIN, SCORED], ids=lambda request: request.request_id)
def test_a_request_is_admitted_with_all_of_its_fields(ask: Ask, request_: GenerateRequest) -> None:
    admitted = ask("admitted", request_body(request_, "name", VOCABULARY, num_groups=2))
    assert admitted["unknown"] == []
    assert admitted["rid"] == "name"
    assert admitted["stop_token_ids"] == sorted(request_.sampling.stop_ids)
    assert admitted["top_k"] > 1  # neither greedy nor cut


@pytest.mark.anyio
async def test_new_weights_are_asked_for_with_fields_it_has_and_its_cache_is_flushed(ask: Ask) -> None:
    bodies = []

    def record(body: Annotated[dict[str, Any], Body()]) -> dict[str, bool]:
        bodies.append(body)
        return {"success": True}

    app = FastAPI()
    app.add_api_route("/update_weights_from_disk", record, methods=["POST"])
    async with serving(app) as url:
        client = SGLangEngine(Endpoint(url, context_length=100), VOCABULARY, CONFIG)
        await client.load_weights("/weights/2", "step 2", abort=True)
        await client.close()
    assert ask("weights_taken", bodies[0]) == bodies[0] | {"flush_cache": True}


@pytest.mark.anyio
async def test_what_a_prompt_is_thought_of_is_an_answer_of_the_real_one(ask: Ask) -> None:
    scores = (Logprobs(-0.25, ((3, -0.25),)),)
    engine = CannedEngine(TokenEvent(5, "length", 0, Logprobs(-1.0, ((5, -1.0),)), prompt_logprobs=scores))
    fake = FakeSGLang(engine, config=CONFIG)
    body = request_body(SCORED, "name", VOCABULARY, num_groups=1) | {"stream": False}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake.app), base_url="http://fake") as http:
        answer = (await http.post("/generate", json=body)).json()
    facts = ask("answered", answer)["meta_info"]
    assert facts["input_token_logprobs"] == [[None, 2, None], [-0.25, 3, None]]
    assert facts["input_top_logprobs"] == [None, [[-0.25, 3, None]]]
    (read,) = TokenReader(SCORED, CONFIG).read(answer)
    assert read.prompt_logprobs == scores


def test_a_budget_counts_the_tokens_before_the_end_of_thinking(ask: Ask) -> None:
    body = request_body(FULL, "name", VOCABULARY, num_groups=1)
    assert ask("thinking_tokens", body["max_thinking_tokens"]) == 11


@pytest.mark.anyio
async def test_what_the_fake_answers_is_an_answer_of_the_real_one(ask: Ask) -> None:
    experts = torch.randint(0, 256, (4, sum(CONFIG.moe_layer_freq), CONFIG.num_experts_per_tok), dtype=torch.uint8)
    engine = CannedEngine(
        TokenEvent(5, cached_tokens=2, logprobs=Logprobs(-0.5, ((5, -0.5), (6, float("-inf"))))),
        TokenEvent(151_645, "stop", 2, Logprobs(-1.0, ((151_645, -1.0), (7, -2.0))), experts),
    )
    fake = FakeSGLang(engine, config=CONFIG)
    body = request_body(FULL, "name", VOCABULARY, num_groups=1) | {"stream": False}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake.app), base_url="http://fake") as http:
        answer = (await http.post("/generate", json=body)).json()
    read = ask("answered", answer)
    facts = read["meta_info"]
    assert read["output_ids"] == [151_645]  # a stream of new ids
    assert facts["finish_reason"] == {"type": "stop", "matched": 151_645}
    assert (facts["prompt_tokens"], facts["completion_tokens"], facts["cached_tokens"]) == (3, 2, 2)
    assert facts["output_token_logprobs"] == [[-1.0, 151_645, None]]
    assert facts["output_top_logprobs"] == [[[-1.0, 151_645, None], [-2.0, 7, None]]]
    routes = torch.tensor(read["routes"]).view(4, CONFIG.num_hidden_layers, CONFIG.num_experts_per_tok)
    layers = [layer for layer, has_experts in enumerate(CONFIG.moe_layer_freq) if has_experts]
    assert torch.equal(routes[:, layers], experts.to(routes.dtype))


def test_how_the_real_one_ends_sequences_is_understood(ask: Ask) -> None:
    stop, length, full = ask("finish_reasons")
    for reason, expected in ((stop, "stop"), (length, "length")):
        event = {"output_ids": [7], "meta_info": {"completion_tokens": 1, "finish_reason": reason}}
        assert [token.finish_reason for token in TokenReader(PLAIN, CONFIG).read(event)] == [expected]
    event = {"output_ids": [], "meta_info": {"finish_reason": full}}
    with pytest.raises(Overloaded):
        list(TokenReader(PLAIN, CONFIG).read(event))


def test_a_stream_of_new_ids_has_their_logarithms_alone(ask: Ask) -> None:
    assert {"output_token_logprobs", "output_top_logprobs"} <= set(ask("sliced_keys"))


@pytest.mark.parametrize(
    ("file", "words", "error"),
    [
        ("srt/managers/scheduler.py", "The request queue is full.", Overloaded),
        ("srt/managers/scheduler.py", "The request is aborted by a higher priority request.", Overloaded),
        ("srt/managers/tokenizer_manager.py", "model's context length (", ContextLengthExceeded),
        ("srt/managers/tokenizer_manager.py", "exceeds the model's maximum context length ", ContextLengthExceeded),
        ("srt/constrained/grammar_manager.py", "Failed to compile", None),
    ],
)
def test_the_words_by_which_refusals_are_told_apart_are_still_its_own(
    ask: Ask, file: str, words: str, error: type[Exception] | None
) -> None:
    assert ask("source_says", {"file": file, "words": words})
    assert error is None or isinstance(refusal(400 if error is ContextLengthExceeded else 503, words), error)


@pytest.mark.parametrize("form", [TurnForm(False, functions=(BASH,)), TurnForm(True, functions=(BASH,), num_calls=1)])
def test_the_form_of_calls_is_how_the_template_writes_them(ask: Ask, form: TurnForm) -> None:
    one = written({"command": "echo '</para' é\n".replace("é", "e"), "timeout": 3, "where": {"a": [1]}})
    texts = {
        one: True,
        written({"command": ""}): True,
        one + written({"command": "ls"}): form.num_calls is None,
        written({"timeout": 3}): False,
        written({"command": "ls", "timeout": "soon"}): False,
        one.replace("bash", "rm"): False,
        "x" + one: False,
        "": False,
    }
    question = {"structural_tag": constraint(form)["structural_tag"], "texts": list(texts)}
    assert dict(zip(texts, ask("matched", question), strict=True)) == texts


def test_an_answer_may_be_json_or_calls_where_both_are_allowed(ask: Ask) -> None:
    form = TurnForm(False, answer={"type": "object", "properties": {"a": {"type": "integer"}}}, functions=(BASH,))
    texts = {'{"a": 1}': True, written({"command": "ls"}): True, '{"a": 1}' + written({"command": "ls"}): False}
    question = {"structural_tag": constraint(form)["structural_tag"], "texts": list(texts)}
    assert dict(zip(texts, ask("matched", question), strict=True)) == texts


def written(given: dict[str, Any]) -> str:
    """A call of bash in the model's own form."""
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": json.dumps(given)}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    text = "".join(span.text for span in render(messages, enable_thinking=False))
    return text[text.index("<tool_call>") : text.rindex("</tool_call>") + len("</tool_call>")]
