"""One suite over every backend: a test here asks only for what `sandbox.types` promises."""

import asyncio
import itertools
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from deploy.cluster.cluster import Cluster
from sandbox.backends import open_backend
from sandbox.config import DockerSettings, EgressSettings, KubernetesSettings, SandboxSettings
from sandbox.types import Backend, Capability, Command, Outcome, Resources, Sandbox, SandboxSpec
from tests.conformance.sandbox import dockerd, pods
from tests.conformance.sandbox.makers import made_by
from tests.conformance.sandbox.names import PUBLIC, Names, served

_request_numbers = itertools.count()
SMALL = SandboxSpec(resources=Resources(memory_mib=192, processes=64, disk_mib=48))


def _backends() -> list[str]:
    # Only the superuser can make namespaces in both ways.
    local = ["local-root", "local-user"] if os.geteuid() == 0 else ["local-user"]
    return [*local, "local-bubblewrap", "docker", "kubernetes"]


BACKENDS = _backends()
WITH_CLAIMS = [*BACKENDS, "kubernetes-claims"]
"""Beside pods of our own, those that a controller makes. They are asked for, found and ended in another way, and else
the same: so only tests of that run on both."""


@pytest.fixture(scope="session", params=BACKENDS)
async def backend(request: pytest.FixtureRequest, egress: EgressSettings) -> AsyncIterator[Backend]:
    """Asynchronous, so that all its tests have one event loop: a watch of pods lives in it."""
    name, _, way = request.param.partition("-")
    if name == "docker":
        settings = SandboxSettings(
            docker=DockerSettings(address=request.getfixturevalue("docker_address")), egress=egress
        )
    elif name == "kubernetes":
        kept = request.getfixturevalue("claimed_pods" if way == "claims" else "fenced_pods")
        settings = SandboxSettings(kubernetes=kept, egress=egress)
    elif way == "bubblewrap":
        settings = SandboxSettings(local=made_by(way), egress=egress)
    else:
        settings = SandboxSettings(namespaces=way, egress=egress)
    backend = open_backend(name, settings)
    yield backend
    await backend.close()


@pytest.fixture(scope="session")
def fenced_pods(cluster: Cluster) -> Iterator[KubernetesSettings]:
    """Fenced, for these commands may have loopback on every backend."""
    with pods.namespace(cluster, network="fence") as settings:
        yield settings


@pytest.fixture(scope="session")
def claimed_pods(cluster: Cluster) -> Iterator[KubernetesSettings]:
    """As ``fenced_pods``, but that a controller makes them."""
    with pods.namespace(cluster, network="fence", provider="claims") as settings:
        yield settings


@pytest.fixture(scope="session")
def names() -> Iterator[Names]:
    """What the hosts are called that sandboxes may reach."""
    with served() as names:
        yield names


@pytest.fixture(scope="session")
def egress_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("egress") / "log"


@pytest.fixture(scope="session")
def egress(names: Names, egress_log: Path) -> EgressSettings:
    """One address of this machine counts as public."""
    return EgressSettings(allow_addresses=(IPv4Network(PUBLIC),), resolver=names.address, log=egress_log)


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


@pytest.fixture(scope="session")
async def acquire(backend: Backend) -> AsyncIterator[Callable[[], Awaitable[Sandbox]]]:
    """Small sandboxes, made ahead of need where that takes longer than a test does."""
    num_ahead = 3 if backend.name == "kubernetes" else 0
    ahead: deque[asyncio.Task[Sandbox]] = deque()

    async def acquire() -> Sandbox:
        while len(ahead) <= num_ahead:
            ahead.append(asyncio.create_task(backend.acquire(SMALL)))
        return await ahead.popleft()

    yield acquire
    await asyncio.gather(*ahead, return_exceptions=True)  # the backend ends them


@pytest.fixture
async def sandbox(acquire: Callable[[], Awaitable[Sandbox]]) -> AsyncIterator[Sandbox]:
    sandbox = await acquire()
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
