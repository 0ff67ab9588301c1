"""Out of a pod by name, over connections that the service opens."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network

import pytest

from sandbox.config import EgressSettings, KubernetesSettings, SandboxSettings
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.types import Command, Exited, NetworkMode, Resources, Sandbox, SandboxSpec
from tests.conformance.sandbox.names import PUBLIC, Names, missing, served
from tests.integration.kubernetes.killed_service import killed_service

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs the superuser, to listen on port 80"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
LET_OUT = SandboxSpec(
    resources=Resources(memory_mib=192, processes=128, disk_mib=16),
    network=NetworkMode.PROXY,
    allow_hosts=("allowed.test",),
)
BODY = b"hello " * 20_000


@pytest.fixture
def names() -> Iterator[Names]:
    with served() as names:
        names.known["allowed.test"] = [PUBLIC]
        yield names


@pytest.fixture
async def host() -> AsyncIterator[None]:
    """A server that says the same to everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(BODY), BODY))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, PUBLIC, 80):
        yield


@pytest.fixture
async def backend(fenced: KubernetesSettings, names: Names) -> AsyncIterator[KubernetesBackend]:
    egress = EgressSettings(allow_addresses=(IPv4Network(PUBLIC),), resolver=names.address)
    pods = fenced.model_copy(update={"accept_open_network": True, "service": "worker-0"})
    backend = KubernetesBackend(SandboxSettings(kubernetes=pods, egress=egress))
    yield backend
    await backend.close()


async def _fetched(sandbox: Sandbox, count: int) -> list[int]:
    """How many bytes each of so many that fetch at once got."""
    fetch = "len(u.urlopen('http://allowed.test/').read())"
    line = f"print(*c.ThreadPoolExecutor({count}).map(lambda _: {fetch}, range({count})))"
    command = f'python3 -c "import urllib.request as u, concurrent.futures as c; {line}"'
    outcome = await sandbox.exec(Command(command, os.urandom(8).hex(), 120))
    assert isinstance(outcome, Exited), outcome
    return [int(size) for size in outcome.output.split()]


@pytest.mark.usefixtures("host")
async def test_more_at_once_than_connections_lie_ready_all_get_out(backend: KubernetesBackend) -> None:
    sandbox = await backend.acquire(LET_OUT)
    assert await _fetched(sandbox, 20) == [len(BODY)] * 20


@pytest.mark.usefixtures("host")
async def test_the_service_that_takes_over_lets_out_again(
    backend: KubernetesBackend, fenced: KubernetesSettings
) -> None:
    handle = await killed_service(fenced, LET_OUT, "sleep 60", service="worker-0")
    sandbox = await backend.attach(handle, LET_OUT)
    assert await _fetched(sandbox, 1) == [len(BODY)]
