"""A run whose sandbox is a pod, and whose worker is killed."""

import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.store.sql import SqlStore
from agent.testing import ScriptedEndpoint
from agent.types import Status, TaskRequest
from sandbox.config import KubernetesSettings
from tests.integration.orchestrator.conftest import PATCH, users
from tests.integration.orchestrator.conftest import clock as clock
from tests.integration.orchestrator.conftest import make_request as make_request
from tests.integration.orchestrator.conftest import repository as repository
from tests.integration.orchestrator.conftest import store as store
from tests.integration.orchestrator.conftest import store_url as store_url
from tests.integration.orchestrator.processes import Processes, SlowCommand, over

pytestmark = pytest.mark.anyio


def _written(settings: KubernetesSettings, file: Path) -> str:
    """Settings as a worker reads them: those that say which pods, and where."""
    names = ("namespace", "kubeconfig", "agent_image", "host_image", "pull_policy")
    lines = [f'{name} = "{getattr(settings, name)}"' for name in names]
    file.write_text("\n".join(["[kubernetes]", *lines, "cpu_request = 0.2", "accept_open_network = true", ""]))
    return str(file)


async def test_a_command_in_a_pod_outlives_its_killed_worker_and_runs_once(
    store: SqlStore,
    store_url: str,
    sealed: KubernetesSettings,
    make_request: Callable[..., TaskRequest],
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "MIMO_SANDBOX_SETTINGS": _written(sealed, tmp_path / "sandbox.toml")}
    slow = SlowCommand(4)
    async with AsyncExitStack() as stack:
        url = stack.enter_context(ScriptedEndpoint(slow).running())
        processes = Processes(stack, store_url, tmp_path / "data", url, "--sandbox=kubernetes", "--lease-ttl=2")
        task = await users(store).submit(make_request(checks=()))
        first = await processes.start(env=environment)
        await slow.runs()

        first.send_signal(signal.SIGKILL)
        await first.wait()
        await processes.start(env=environment)
        ended = await over(store, task)

    log = await users(store).events(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH), log
    said = next(event.body["observation"]["text"] for event in log if event.type == "tool.completed")
    assert said == "waited\ndef add(a, b):\n    return a - b\n[exit code: 0]"
    assert [event.body["taken_over"] for event in log if event.type == "run.provisioned"] == [False, True]
