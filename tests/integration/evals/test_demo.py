"""The demo, with a model that fails once."""

import json
from pathlib import Path

import pytest

from agent.api.schemas import TaskView
from agent.testing import ScriptedEndpoint
from evals.demo import main


def test_the_demo_shows_every_task_and_keeps_what_the_api_says(
    tmp_path: Path,
    expert: tuple[ScriptedEndpoint, str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MIMO_API_KEY", raising=False)
    code = main(["--model-url", expert[1], "--model", "scripted", "--build", str(tmp_path)])
    shown = capfd.readouterr()
    assert code == 0, shown.err
    tasks = [TaskView.model_validate(task) for task in json.loads((tmp_path / "demo.json").read_text("utf-8"))]
    assert [Path(task.repository).name for task in tasks] == [f"heldout_names-00{n}" for n in range(1, 6)]
    kinds = [task.verdict.kind if task.verdict else None for task in tasks]
    assert kinds == ["verified", "no_change", "verified", "verified", "verified"]
    assert "4 of 5 repairs are proved" in shown.out
    assert "no_change" in shown.out
    assert shown.out.count("diff --git") == 4
    assert "--model-url" in shown.out
    assert "heldout_names-001  step 1  edit " in shown.err


def test_the_demo_says_why_the_service_does_not_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "no-such-checkpoint", "--build", str(tmp_path)]) == 1
    assert "no checkpoint 'no-such-checkpoint'" in capfd.readouterr().err
