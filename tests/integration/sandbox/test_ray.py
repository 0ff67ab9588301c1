"""The toolbox in Ray actors does what it does in this process."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import SandboxUnavailable
from sandbox.toolbox.toolbox import Alone
from tests.integration.sandbox.workload import simulated, work

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a name short enough for Ray's sockets in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        yield Path(name)


async def test_calls_leave_the_same_traces_in_actors_as_in_this_process(folder: Path) -> None:
    async with simulated("here") as executor:
        here = [list(trace.essence) for trace in await work(Alone(executor))]
    process = subprocess.run(  # noqa: ASYNC221  # nothing else runs meanwhile
        [sys.executable, "-m", "tests.integration.sandbox.workload", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    there = json.loads(process.stdout.splitlines()[-1])
    assert here == there
    ended = {trace[-1] for trace in here}
    assert {"Exited 0", "Exited 3", "TimedOut", "SandboxLost", "FileNotFoundError", "ok"} <= ended
    assert any(trace[4] != 1 for trace in here if trace[1] == "exec"), "something was asked again"
    assert any(trace[5] for trace in here), "a read was hedged"


def test_a_cluster_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.toolbox.ray import require_token

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(SandboxUnavailable, match="RAY_AUTH_MODE"):
        require_token()
    assert "RAY_AUTH_MODE" not in os.environ
