"""A worker on a cluster whose network plugin minds no policies, which is what the tests' own has."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.cli.children import free_port
from agent.testing import ScriptedEndpoint, in_order
from sandbox.config import KubernetesSettings
from tests.integration.kubernetes.conftest import MakeNamespace
from tests.integration.orchestrator.processes import Processes

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

REACHED = "lets tcp:"
NAMES = ("namespace", "kubeconfig", "agent_image", "host_image", "pull_policy", "network")


async def test_a_worker_whose_sandboxes_are_open_is_not_ready_takes_no_run_and_says_why(
    make_namespace: MakeNamespace, tmp_path: Path
) -> None:
    settings = make_namespace(network="policy")
    environment = _environment(settings, tmp_path)
    log = tmp_path / "worker.log"
    async with AsyncExitStack() as stack:
        url = stack.enter_context(ScriptedEndpoint(in_order()).running())
        processes = Processes(stack, f"sqlite:///{tmp_path}/service.db", tmp_path / "data", url, "--sandbox=kubernetes")
        port = free_port()
        errors = stack.enter_context(log.open("wb"))
        await processes.start(f"--monitor=127.0.0.1:{port}", env=environment, stderr=errors)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            found = await _readiness(http, REACHED)
            series = (await http.get("/metrics")).text
    assert found["store"] == "ok"
    assert "sandbox.kubernetes.accept_open_network serves all the same" in found["sandboxes"]
    assert "mimo_worker_sandboxes_held 0.0" in series
    assert REACHED in next(line for line in log.read_text().splitlines() if "action=try_sandboxes" in line)


async def test_a_worker_whose_sandboxes_are_held_gets_ready(sealed: KubernetesSettings, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(ScriptedEndpoint(in_order()).running())
        processes = Processes(stack, f"sqlite:///{tmp_path}/service.db", tmp_path / "data", url, "--sandbox=kubernetes")
        port = free_port()
        await processes.start(f"--monitor=127.0.0.1:{port}", env=_environment(sealed, tmp_path))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            assert await _readiness(http, "ok") == {"store": "ok", "model": "ok", "sandboxes": "ok"}


def test_doctor_names_what_a_sandbox_reaches(make_namespace: MakeNamespace, tmp_path: Path) -> None:
    environment = {**_environment(make_namespace(network="policy"), tmp_path), "MIMO_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from agent.cli.app import main; main()", "doctor", "--sandbox=kubernetes"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    [line] = [line for line in ended.stdout.splitlines() if "sandbox (kubernetes)" in line]
    assert line.startswith("✗")
    assert REACHED in line
    assert ended.returncode != 0


def _environment(settings: KubernetesSettings, folder: Path) -> Mapping[str, str]:
    """Of a worker that reads these settings."""
    lines = [f'{name} = "{getattr(settings, name)}"' for name in NAMES]
    outside = ", ".join(f'"{each}"' for each in settings.outside)
    file = folder / "sandbox.toml"
    file.write_text("\n".join(["[kubernetes]", *lines, f"outside = [{outside}]", "cpu_request = 0.2", ""]))
    return {**os.environ, "MIMO_SANDBOX_SETTINGS": str(file)}


async def _readiness(http: httpx.AsyncClient, wanted: str) -> Mapping[str, Any]:
    """What /readyz says as soon as it says that of sandboxes."""
    async with asyncio.timeout(400):
        while True:
            with suppress(httpx.TransportError):
                checks: Mapping[str, Any] = (await http.get("/readyz")).json()["checks"]
                if wanted in checks["sandboxes"]:
                    return checks
            await asyncio.sleep(0.2)
