"""The toolbox in Ray actors does what it does in this process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.backends import open_backend
from sandbox.errors import SandboxUnavailable
from sandbox.inventory import LastingBackend
from sandbox.toolbox.toolbox import Alone
from tests.conformance.sandbox import dockerd
from tests.integration.sandbox.ray_worker import LARGE, LEASE_S, NUM_HELD, settings_of
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


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, Any]:
    """What the worker's program says, and how many sandboxes there are: while it works, and after it was killed."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "tests.integration.sandbox.ray_worker", folder]
        log = Path(folder, "worker.log")
        with (
            log.open("w") as errors,
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text("utf-8")[-4000:]
            told: dict[str, Any] = json.loads(line)
            return told | asyncio.run(_killed(process, told["cluster"], Path(folder)))


async def _killed(process: subprocess.Popen[str], cluster: int, folder: Path) -> dict[str, Any]:
    backend = open_backend("local", settings_of(folder))
    assert isinstance(backend, LastingBackend)
    num_held = len(await backend.found())
    process.kill()
    os.killpg(cluster, signal.SIGKILL)
    deadline = time.monotonic() + LEASE_S + 60  # on a slow machine
    while (left := len(await backend.found())) and time.monotonic() < deadline:  # noqa: ASYNC110 (nobody tells us)
        await asyncio.sleep(0.2)
    await backend.close()
    return {"held": num_held, "left": left}


@pytest.mark.timeout(900)  # two clusters are started
def test_a_worker_works_in_a_cluster_elsewhere_and_on_when_another_has_taken_its_place(
    elsewhere: dict[str, Any],
) -> None:
    assert elsewhere["before"] == elsewhere["after"] == {"output": f"from a sandbox\n{LARGE}\n", "read": LARGE}


@pytest.mark.timeout(900)
def test_no_sandbox_outlives_a_worker_and_its_cluster_that_are_killed(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["held"] >= NUM_HELD
    assert elsewhere["left"] == 0


def test_a_worker_whose_cluster_is_away_says_where_it_asked_and_what_to_do() -> None:
    said = at_a_cluster("--alone", RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S="1")
    assert "no Ray cluster answers at ray://127.0.0.1:" in said
    assert "ray.address" in said


def test_a_cluster_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.toolbox.ray import require_token

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(SandboxUnavailable, match="RAY_AUTH_MODE"):
        require_token()
    assert "RAY_AUTH_MODE" not in os.environ


def at_a_cluster(*arguments: str, **variables: str) -> str:
    """The last line that the program of a worker prints."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        process = subprocess.run(
            [sys.executable, "-m", "tests.integration.sandbox.ray_worker", folder, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout.splitlines()[-1]
