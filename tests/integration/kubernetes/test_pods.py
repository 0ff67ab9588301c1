"""What only pods have: a cluster that says no, that loses them, and that a service may not outlive."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.cluster.cluster import Cluster
from deploy.images.build import PAUSE
from sandbox.backends import open_backend
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.errors import (
    ImageMismatch,
    LifetimeOver,
    MachineLost,
    NoRoom,
    SandboxEvicted,
    SandboxLost,
    SandboxUnavailable,
    UnknownImage,
)
from sandbox.inventory import LastingBackend
from sandbox.kubernetes import manifest
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.kubernetes.fences import Bounds
from sandbox.kubernetes.sandbox import KubernetesSandbox
from sandbox.types import Command, Exited, NetworkMode, Outcome, Resources, SandboxSpec
from tests.integration.kubernetes.conftest import MakeNamespace
from tests.integration.kubernetes.killed_service import killed_service

pytestmark = pytest.mark.anyio
SMALL = SandboxSpec(resources=Resources(memory_mib=64, processes=64, disk_mib=16))


Open = Callable[..., KubernetesBackend]


@pytest.fixture(scope="module")
async def open_pods() -> AsyncIterator[Open]:
    """A backend with these settings; without the trial of the network, which has tests of its own."""
    opened: list[KubernetesBackend] = []

    def open_pods(settings: KubernetesSettings, *, trial: bool = False, **changes: object) -> KubernetesBackend:
        changed = settings.model_copy(update={"accept_open_network": not trial, **changes})
        backend = open_backend("kubernetes", SandboxSettings(kubernetes=changed))
        assert isinstance(backend, KubernetesBackend)
        assert isinstance(backend, LastingBackend)
        opened.append(backend)
        return backend

    yield open_pods
    await asyncio.gather(*(backend.close() for backend in opened))


@pytest.fixture(scope="module")
def backend(sealed: KubernetesSettings, open_pods: Open) -> KubernetesBackend:
    return open_pods(sealed)


@pytest.fixture
async def sandbox(backend: KubernetesBackend) -> AsyncIterator[KubernetesSandbox]:
    sandbox = await backend.acquire(SMALL)
    yield sandbox
    await sandbox.close()


async def _say(sandbox: KubernetesSandbox, line: str) -> str:
    outcome = await sandbox.exec(Command(line, f"{time.monotonic_ns()}", 20))
    assert isinstance(outcome, Exited), outcome
    return outcome.output.decode()


Pods = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def pods(cluster: Cluster, sealed: KubernetesSettings) -> Pods:
    """The pods of the namespace, as the API server gives them."""

    def pods() -> list[dict[str, Any]]:
        listed = cluster.kubectl("get", "pods", f"--namespace={sealed.namespace}", "--output=json")
        found: list[dict[str, Any]] = json.loads(listed)["items"]
        return found

    return pods


# --- what holds it -------------------------------------------------------------------------------------------------


async def test_by_default_commands_open_no_network_socket_at_all(sandbox: KubernetesSandbox) -> None:
    said = await _say(sandbox, "python -c 'import socket; socket.socket()' 2>&1 | tail -1")
    assert "Address family not supported" in said
    assert "Address family not supported" in await _say(
        sandbox, "python -c 'import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)' 2>&1 | tail -1"
    )


async def test_a_command_sees_nothing_of_the_cluster(sandbox: KubernetesSandbox) -> None:
    assert await _say(sandbox, "env | grep -c KUBERNETES; ls -d /var/run/secrets /run/secrets 2> /dev/null") == "0\n"
    assert await _say(sandbox, "cat /etc/resolv.conf; uname -n") == "nameserver 127.0.0.1\nsandbox\n"


async def test_no_file_of_the_node_can_be_written(sandbox: KubernetesSandbox) -> None:
    line = "for f in $(cut -d' ' -f2 /proc/self/mounts); do [ -w $f ] && stat -f -c '%T %n' $f; done"
    kinds = {mount.split()[1]: mount.split()[0] for mount in (await _say(sandbox, line)).splitlines()}
    on_disk = {place: kind for place, kind in kinds.items() if kind not in ("tmpfs", "proc", "devpts", "mqueue")}
    assert on_disk == {}, kinds
    assert await _say(sandbox, "chmod 755 /sandboxd/closed 2>&1; cat /sandboxd/closed/log 2>&1") == (
        "chmod: changing permissions of '/sandboxd/closed': Read-only file system\n"
        "cat: /sandboxd/closed/log: Permission denied\n"
    )


async def test_an_image_brings_its_variables_and_a_command_its_own(sandbox: KubernetesSandbox) -> None:
    assert await _say(sandbox, "echo $PATH $HOME") == "/usr/local/bin:/usr/bin:/bin /home/sandbox\n"
    outcome = await sandbox.exec(Command("echo $PATH", "own", 10, env={"PATH": "/usr/bin"}))
    assert outcome.output == b"/usr/bin\n"


async def test_what_was_asked_for_is_what_the_pod_has(sandbox: KubernetesSandbox, pods: Pods) -> None:
    health = await sandbox.health()
    assert (health.first_of_all, health.memory, health.refused) == (True, True, 0)
    (labels,) = [pod["metadata"]["labels"] for pod in pods() if pod["metadata"]["name"] == sandbox.name]
    assert set(labels) == {manifest.LABEL, manifest.SERVICE_LABEL, manifest.POOL_LABEL}
    assert float(labels[manifest.LABEL]) == pytest.approx(time.time() + SMALL.lifetime_s, abs=120)
    assert await _say(sandbox, "df -B1 --output=size /workspace | tail -1") == f" {16 * 2**20}\n"


async def test_pods_that_can_stand_for_each_other_have_one_key() -> None:
    settings = KubernetesSettings(host_image="task:1")
    keys = {
        manifest.pool_key(spec, other)
        for spec, other in (
            (SMALL, settings),
            (SandboxSpec(), settings),
            (SMALL, settings.model_copy(update={"network": "fence"})),
            (SMALL, settings.model_copy(update={"profile": "root"})),
            (SMALL, settings.model_copy(update={"runtime_class": "gvisor"})),
            (SandboxSpec(image="other:1", resources=SMALL.resources), settings),
            (SMALL.model_copy(update={"network": NetworkMode.PROXY, "allow_hosts": ("a.test",)}), settings),
        )
    }
    assert len(keys) == 7
    assert manifest.pool_key(SMALL.model_copy(update={"lifetime_s": 1.0}), settings) in keys


async def test_a_way_out_by_name_is_refused_where_commands_are_sealed(backend: KubernetesBackend) -> None:
    with pytest.raises(SandboxUnavailable, match=r"set sandbox\.kubernetes\.network to 'fence'"):
        await backend.acquire(SandboxSpec(network=NetworkMode.PROXY, allow_hosts=("a.test",)))


# --- the trial of the network --------------------------------------------------------------------------------------


async def test_sandboxes_are_refused_where_one_reaches_something(
    make_namespace: MakeNamespace, open_pods: Open
) -> None:
    """The network of this cluster takes policies and does not enforce them."""
    settings = make_namespace(network="policy")
    backend = open_pods(settings, trial=True)
    with pytest.raises(SandboxUnavailable, match=r"lets .*:7070.* be reached .*sandbox\.kubernetes\.network"):
        await backend.acquire(SMALL)


ENFORCED = """
table inet enforced {
    chain outside { type filter hook forward priority 0; iifname pods ct state new drop; }
    chain node { type filter hook input priority 0; iifname pods ct state new drop; }
}
table bridge enforced {
    chain neighbours { type filter hook forward priority 0; tcp flags & (syn | ack) == syn drop; }
}
"""
"""What a network plugin would make of policies that let pods answer and begin nothing."""


@pytest.fixture
def enforced(cluster: Cluster) -> Iterator[None]:
    inside = ["nsenter", f"--target={cluster.pid}", "--net", "nft"]
    subprocess.run([*inside, "--file", "-"], input=ENFORCED, text=True, check=True)
    yield
    for family in ("inet", "bridge"):
        subprocess.run([*inside, "delete", "table", family, "enforced"], check=True)


@pytest.mark.usefixtures("enforced")
async def test_the_trial_passes_where_policies_are_enforced(make_namespace: MakeNamespace, open_pods: Open) -> None:
    backend = open_pods(make_namespace(network="policy"), trial=True)
    sandbox = await backend.acquire(SMALL)
    await sandbox.close()


async def test_an_operator_may_accept_an_open_network(
    make_namespace: MakeNamespace, cluster: Cluster, open_pods: Open
) -> None:
    backend = open_pods(make_namespace(network="policy"))
    sandbox = await backend.acquire(SMALL)
    host, port = re.fullmatch(r"https://(.*):(\d+)", cluster.layout.api_server).groups()  # type: ignore[union-attr]
    assert await _say(sandbox, f"{manifest.PROGRAM} reach tcp:{host}:{port}") == f"tcp:{host}:{port}\n"


async def test_the_superuser_of_a_sandbox_is_refused_where_the_node_makes_no_user_namespace(
    make_namespace: MakeNamespace, open_pods: Open
) -> None:
    settings = make_namespace(profile="root", start_timeout_s=5)
    backend = open_pods(settings, trial=True)
    with pytest.raises(SandboxUnavailable, match="user namespace"):
        await backend.acquire(SMALL)


# --- what the cluster refuses --------------------------------------------------------------------------------------


async def test_an_image_that_is_nowhere_or_has_another_digest_is_said_to_be(backend: KubernetesBackend) -> None:
    """Both at once, for a node takes ten seconds to say so."""
    images = ("example/none:2", f"mimo.local/task@sha256:{'0' * 64}")
    specs = [SMALL.model_copy(update={"image": image}) for image in images]
    unknown, other = await asyncio.gather(*(backend.acquire(spec) for spec in specs), return_exceptions=True)
    assert isinstance(unknown, UnknownImage)
    assert re.search(r"example/none:2.*push it", str(unknown))
    assert isinstance(other, ImageMismatch)
    assert "digest" in str(other)


async def test_an_image_that_does_not_come_may_be_asked_for_again(sealed: KubernetesSettings, open_pods: Open) -> None:
    backend = open_pods(sealed, pull_policy="Always", start_timeout_s=8)
    with pytest.raises(NoRoom, match=r"did not come .*registry"):
        await backend.acquire(SMALL.model_copy(update={"image": "127.0.0.1:1/task:1"}))


async def test_a_full_namespace_says_so_and_has_room_again_when_another_ends(
    make_namespace: MakeNamespace, open_pods: Open
) -> None:
    backend = open_pods(make_namespace(bounds=Bounds(pods=1)))
    first = await backend.acquire(SMALL)
    with pytest.raises(NoRoom, match=r"is full: .*exceeded quota"):
        await backend.acquire(SMALL)
    await first.close()
    for _ in range(100):
        try:
            await backend.acquire(SMALL)
            break
        except NoRoom:
            await asyncio.sleep(0.1)
    else:
        pytest.fail("the room of an ended sandbox does not come back")


async def test_a_sandbox_no_node_has_room_for_is_refused_in_time_and_leaves_nothing(
    sealed: KubernetesSettings, pods: Pods, open_pods: Open
) -> None:
    backend = open_pods(sealed, node_selector={"no": "such"}, start_timeout_s=2, service="crowded")
    with pytest.raises(NoRoom, match=r"no node has room .*affinity/selector"):
        await backend.acquire(SMALL)
    await backend.close()
    assert not [pod for pod in pods() if pod["metadata"]["labels"][manifest.SERVICE_LABEL] == "crowded"]


async def test_a_namespace_that_is_not_there_is_named(sealed: KubernetesSettings, open_pods: Open) -> None:
    backend = open_pods(sealed, namespace="not-there")
    with pytest.raises(SandboxUnavailable, match=r"make the namespace not-there first"):
        await backend.acquire(SMALL)


async def test_a_pod_that_breaks_the_policy_is_refused_with_what_it_lacks(
    sealed: KubernetesSettings, open_pods: Open
) -> None:
    backend = open_pods(sealed, service_account="default")
    with pytest.raises(SandboxUnavailable, match="must have the sandboxes' own account"):
        await backend.acquire(SMALL)


async def test_without_a_way_to_a_cluster_the_settings_to_give_are_named(
    sealed: KubernetesSettings, open_pods: Open
) -> None:
    backend = open_pods(sealed, kubeconfig="/no/such/kubeconfig")
    with pytest.raises(SandboxUnavailable, match=r"sandbox\.kubernetes\.kubeconfig"):
        await backend.acquire(SMALL)


async def test_pods_that_are_no_sandboxes_are_none_of_ours(
    cluster: Cluster, namespace: str, sealed: KubernetesSettings, open_pods: Open
) -> None:
    cluster.kubectl("run", "other", f"--namespace={namespace}", f"--image={PAUSE}", "--image-pull-policy=Never")
    assert await open_pods(sealed, namespace=namespace).found() == []


# --- how it is lost ------------------------------------------------------------------------------------------------


@pytest.fixture
async def running(sandbox: KubernetesSandbox) -> AsyncIterator[asyncio.Task[Outcome]]:
    """A long command of ``sandbox`` that has begun."""
    running = asyncio.create_task(sandbox.exec(Command("sleep 60", "long", 70)))
    await _say(sandbox, "true")
    yield running
    running.cancel()


Kubectl = Callable[..., Awaitable[str]]


@pytest.fixture
def kubectl(cluster: Cluster, sealed: KubernetesSettings) -> Kubectl:
    """Run it in the namespace of ``sandbox``."""

    async def kubectl(*arguments: str, stdin: str = "") -> str:
        return await asyncio.to_thread(cluster.kubectl, f"--namespace={sealed.namespace}", *arguments, stdin=stdin)

    return kubectl


async def test_a_deleted_pod_is_lost_in_mid_command(
    kubectl: Kubectl, sandbox: KubernetesSandbox, running: "asyncio.Task[Outcome]"
) -> None:
    await kubectl("delete", "pod", sandbox.name, "--wait=false")
    with pytest.raises(SandboxLost, match="is over: it was deleted"):
        await running


async def test_an_evicted_pod_is_said_to_be(
    kubectl: Kubectl, sealed: KubernetesSettings, sandbox: KubernetesSandbox, running: "asyncio.Task[Outcome]"
) -> None:
    about = {"name": sandbox.name, "namespace": sealed.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": about}
    path = f"/api/v1/namespaces/{sealed.namespace}/pods/{sandbox.name}/eviction"
    await kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))
    with pytest.raises(SandboxEvicted, match="Eviction"):
        await running


async def test_a_pod_past_its_nodes_deadline_is_said_to_be(
    kubectl: Kubectl, sandbox: KubernetesSandbox, running: "asyncio.Task[Outcome]"
) -> None:
    await kubectl("patch", "pod", sandbox.name, '--patch={"spec": {"activeDeadlineSeconds": 1}}')
    with pytest.raises(LifetimeOver, match="ask for a longer"):
        await running


async def test_a_pod_whose_sandboxd_is_killed_says_so(
    cluster: Cluster, sandbox: KubernetesSandbox, running: "asyncio.Task[Outcome]", pods: Pods
) -> None:
    (uid,) = [pod["metadata"]["uid"] for pod in pods() if pod["metadata"]["name"] == sandbox.name]
    os.kill(_sandboxd_of(uid), signal.SIGKILL)
    with pytest.raises(SandboxLost, match=f"{sandbox.name} is over: .*sandbox ended with 137"):
        await running


def _sandboxd_of(uid: str) -> int:
    """The first process of the pod's task container, as this machine counts."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            is_ours = f"pod{uid}" in (folder / "cgroup").read_text()
            if is_ours and (folder / "cmdline").read_bytes().startswith(b"/sandboxd/sandboxd\0serve"):
                return int(folder.name)
    raise AssertionError(f"no process of the pod {uid} is sandboxd")


async def test_a_pod_whose_node_is_given_up_is_said_to_be(
    kubectl: Kubectl, cluster: Cluster, running: "asyncio.Task[Outcome]"
) -> None:
    """A node that is not heard of gets such a mark, and its pods are deleted for it."""
    await kubectl("taint", "node", cluster.layout.name, "test=gone:NoExecute")
    try:
        with pytest.raises(MachineLost, match="its node is gone"):
            await running
    finally:
        await kubectl("taint", "node", cluster.layout.name, "test-")


# --- a service that dies -------------------------------------------------------------------------------------------


async def test_a_command_of_a_killed_service_goes_on_and_is_found_by_the_next(
    sealed: KubernetesSettings, open_pods: Open
) -> None:
    line = "echo begun; sleep 2; echo ran >> log; cat log"
    handle = await killed_service(sealed, SMALL, line, service="worker-0")
    backend = open_pods(sealed, service="worker-0")
    sandbox = await backend.attach(handle, SMALL)
    outcome = await sandbox.exec(Command(line, "intent-1", 60))
    assert outcome.output == b"begun\nran\n"
    await backend.close()
    assert handle.id not in [each.id for each in await backend.found()]


async def test_one_lease_after_a_service_was_killed_its_sandbox_ends_and_the_next_service_removes_it(
    sealed: KubernetesSettings, kubectl: Kubectl, open_pods: Open
) -> None:
    name = (await killed_service(sealed, SMALL, "(setsid sleep 4711 &); sleep 4711", lease_s=2.0)).id
    await kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s", f"pod/{name}")
    backend = open_pods(sealed)
    await (await backend.acquire(SMALL)).close()
    await backend.close()
    assert name not in [each.id for each in await backend.found()]


async def test_a_caller_that_gives_up_while_it_is_made_leaves_no_pod(
    sealed: KubernetesSettings, pods: Pods, open_pods: Open
) -> None:
    backend = open_pods(sealed, service="hasty")
    for delay in (0.001, 0.05, 0.5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backend.acquire(SMALL), delay)
    await backend.close()
    assert not [pod for pod in pods() if pod["metadata"]["labels"][manifest.SERVICE_LABEL] == "hasty"]
