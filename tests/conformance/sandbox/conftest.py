"""One suite over every backend: a test here asks only for what `sandbox.types` promises."""

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import pytest

from sandbox.backends import open_backend
from sandbox.config import DockerSettings, SandboxSettings
from sandbox.types import Backend, Capability, Command, Outcome, Resources, Sandbox, SandboxSpec
from tests.conformance.sandbox import dockerd

_request_numbers = itertools.count()
SMALL = SandboxSpec(resources=Resources(memory_mib=192, processes=64, disk_mib=48))


def _backends() -> list[str]:
    # Only the superuser can make namespaces in both ways.
    local = ["local-root", "local-user"] if os.geteuid() == 0 else ["local-user"]
    return [*local, "docker"]


@pytest.fixture(scope="session", params=_backends())
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "docker":
        settings = SandboxSettings(docker=DockerSettings(address=request.getfixturevalue("docker_address")))
        backend = open_backend("docker", settings)
    else:
        name, namespaces = request.param.split("-")
        backend = open_backend(name, SandboxSettings(namespaces=namespaces))
    yield backend
    anyio.run(backend.close)


@pytest.fixture(scope="session")
def docker_address() -> Iterator[str]:
    """A Docker daemon that is there for these tests."""
    if reason := dockerd.missing():
        pytest.skip(reason)
    with dockerd.running() as address:
        yield address


@pytest.fixture
def only_with(backend: Backend) -> Callable[[Capability], None]:
    """Skip where the backend does not claim to be able to."""

    def only_with(capability: Capability) -> None:
        if capability not in backend.capabilities:
            pytest.skip(f"the backend {backend.name} has no {capability}")

    return only_with


@pytest.fixture
async def sandbox(backend: Backend) -> AsyncIterator[Sandbox]:
    sandbox = await backend.acquire(SMALL)
    yield sandbox
    await sandbox.close()


Run = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    """Run a line in ``sandbox`` under a request id of its own."""

    async def run(line: str, timeout_s: float = 30.0, **options: object) -> Outcome:
        command = Command(line=line, request_id=f"call-{next(_request_numbers)}", timeout_s=timeout_s, **options)  # type: ignore[arg-type]
        return await sandbox.exec(command)

    return run


Say = Callable[[str], Awaitable[str]]


@pytest.fixture
def say(run: Run) -> Say:
    """Run a line that must succeed; its output as text."""

    async def say(line: str) -> str:
        outcome = await run(line)
        assert getattr(outcome, "code", None) == 0, outcome
        return outcome.output.decode()

    return say
