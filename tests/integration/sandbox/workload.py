"""A workload for executors, and the traces it leaves: run as a program, in Ray actors.

    python -m tests.integration.sandbox.workload FOLDER [DOCKER]

Starts a Ray cluster of its own below FOLDER, with a token, and prints one JSON object. With the address of a Docker
daemon, also kills an actor while a command runs in one of its containers.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from sandbox.backends import open_backend
from sandbox.config import DockerSettings, SandboxSettings
from sandbox.errors import SandboxError
from sandbox.inventory import LastingBackend
from sandbox.registry import RecordedBackend, open_registry
from sandbox.testing.simulated import Conditions, SimulatedBackend, SimulatedHosts
from sandbox.toolbox.calls import Caller, Trace
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.toolbox import Executors, Toolbox
from sandbox.types import Capability, Command, Exited, Sandbox, SandboxSpec

SETTINGS = ToolboxSettings(hedge_floor_s=0.3, long_from_s=600)
CONDITIONS = Conditions(seed=11, not_started=0.2, lost=0.02, slow_calls=0.1, slow_call_s=3.0)
RUNS = 6
CALLS = 20
LARGE = 3_000_000


@asynccontextmanager
async def simulated(name: str) -> AsyncIterator[Executor]:
    """An executor over machines of its own."""
    backend = SimulatedBackend(SimulatedHosts(CONDITIONS))
    yield Executor(backend, SETTINGS)
    await backend.close()


async def work(executors: Executors) -> list[Trace]:
    """The same calls, whoever carries them out; with what goes wrong in them."""
    traces: list[Trace] = []
    toolbox = Toolbox(
        executors,
        SETTINGS,
        name="simulated",
        capabilities=SimulatedBackend.capabilities,
        on_trace=traces.append,
    )
    for number in range(RUNS):
        async with toolbox.of(Caller(f"run-{number}", f"job-{number % 2}", "tenant")) as tools:
            sandbox = await tools.acquire(SandboxSpec())
            for call in _calls(sandbox, f"run-{number}"):
                try:
                    await call()
                except (SandboxError, OSError):
                    continue  # it is in the traces
    return traces


def _calls(sandbox: Sandbox, run: str) -> list[Callable[[], Any]]:
    calls: list[Callable[[], Any]] = [
        lambda: sandbox.upload(bytes(LARGE)),
        lambda: sandbox.download(),
        lambda: sandbox.read("/missing"),
        lambda: sandbox.write("/workspace/a", b"content"),
    ]
    lines = ["true", "exit 3", "cat /workspace/a", "sleep 9"]
    for number in range(CALLS):
        command = Command(lines[number % 4], f"{run}-{number}", 0.05 if number % 4 == 3 else 700)
        calls.append(lambda command=command: sandbox.exec(command))  # type: ignore[misc]
        calls.append(lambda: sandbox.read("/workspace/a"))
    return calls


def start_ray(folder: Path) -> None:
    """A cluster of one machine, which ends with this process, and which nobody without its token can use."""
    token = folder / "token"
    token.write_text(os.urandom(32).hex())
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",  # machines that run tests are slow
    }
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
        object_store_memory=100 * 1024 * 1024,
        _temp_dir=str(folder / "r"),
    )


def stop_ray() -> None:
    """End its processes before their folder goes."""
    import ray

    ray.shutdown()


class Docker:
    """Executors over containers of one daemon, on record in one database."""

    def __init__(self, address: str, folder: Path) -> None:
        self._settings = SandboxSettings(docker=DockerSettings(address=address, sockets=folder / "s"))
        self._database = folder / "sandboxes.db"

    @asynccontextmanager
    async def executor(self, name: str) -> AsyncIterator[Executor]:
        async with open_registry(f"sqlite:///{self._database}") as registry:
            backend = cast(LastingBackend, open_backend("docker", self._settings))
            async with RecordedBackend.open(backend, registry, owner=name) as recorded:
                yield Executor(recorded, SETTINGS, registry=registry)


async def survive(executors: Executors) -> dict[str, Any]:
    """What a command says whose executor is killed under it, and what it then takes to ask for another."""
    capabilities = frozenset({Capability.REATTACH})
    toolbox = Toolbox(executors, SETTINGS, name="docker", capabilities=capabilities)
    async with toolbox.of(Caller("run", "job", "tenant")) as tools:
        sandbox = await tools.acquire(SandboxSpec())
        line = "echo begun >> /workspace/log; sleep 4; echo ended >> /workspace/log; cat /workspace/log"
        running = asyncio.create_task(sandbox.exec(Command(line, "once", 60)))
        await asyncio.sleep(2)
        os.kill((await executors.port(executors.place("run")).health()).pid, signal.SIGKILL)
        outcome = await running
        assert isinstance(outcome, Exited), outcome
        return {"output": outcome.output.decode(), "boot": outcome.boot_id == sandbox.boot_id}


async def main(folder: Path, docker: str | None) -> None:
    from sandbox.toolbox.ray import RayExecutors

    async with RayExecutors.open(simulated, size=1) as executors:
        result: dict[str, Any] = {"traces": [trace.essence for trace in await work(executors)]}
    if docker is not None:
        async with RayExecutors.open(Docker(docker, folder).executor, size=1) as executors:
            result["survived"] = await survive(executors)
    print(json.dumps(result))


if __name__ == "__main__":
    start_ray(Path(sys.argv[1]))
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
    stop_ray()
