"""The toolbox in Ray actors does what it does in this process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SandboxUnavailable
from sandbox.toolbox.toolbox import Alone
from tests.conformance.sandbox import dockerd
from tests.integration.sandbox.workload import simulated, work

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def in_actors(docker_address: str | None) -> dict[str, Any]:
    """What the workload's program says. One for all tests: a Ray cluster takes long to start."""
    # A name short enough for Ray's sockets in it.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        process = subprocess.run(
            [sys.executable, "-m", "tests.integration.sandbox.workload", folder, *filter(None, [docker_address])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert process.returncode == 0, process.stderr[-4000:]
    said: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return said


async def test_calls_leave_the_same_traces_in_actors_as_in_this_process(in_actors: dict[str, Any]) -> None:
    async with simulated("here") as executor:
        here = [list(trace.essence) for trace in await work(Alone(executor))]
    assert here == in_actors["traces"]
    ended = {trace[-1] for trace in here}
    assert {"Exited 0", "Exited 3", "TimedOut", "SandboxLost", "FileNotFoundError", "ok"} <= ended
    assert any(trace[4] != 1 for trace in here if trace[1] == "exec"), "something was asked again"
    assert any(trace[5] for trace in here), "a read was hedged"


def test_a_command_whose_actor_is_killed_goes_on_and_runs_once(in_actors: dict[str, Any]) -> None:
    if "survived" not in in_actors:
        pytest.skip(dockerd.missing())
    assert in_actors["survived"] == {"output": "begun\nended\n", "boot": True}


def test_a_cluster_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.toolbox.ray import require_token

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(SandboxUnavailable, match="RAY_AUTH_MODE"):
        require_token()
    assert "RAY_AUTH_MODE" not in os.environ
