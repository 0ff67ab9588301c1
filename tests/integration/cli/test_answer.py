"""``mimo run --output-schema``: an answer that programs can read, or a failure that says why."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ModelError
from agent.testing import Script, ScriptedEndpoint
from agent.types import AssistantMessage, Message

from .conftest import GIVE_UP, REPAIR, Ended, Mimo

Run = Callable[..., tuple[Ended, list[Any]]]

SCHEMA = {
    "type": "object",
    "properties": {"severity": {"enum": ["low", "high"]}},
    "required": ["severity"],
    "additionalProperties": False,
}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def asked_for_json(messages: Sequence[Message]) -> bool:
    return "JSON of this schema" in messages[0]["content"]


def with_answers(work: Script, *answers: str) -> Script:
    left = list(answers)

    def script(messages: Sequence[Message]) -> AssistantMessage:
        if asked_for_json(messages):
            return AssistantMessage(content=left.pop(0), finish_reason="stop")
        return work(messages)

    return script


@pytest.fixture
def run(mimo: Mimo, checkout: Path, schema: Path) -> Run:
    def execute(script: Script, *more: object) -> tuple[Ended, list[Any]]:
        endpoint = ScriptedEndpoint(script)
        with endpoint.running() as url:
            ended = mimo(
                "run", "how bad is it?", "--repo", checkout, "--model-url", url, "--output-schema", schema, *more
            )
        return ended, endpoint.requests

    return execute


def test_the_answer_is_json_of_the_schema_and_the_model_is_held_to_it(run: Run) -> None:
    ended, requests = run(with_answers(REPAIR, '{"severity": "high"}'))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == {"severity": "high"}
    form = requests[-1]["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)
    assert "a + b" in requests[-1]["messages"][0]["content"]
    assert "add() adds" in requests[-1]["messages"][0]["content"]


def test_a_question_needs_no_patch_and_a_wrong_answer_is_given_back_once_more(run: Run) -> None:
    ended, requests = run(with_answers(GIVE_UP, '{"severity": "awful"}', '{"severity": "low"}'))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == {"severity": "low"}
    _, before, last = requests[-1]["messages"]
    assert before == {"role": "assistant", "content": '{"severity": "awful"}', "reasoning_content": ""}
    assert "'awful' is not one of" in last["content"]


def test_an_answer_that_never_fits_is_a_failure_that_says_why(run: Run) -> None:
    ended, _ = run(with_answers(REPAIR, "well", "it", "depends"))
    assert ended.code == 1
    assert ended.out == ""
    assert "the answer is not of the schema" in ended.err


def test_an_endpoint_that_knows_no_schemas_is_asked_without_and_checked_all_the_same(
    run: Run,
) -> None:
    refused: list[bool] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        if asked_for_json(messages) and not refused:
            refused.append(True)
            raise ModelError("response_format is not supported", retryable=False)
        return with_answers(REPAIR, '{"severity": "low"}')(messages)

    ended, requests = run(script)
    assert ended.code == 0, ended.err
    assert "response_format" not in requests[-1]


def test_a_file_that_is_no_schema_is_refused_before_anything_begins(mimo: Mimo, checkout: Path, schema: Path) -> None:
    schema.write_text('{"type": "objekt"}')
    ended = mimo("run", "x", "--repo", checkout, "--output-schema", schema)
    assert ended.code == 2
    assert "schema.json" in ended.err
    ended = mimo("run", "x", "--repo", checkout, "--output-schema", schema, "--output", "json")
    assert ended.code == 2
