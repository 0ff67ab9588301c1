"""How long does ``mimo`` take until it says something?

    python -m benchmarks.startup

Wall time of whole processes, the best of several rounds taken in turn, beside a Python that does nothing: read the
difference. The conversation is timed until its prompt stands, on a pseudo-terminal, in a folder of 100,000 files.
Writes ``build/bench/startup.json``.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.integration.chat.terminal import Terminal

_REPORT = Path("build/bench/startup.json")
_ROUNDS = 5
_FILES = 100_000
_NOWHERE = "http://127.0.0.1:9/v1"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root, home = Path(scratch, "many"), Path(scratch, "home")
        _fill(root)
        cases: dict[str, Callable[[], None]] = {
            "python -c pass": lambda: _run("-c", "pass"),
            "mimo --version": lambda: _run("-m", "agent.cli.app", "--version"),
            "mimo --help": lambda: _run("-m", "agent.cli.app", "--help"),
            "mimo, to its prompt": lambda: _talk(root, home),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(_ROUNDS):
            for name, case in cases.items():
                begun = time.perf_counter()
                case()
                seconds[name].append(time.perf_counter() - begun)
    best = {name: min(taken) for name, taken in seconds.items()}
    _report(best)


def _fill(root: Path) -> None:
    for folder in range(_FILES // 1000):
        path = root / f"folder{folder}"
        path.mkdir(parents=True)
        for number in range(1000):
            (path / f"file{number}").touch()


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def _talk(root: Path, home: Path) -> None:
    with Terminal("--repo", root, "--model-url", _NOWHERE, home=home) as terminal:
        terminal.see("/help")


def _report(best: dict[str, float]) -> None:
    table = Table("", "ms", title=f"Start, best of {_ROUNDS}")
    for name, seconds in best.items():
        table.add_row(name, f"{1000 * seconds:.0f}")
    Console().print(table)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(json.dumps(best, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
