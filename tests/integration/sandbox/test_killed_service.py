"""A service that is killed leaves no sandbox behind: after one lease, none is left."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.backends import open_backend
from sandbox.config import DockerSettings, SandboxSettings
from sandbox.inventory import LastingBackend
from sandbox.registry import RecordedBackend, open_registry
from sandbox.toolbox.calls import Call, Caller
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.types import Capability, Command, Exited, SandboxSpec
from tests.conformance.sandbox import dockerd
from tests.conformance.sandbox.makers import made_by

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
LEASE_S = 6.0
SERVICE = """
import asyncio, sys
from contextlib import AsyncExitStack
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.registry import RecordedBackend, open_registry
from sandbox.toolbox.calls import Call, Caller
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.types import Command, SandboxSpec

CALLER = Caller("run", "job", "tenant")

async def main(name, settings, database, count, line):
    backend = open_backend(name, SandboxSettings.model_validate_json(settings))
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(database))
        backend = await stack.enter_async_context(RecordedBackend.open(backend, registry, owner="killed"))
        executor = Executor(backend, ToolboxSettings(), registry=registry)
        opened = await asyncio.gather(*(executor.open(CALLER, SandboxSpec()) for _ in range(int(count))))
        ids = [reply.value.id for reply in opened]
        call = Call("exec", "once", (Command(line, "once", 60),))
        running = [asyncio.ensure_future(executor.call(CALLER, id_, call)) for id_ in ids]
        await asyncio.sleep(1)
        print(*ids, flush=True)
        await asyncio.gather(*running)

asyncio.run(main(*sys.argv[1:]))
"""


def _serve(name: str, settings: SandboxSettings, database: str, count: int, line: str) -> subprocess.Popen[str]:
    arguments = [name, settings.model_dump_json(), database, str(count), line]
    return subprocess.Popen([sys.executable, "-c", SERVICE, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=["local", "local-bubblewrap", "docker"])
def chosen(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kind(chosen: str) -> str:
    return chosen.partition("-")[0]


@pytest.fixture
def settings(chosen: str, kind: str, docker_address: str | None, tmp_path: Path) -> SandboxSettings:
    if kind == "docker" and docker_address is None:
        pytest.skip(dockerd.missing())
    sockets = tmp_path / "s"
    docker = DockerSettings(address=docker_address, lease_s=LEASE_S, sockets=sockets)
    maker = "bubblewrap" if chosen == "local-bubblewrap" else "own"
    return SandboxSettings(docker=docker, local=made_by(maker, lease_s=LEASE_S, sockets=sockets))


@pytest.fixture
async def backend(kind: str, settings: SandboxSettings) -> AsyncIterator[LastingBackend]:
    backend = open_backend(kind, settings)
    assert isinstance(backend, LastingBackend)
    yield backend
    await backend.close()


async def test_no_sandbox_outlives_its_service_by_more_than_a_lease(
    kind: str, settings: SandboxSettings, backend: LastingBackend, tmp_path: Path
) -> None:
    with _serve(kind, settings, f"sqlite:///{tmp_path}/registry.db", 5, "sleep 60") as service:
        assert service.stdout is not None
        ids = set(service.stdout.readline().split())
        assert {each.id for each in await backend.found()} == ids
        assert len(ids) == 5
        service.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    # The daemon takes a moment to remove what has ended; on a busy machine, a long one.
    async with asyncio.timeout(LEASE_S + 30):
        while await backend.found():  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.2)
    assert time.monotonic() - killed > 1, "they ended with their lease, not with the process"


async def test_a_command_goes_on_while_its_executor_is_killed_and_runs_once(
    kind: str, settings: SandboxSettings, backend: LastingBackend, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/registry.db"
    line = "echo begun >> /workspace/log; sleep 4; echo ended >> /workspace/log; cat /workspace/log"
    with _serve(kind, settings, database, 1, line) as service:
        assert service.stdout is not None
        [id_] = service.stdout.readline().split()
        service.send_signal(signal.SIGKILL)
    assert Capability.REATTACH in backend.capabilities
    async with (
        open_registry(database) as registry,
        RecordedBackend.open(backend, registry, owner="next") as recorded,
    ):
        executor = Executor(recorded, ToolboxSettings(), registry=registry)
        caller = Caller("run", "job", "tenant")
        reply = await executor.call(caller, id_, Call("exec", "once", (Command(line, "once", 60),)))
        assert isinstance(reply.value, Exited), reply
        assert reply.value.output == b"begun\nended\n"
        await executor.close_sandbox(caller, id_)
        assert (list(await recorded.found()), await registry.all()) == ([], [])


async def test_an_operator_ends_what_a_run_has_and_waits_until_it_is_gone(
    kind: str, settings: SandboxSettings, backend: LastingBackend, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/registry.db"
    await asyncio.to_thread((tmp_path / "settings.json").write_text, settings.model_dump_json())
    command = [sys.executable, "-m", "sandbox.reaper", "--backend", kind, "--settings", f"{tmp_path}/settings.json"]
    async with open_registry(database) as registry, RecordedBackend.open(backend, registry, owner="o") as recorded:
        mine, other = await asyncio.gather(recorded.acquire(SandboxSpec()), recorded.acquire(SandboxSpec()))
        await registry.assign(mine.handle.id, "run-1", "tenant")

        async def reap(*arguments: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                *command, *arguments, "--registry", database, cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            return process.returncode or 0, output.decode()

        code, output = await reap("--run", "run-1", "--dry-run")
        assert (code, mine.handle.id in output, other.handle.id in output) == (0, True, False)
        assert len(await recorded.found()) == 2
        code, output = await reap("--run", "run-1")
        assert (code, output.splitlines()[-1]) == (0, "1 ended")
        assert [each.id for each in await recorded.found()] == [other.handle.id]
        assert (await reap("--older-than", "1h"))[1] == "0 ended\n"
        assert (await reap("--older-than", "0s"))[1].endswith("1 ended\n")
        assert list(await recorded.found()) == []
