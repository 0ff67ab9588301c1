"""An API server that is slow, busy, forgetful or away: sandboxes are made all the same, once each, and stay."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import Cluster
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.errors import NoRoom, SandboxUnavailable
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.types import Command, Resources, SandboxSpec
from tests.integration.kubernetes.fault_proxy import FaultProxy, fault_proxy

pytestmark = pytest.mark.anyio
SMALL = SandboxSpec(resources=Resources(memory_mib=64, processes=64, disk_mib=16))


@pytest.fixture(scope="module")
async def through_proxy(
    sealed: KubernetesSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[FaultProxy, KubernetesBackend]]:
    folder = tmp_path_factory.mktemp("proxy")
    assert sealed.kubeconfig is not None
    async with fault_proxy(sealed.kubeconfig, folder) as (proxy, kubeconfig):
        backend = _open(sealed, kubeconfig)
        await (await backend.acquire(SMALL)).close()
        yield proxy, backend
        await backend.close()


def _open(settings: KubernetesSettings, kubeconfig: Path, **changes: object) -> KubernetesBackend:
    given = settings.model_copy(update={"kubeconfig": kubeconfig, "accept_open_network": True, **changes})
    return KubernetesBackend(SandboxSettings(kubernetes=given))


async def _one_life(backend: KubernetesBackend) -> None:
    sandbox = await backend.acquire(SMALL)
    assert (await sandbox.exec(Command("echo alive", "a", 10))).output == b"alive\n"
    await sandbox.close()


async def test_calls_that_are_refused_for_now_are_repeated(
    through_proxy: tuple[FaultProxy, KubernetesBackend],
) -> None:
    proxy, backend = through_proxy
    proxy.refusals.extend((500, 429, 409))
    await _one_life(backend)
    assert not proxy.refusals


async def test_a_pod_whose_answer_was_lost_is_made_once(through_proxy: tuple[FaultProxy, KubernetesBackend]) -> None:
    proxy, backend = through_proxy
    before = {each.id for each in await backend.found()}
    proxy.lost_answers = 1
    sandbox = await backend.acquire(SMALL)
    assert {each.id for each in await backend.found()} - before == {sandbox.name}
    await sandbox.close()


async def test_slow_answers_make_it_slow_and_nothing_else(through_proxy: tuple[FaultProxy, KubernetesBackend]) -> None:
    proxy, backend = through_proxy
    proxy.delay_s = 1.0
    try:
        await _one_life(backend)
    finally:
        proxy.delay_s = 0.0


async def test_a_watch_that_is_cut_is_taken_up_again_and_misses_nothing(
    through_proxy: tuple[FaultProxy, KubernetesBackend],
) -> None:
    proxy, backend = through_proxy
    before = proxy.calls["WATCH"]
    making = asyncio.create_task(_one_life(backend))
    while not making.done():
        proxy.cut_watches()
        await asyncio.sleep(0.1)
    await making
    assert proxy.calls["WATCH"] > before


async def test_all_sandboxes_of_a_backend_share_one_watch(through_proxy: tuple[FaultProxy, KubernetesBackend]) -> None:
    proxy, backend = through_proxy
    before = proxy.calls.copy()
    await asyncio.gather(*(_one_life(backend) for _ in range(4)))
    made = proxy.calls - before
    assert (made["POST"], made["DELETE"]) == (4, 4)
    assert made["WATCH"] <= 1  # where the test before cut it
    assert made["GET"] <= 1  # a sweep, perhaps


async def test_when_patience_is_over_it_is_said_what_to_see_to(sealed: KubernetesSettings, tmp_path: Path) -> None:
    assert sealed.kubeconfig is not None
    async with fault_proxy(sealed.kubeconfig, tmp_path) as (proxy, kubeconfig):
        backend = _open(sealed, kubeconfig, patience_s=1.0)
        proxy.refusals.extend([503] * 1000)
        with pytest.raises(NoRoom, match=r"API server at http://127\.0\.0\.1:\d+ does not answer .*see that it runs"):
            await backend.acquire(SMALL)
        proxy.refusals.clear()
        await backend.close()


async def test_a_server_that_says_no_is_not_asked_without_end(sealed: KubernetesSettings, tmp_path: Path) -> None:
    assert sealed.kubeconfig is not None
    async with fault_proxy(sealed.kubeconfig, tmp_path) as (proxy, kubeconfig):
        backend = _open(sealed, kubeconfig)
        proxy.refusals.extend([403] * 1000)
        with pytest.raises(SandboxUnavailable, match="pods is forbidden"):
            await backend.acquire(SMALL)
        await asyncio.sleep(1.0)
        assert proxy.calls["GET"] < 10
        proxy.refusals.clear()
        await backend.close()


async def test_sandboxes_live_through_a_restart_of_the_api_server(cluster: Cluster, sealed: KubernetesSettings) -> None:
    assert sealed.kubeconfig is not None
    backend = _open(sealed, sealed.kubeconfig)
    sandbox = await backend.acquire(SMALL)
    running = asyncio.create_task(sandbox.exec(Command("sleep 2; echo lived through", "a", 30)))
    os.kill(cluster.process("kube-apiserver"), signal.SIGKILL)
    await _one_life(backend)
    assert (await running).output == b"lived through\n"
    await sandbox.close()
    await backend.close()
