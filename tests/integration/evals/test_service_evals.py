"""Evaluations that a service runs, from the command line."""

import json
import os
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import httpx
import pytest

from agent.config import ModelSettings
from agent.testing import ScriptedEndpoint
from evals.service import ServiceOptions, running_service

from .conftest import GIVEN_UP

pytestmark = pytest.mark.anyio

_PATIENCE_S = 180.0
TASKS = {"tasks": [{"repository": "/nowhere", "problem_statement": "add() subtracts"}]}


async def mimo(home: Path, *arguments: str) -> "CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIMO_")}
    command = [sys.executable, "-m", "agent.cli.app", "eval", *arguments]
    return await anyio.run_process(
        command, env={**environment, "MIMO_HOME": str(home), "NO_COLOR": "1"}, check=False, stdin=None
    )


async def _ended(server: str, eval_id: str) -> dict[str, Any]:
    """The evaluation, when it has."""
    deadline = time.monotonic() + _PATIENCE_S
    async with httpx.AsyncClient(base_url=server, trust_env=False) as http:
        while True:
            shown: dict[str, Any] = (await http.get(f"/v1/evals/{eval_id}")).json()
            if shown["ended"]:
                return shown
            assert time.monotonic() < deadline, shown
            await anyio.sleep(0.2)


async def test_prepared_suite_is_submitted_to_a_service_counted_and_graded(
    tmp_path: Path, expert: tuple[ScriptedEndpoint, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "suites"
    of = ("--suite", "nano-heldout")
    prepared = await mimo(tmp_path, "prepare", str(folder), *of, "--split", "heldout_names", "--limit", "2")
    assert prepared.returncode == 0, prepared.stderr.decode()
    monkeypatch.setenv("MIMO_EVAL_SUITES", str(folder))
    model = ModelSettings(url=expert[1], name="scripted")
    async with running_service(ServiceOptions(model, None, num_workers=1, data=tmp_path / "service")) as url:
        at = ("--server", url)
        submitted = await mimo(tmp_path, "submit", *of, *at)
        assert submitted.returncode == 0, submitted.stderr.decode()
        eval_id = submitted.stdout.decode().strip()
        shown = await _ended(url, eval_id)
        table = (await mimo(tmp_path, "show", eval_id, *at)).stdout.decode()
        listed = (await mimo(tmp_path, "list", *at)).stdout.decode()
        graded = await mimo(tmp_path, "report", eval_id, *of, *at, "--output", "json")

    report = json.loads(graded.stdout)
    assert (shown["name"], shown["suite"], shown["num_tasks"]) == ("nano-heldout", "nano-heldout", 2)
    assert shown["report"]["verdicts"] == {"verified": 1, "no_change": 1}
    assert (shown["report"]["resolved"]["resolved"], shown["report"]["resolved"]["total"]) == (1, 2)
    assert "1/2, 50.0%" in table
    assert eval_id in listed
    assert {task["id"]: task["resolved"] for task in report["tasks"]} == {"heldout_names-001": True, GIVEN_UP: False}


async def test_suite_is_not_prepared_over_another(tmp_path: Path) -> None:
    arguments = ("prepare", str(tmp_path / "suites"), "--split", "heldout_names", "--limit", "1")
    first, second = await mimo(tmp_path, *arguments), await mimo(tmp_path, *arguments)

    assert first.returncode == 0, first.stderr.decode()
    assert (second.returncode, b"choose another folder" in second.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("", (), b"give one of them"),
        ("{}", ("tasks.json", "--suite", "nano-heldout"), b"give one of them"),
        ("{}", ("tasks.json",), b"tasks"),
        ("{", ("tasks.json",), b"Invalid JSON"),
        ("", ("missing.json",), b"cannot be read"),
        (json.dumps(TASKS), ("tasks.json", "--attempts", "9"), b"attempts"),
    ],
)
async def test_mistake_is_answered_with_what_to_do(
    tmp_path: Path, content: str, arguments: tuple[str, ...], said: bytes
) -> None:
    (tmp_path / "tasks.json").write_text(content, "utf-8")
    paths = [str(tmp_path / argument) if argument.endswith(".json") else argument for argument in arguments]
    ended = await mimo(tmp_path, "submit", *paths)

    assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr


async def test_file_of_tasks_is_sent_to_a_service(tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps(TASKS), "utf-8")
    ended = await mimo(tmp_path, "submit", str(tmp_path / "tasks.json"), "--server", "http://127.0.0.1:9")

    assert (ended.returncode, b"no service answers" in ended.stderr) == (75, True)
