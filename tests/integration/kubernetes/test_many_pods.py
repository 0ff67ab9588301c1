"""A thousand sandboxes at once, on a real control plane whose nodes only seem to be there."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import Cluster
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.errors import NoRoom
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.reaper.reaper import Reaper
from sandbox.registry import open_registry
from sandbox.types import SandboxSpec
from tests.integration.kubernetes import fake_pods

pytestmark = pytest.mark.anyio
MANY = 1000
AT_ONCE = 128
LEASE_S = 3.0
SERVICE = """
import asyncio, sys
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.registry import RecordedBackend, open_registry
from sandbox.types import Command, Exited, SandboxSpec

async def main(settings, url, count, at_once, lease_s):
    backend = KubernetesBackend(SandboxSettings(kubernetes=KubernetesSettings.model_validate_json(settings)))
    turn = asyncio.Semaphore(at_once)

    async def make(recorded):
        async with turn:
            sandbox = await recorded.acquire(SandboxSpec())
            assert isinstance(await sandbox.exec(Command("true", "first", 60.0)), Exited)

    async with open_registry(url) as registry:
        async with RecordedBackend.open(backend, registry, owner="service", lease_s=lease_s) as recorded:
            await asyncio.gather(*(make(recorded) for _ in range(count)))
            print("made", flush=True)
            await asyncio.Event().wait()

settings, url, count, at_once, lease_s = sys.argv[1:]
asyncio.run(main(settings, url, int(count), int(at_once), float(lease_s)))
"""


@pytest.fixture
def many(cluster: Cluster) -> Iterator[KubernetesSettings]:
    """A namespace that has room for a thousand."""
    with fake_pods.namespace(cluster, MANY) as settings:
        yield settings


@pytest.fixture
async def backend(many: KubernetesSettings) -> AsyncIterator[KubernetesBackend]:
    backend = KubernetesBackend(SandboxSettings(kubernetes=many))
    yield backend
    await backend.close()


async def _kill_a_service_that_made_many(settings: KubernetesSettings, url: str) -> None:
    arguments = (settings.model_dump_json(), url, str(MANY), str(AT_ONCE), str(LEASE_S))
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, *arguments, stdout=subprocess.PIPE)
    assert service.stdout is not None
    said = await service.stdout.readline()
    service.send_signal(signal.SIGKILL)
    await service.communicate()
    assert said == b"made\n"


async def test_all_of_a_thousand_sandboxes_of_a_killed_service_are_ended(
    many: KubernetesSettings, backend: KubernetesBackend, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/sandboxes.db"
    await _kill_a_service_that_made_many(many, url)
    with pytest.raises(NoRoom):  # they are all there, and count: in the quota, and on the nodes
        await backend.acquire(SandboxSpec())
    async with open_registry(url) as registry:
        reaper = Reaper(backend, registry, grace_s=LEASE_S)
        swept = await reaper.sweep()
        assert swept.num_found >= MANY  # the one that found no room may be there a moment longer
        while swept.num_found:
            await asyncio.sleep(1)
            swept = await reaper.sweep()
            assert set(swept.condemned.values()) <= {"its owner is gone", "it is on nobody's record"}
            assert not swept.refused
        while await registry.all():  # each is forgotten only after it was seen to be gone
            await reaper.sweep()


async def test_hundreds_of_sandboxes_that_are_closed_at_once_are_gone_when_the_backend_is_closed(
    many: KubernetesSettings, backend: KubernetesBackend
) -> None:
    closing = KubernetesBackend(SandboxSettings(kubernetes=many))
    sandboxes = await asyncio.gather(*(closing.acquire(SandboxSpec()) for _ in range(MANY // 4)))
    assert {each.id for each in await backend.found()} == {sandbox.name for sandbox in sandboxes}
    await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))
    await closing.close()
    assert not await backend.found()
