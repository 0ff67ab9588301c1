"""Without ``--model-url`` a model server is started beside the run or the service, and ends with it."""

import json
import textwrap
from pathlib import Path

import pytest

from .conftest import CHECK, Mimo

_STAND_IN = """
    import os, pathlib, signal, sys, threading
    from agent.testing import ScriptedEndpoint
    from tests.integration.cli.conftest import REPAIR
    import uvicorn

    assert sys.argv[1:3] == ["--checkpoint", "mimo-v2-nano"] and sys.argv[3] == "--port", sys.argv
    pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
    uvicorn.run(ScriptedEndpoint(REPAIR, name="mimo-v2-nano").app, port=int(sys.argv[4]), log_level="warning")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that child processes find under the model server's name; answers by script."""
    package = tmp_path / "stand_in" / "model_server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(textwrap.dedent(_STAND_IN))
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{root}")
    return package


def test_run_starts_a_model_of_its_own_and_ends_it(mimo: Mimo, checkout: Path, stand_in: Path) -> None:
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--check", CHECK, "-o", "json")

    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["verdict"]["kind"] == "verified"
    assert "Starting the embedded model mimo-v2-nano" in ended.err
    assert not Path(f"/proc/{(stand_in / 'pid').read_text()}").exists()


def test_model_server_that_cannot_start_says_why(mimo: Mimo, checkout: Path, tmp_path: Path) -> None:
    ended = mimo("run", "x", "--repo", checkout, "--model", tmp_path / "no-such-model")

    assert ended.code == 1
    assert "no checkpoint" in ended.err
    assert "--model-url" in ended.err


def test_what_lies_in_the_current_directory_is_not_taken_for_the_model_server(
    mimo: Mimo, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_server.py").write_text("print('not me')")
    monkeypatch.chdir(tmp_path)

    ended = mimo("run", "x", "--repo", checkout, "--model", tmp_path / "no-such-model")

    assert "no checkpoint" in ended.err
