"""A checkout with a bug, a model that repairs it by script, and ``mimo`` as a user calls it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli.app import main
from agent.testing import Script, ScriptedEndpoint, call, turns

REPAIR = turns(
    call("bash", command="cat calc.py", reasoning="Let me look."),
    call("str_replace", path="calc.py", old_str="a - b", new_str="a + b"),
    call("finish", summary="add() adds"),
)
GIVE_UP = turns(call("finish"), call("finish"))
CHECK = "grep -q 'a + b' calc.py"


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Mimo = Callable[..., Ended]


@pytest.fixture
def mimo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Mimo:
    """The program, called in this process."""
    monkeypatch.setenv("MIMO_HOME", str(tmp_path / "home"))
    for name in ("MIMO_MODEL_URL", "MIMO_MODEL_NAME", "MIMO_MODEL_API_KEY", "MIMO_SERVER_URL", "MIMO_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def execute(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mimo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, captured.out, captured.err)

    return execute


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "calculator"
    root.mkdir()
    (root / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    commit(root, initial=True)
    return root


def commit(root: Path, *, initial: bool = False) -> None:
    if initial:
        git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-q", "--allow-empty", "-m", "calculator")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repairing() -> Iterator[str]:
    """Address of an endpoint that repairs the checkout."""
    with ScriptedEndpoint(REPAIR).running() as url:
        yield url


@contextmanager
def answering(script: Script) -> Iterator[str]:
    with ScriptedEndpoint(script).running() as url:
        yield url


def start(*arguments: object, home: Path, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """The program in a process of its own, as from a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "agent.cli.app", *map(str, arguments)],
        env={**os.environ, "MIMO_HOME": str(home)},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
