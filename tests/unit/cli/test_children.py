"""Processes kept alive, and ended with all they started."""

import asyncio
import sys
from pathlib import Path

import anyio
import pytest

from agent.cli.children import Child, Command, keep_alive

pytestmark = pytest.mark.anyio

_FOREVER = "import time; time.sleep(600)"


def _command(tmp_path: Path, code: str) -> Command:
    return Command("child", (sys.executable, "-S", "-c", code), tmp_path / "logs" / "child.log")


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_child_that_ends_is_started_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code = f"open({str(runs)!r}, 'a').write('x'); raise SystemExit(3)"
    keeping = asyncio.ensure_future(keep_alive(_command(tmp_path, code), backoff_s=0.01))
    while not runs.exists() or len(runs.read_text()) < 3:  # noqa: ASYNC110 - the child cannot tell us
        await anyio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_child_is_ended_with_what_it_started(tmp_path: Path) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {_FOREVER!r}]).pid, flush=True);"
    child = await Child.start(_command(tmp_path, code + _FOREVER))
    while not child.last_words():  # noqa: ASYNC110 - the child cannot tell us
        await anyio.sleep(0.01)
    grandchild = Path(f"/proc/{child.last_words()}/stat")
    await child.end()
    await child.end()

    assert child.ended == -15
    while _runs(grandchild):  # noqa: ASYNC110 - it was killed; the kernel takes its time
        await anyio.sleep(0.01)


async def test_child_that_ignores_the_polite_end_is_ended_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.children._END_S", 0.1)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True);"
    child = await Child.start(_command(tmp_path, code + _FOREVER))
    while not child.last_words():  # noqa: ASYNC110 - the child cannot tell us
        await anyio.sleep(0.01)
    await child.end()

    assert child.ended == -9
