"""``mimo eval`` as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.testing import ScriptedEndpoint

from .conftest import GIVEN_UP


def mimo(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIMO_")}
    return subprocess.run(
        [sys.executable, "-m", "agent.cli.app", "eval", *arguments],
        env={**environment, "MIMO_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_suite_is_run_through_a_service_graded_and_counted(
    tmp_path: Path, expert: tuple[ScriptedEndpoint, str]
) -> None:
    endpoint, url = expert
    ended = mimo(
        tmp_path,
        *("run", "--suite", "nano-heldout", "--split", "heldout_names", "--limit", "2", "--concurrency", "2"),
        *("--model-url", url, "--model", "scripted", "--output", "json"),
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert (report["suite"], report["model"]) == ("nano-heldout", "scripted")
    assert (report["total"], report["resolved"], report["rate"]) == (2, 1, 0.5)
    assert report["interval"][0] < 0.5 < report["interval"][1]
    split = report["splits"]["heldout_names"]
    assert split["verdicts"] == {"verified": 1, "no_change": 1}
    assert split["stop_reasons"] == {"finished": 2}
    assert {task["id"]: task["resolved"] for task in report["tasks"]} == {"heldout_names-001": True, GIVEN_UP: False}
    mining = report["mining"]
    assert (mining["scanned"], mining["mined"], mining["resolved"], mining["places"]) == (2, 1, 0, {"history": 1})
    assert "2/2, 1 resolved" in ended.stderr
    kept = next((tmp_path / "evals").iterdir())
    assert json.loads((kept / "report.json").read_text("utf-8")) == report
    assert len((kept / "results.jsonl").read_text("utf-8").splitlines()) == 2
    assert all(request["temperature"] == 0 for request in endpoint.requests)
    assert "_hidden" not in json.dumps(endpoint.requests)


def test_the_baseline_is_printed_by_split(tmp_path: Path) -> None:
    ended = mimo(tmp_path, "baseline", "--limit", "2", "--output", "json")
    splits = json.loads(ended.stdout)["splits"]
    assert list(splits) == ["heldout_names", "heldout_families", "heldout_kinds"]
    assert all(split["enumeration"]["total"] == 2 for split in splits.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--suite", "other"), "use one of nano-heldout"),
        (("--split", "other"), "use one of heldout_names"),
        (("--server", "http://127.0.0.1:9", "--model-url", "http://127.0.0.1:9/v1"), "give one of them"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = mimo(tmp_path, "run", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_a_service_that_does_not_answer_is_named(tmp_path: Path) -> None:
    ended = mimo(tmp_path, "run", "--limit", "1", "--split", "heldout_names", "--server", "http://127.0.0.1:9")
    assert ended.returncode == 75
    assert "no service answers" in ended.stderr
