"""The imitation of pytest is compared with the real one, as the agent's command starts it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from evals.synthesis.bugs import edits
from evals.synthesis.tasks import Endless, RepairTask, TaskSource, load_manifest
from training.episodes import TEST_COMMAND
from training.pytest_text import pytest_output

_SAMPLES = [(kind, number) for kind in ("fixed", "bug", "two bugs", "wrong edit", "quotes") for number in range(3)]


@pytest.mark.parametrize(("kind", "number"), _SAMPLES)
def test_imitated_output_is_what_pytest_prints(kind: str, number: int, tmp_path: Path) -> None:
    task, files, imitated, code = _sample(kind, Random(f"{kind}/{number}"))
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    real = _pytest(tmp_path)

    assert _without_seconds(imitated) == _without_seconds(real.stdout), task.bugs
    assert code == real.returncode


def _sample(kind: str, random: Random) -> tuple[RepairTask, dict[str, str], str, int]:
    source = TaskSource(random, load_manifest())
    while True:
        task = source.make(2 if kind == "two bugs" else 1)
        files = _files(kind, task, random)
        if files is None:
            continue
        try:
            return task, files, *pytest_output(task, files, random)
        except Endless:
            continue


def _files(kind: str, task: RepairTask, random: Random) -> dict[str, str] | None:
    bug = task.bugs[0]
    match kind:
        case "fixed":
            return dict(task.fixed)
        case "wrong edit":
            source = task.functions[bug.function].source.replace(bug.fixed_line, bug.broken_line, 1)
            edited = random.choice(edits(source)).apply(source)
            return {**task.files, bug.path: task.files[bug.path].replace(source, edited)}
        case "quotes" if "'" not in bug.failure.case.arguments + bug.failure.case.expected:
            return None
    return dict(task.files)


def _pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    command = [sys.executable, *TEST_COMMAND.split(" ")[1:]]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _without_seconds(text: str) -> str:
    return re.sub(r" in \d+\.\d\ds", "", text)
