"""Claims, as the agent-sandbox project's own client sees them: what it makes serves us, what we make it reads and ends.

The definitions and the controller are ours, so this holds both to the words of somebody else.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from k8s_agent_sandbox.exceptions import SandboxTemplateNotFoundError, SandboxWarmPoolNotFoundError
from k8s_agent_sandbox.sandbox import Sandbox
from k8s_agent_sandbox.sandbox_client import SandboxClient
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import load_kube_config

from deploy.cluster.cluster import Cluster
from sandbox.backends import open_backend
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.errors import SandboxLost
from sandbox.inventory import Handle
from sandbox.kubernetes import claim_manifest, manifest
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.kubernetes.claims import Claims
from sandbox.kubernetes.cluster import Cluster as ApiServer
from sandbox.kubernetes.sandbox import KubernetesSandbox
from sandbox.types import Command, Resources, SandboxSpec
from sandbox.wire.client import Client
from sandbox.wire.dial import tcp
from tests.integration.kubernetes.conftest import MakeNamespace

pytestmark = pytest.mark.anyio
SMALL = SandboxSpec(resources=Resources(memory_mib=64, processes=64, disk_mib=16))
SERVICE = "ours"
PATIENCE_S = 120


class _StrictApi(ApiClient):
    """Has the server refuse a field that it does not know; by itself it leaves such fields out."""

    def param_serialize(self, *place: Any, **request: Any) -> Any:
        if request["method"] in ("POST", "PATCH"):
            request["query_params"] = [*request["query_params"], ("fieldValidation", "Strict")]
        return super().param_serialize(*place, **request)


@pytest.fixture(scope="module")
def settings(make_namespace: MakeNamespace) -> KubernetesSettings:
    return make_namespace(provider="claims", accept_open_network=True, service=SERVICE)


@pytest.fixture(scope="module")
async def backend(settings: KubernetesSettings) -> AsyncIterator[KubernetesBackend]:
    backend = open_backend("kubernetes", SandboxSettings(kubernetes=settings))
    assert isinstance(backend, KubernetesBackend)
    yield backend
    await backend.close()


@pytest.fixture(scope="module")
def client(settings: KubernetesSettings) -> Iterator[SandboxClient[Sandbox]]:
    reached = Configuration()
    load_kube_config(str(settings.kubeconfig), client_configuration=reached, persist_config=False)
    with _StrictApi(reached) as api:
        yield SandboxClient(api_client=api)


Their = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
async def make_theirs(client: SandboxClient[Sandbox], settings: KubernetesSettings) -> AsyncIterator[Their]:
    """Sandboxes that their client claims of a pool of ours."""
    made: list[Sandbox] = []

    async def make(pool: str, **options: Any) -> Sandbox:
        claim = partial(client.create_sandbox, pool, settings.namespace, PATIENCE_S, **options)
        made.append(await asyncio.to_thread(claim))
        return made[-1]

    yield make
    for each in made:
        await asyncio.to_thread(each.terminate)


@pytest.fixture
async def ours(backend: KubernetesBackend) -> AsyncIterator[KubernetesSandbox]:
    sandbox = await backend.acquire(SMALL)
    yield sandbox
    await sandbox.close()


@pytest.fixture
def pool(ours: KubernetesSandbox, settings: KubernetesSettings) -> str:
    """The name of the pool of our sandbox."""
    name, _, _ = claim_manifest.kind(SMALL, settings, settings.warm)
    return name


async def test_it_claims_a_sandbox_of_our_pool_and_finds_it_ready(
    make_theirs: Their, pool: str, client: SandboxClient[Sandbox], cluster: Cluster, settings: KubernetesSettings
) -> None:
    theirs = await make_theirs(
        pool, labels={"run": "theirs"}, shutdown_after_seconds=3600, pod_annotations={"of": "theirs"}
    )
    status, _ = await asyncio.to_thread(theirs.status)
    assert status == "SandboxReady"
    name = await asyncio.to_thread(theirs.get_pod_name)
    pod = json.loads(await asyncio.to_thread(cluster.kubectl, "get", "pod", name, "--output=json", *_in(settings)))
    assert pod["metadata"]["annotations"]["of"] == "theirs"
    assert await asyncio.to_thread(theirs.get_pod_ip) == pod["status"]["podIP"]
    claim = theirs.claim_name
    listed = partial(client.list_all_sandboxes, settings.namespace, label_selector="run=theirs")
    assert await asyncio.to_thread(listed) == [claim]
    await asyncio.to_thread(theirs.terminate)
    await asyncio.to_thread(
        cluster.kubectl, "wait", f"pod/{name}", "--for=delete", f"--timeout={PATIENCE_S}s", *_in(settings)
    )
    assert await asyncio.to_thread(listed) == []


async def test_a_claim_that_it_makes_as_we_do_is_one_of_our_sandboxes(
    make_theirs: Their, pool: str, backend: KubernetesBackend, settings: KubernetesSettings
) -> None:
    name = "made-by-theirs"
    about = manifest.about(SMALL, settings, name=name, service=SERVICE, now=time.time())
    server = ApiServer(settings)
    claims = Claims(server, settings, SERVICE)
    claims.following.follow(name)
    marked = {claim_manifest.FOR_CLAIM: name}
    theirs = await make_theirs(pool, claim_name=name, labels=about["labels"], pod_annotations=marked)
    state = await claims.following.until(name, lambda state: bool(state.address))
    assert state.address is not None
    assert state.address == await asyncio.to_thread(theirs.get_pod_ip)
    assert name in {each.id for each in await backend.found()}
    first = await Client.claim(tcp(state.address, settings.port), lease_s=60, lifetime_s=600, sealed=True)
    handle = Handle(name, f"{state.address}:{settings.port}", first.boot_id, first.key)
    sandbox = await backend.attach(handle, SMALL)
    first.close("handed over")
    assert (await sandbox.exec(Command("echo alive", "a", 60))).output == b"alive\n"
    await sandbox.close()
    await claims.following.until(name, lambda state: state.gone)
    status, _ = await asyncio.to_thread(theirs.status)
    assert status == "SandboxNotFound"
    for each in (claims, server):
        await each.close()


async def test_it_finds_a_sandbox_of_ours_and_ends_it(
    ours: KubernetesSandbox, pool: str, client: SandboxClient[Sandbox], settings: KubernetesSettings
) -> None:
    address, _, _ = ours.handle.address.rpartition(":")
    of_service = f"{manifest.SERVICE_LABEL}={SERVICE}"
    assert ours.name in await asyncio.to_thread(client.list_all_sandboxes, settings.namespace, of_service)
    assert await asyncio.to_thread(client.get_sandbox_claim_warmpool_name, ours.name, settings.namespace) == pool
    found = await asyncio.to_thread(client.get_sandbox, ours.name, settings.namespace, PATIENCE_S)
    assert await asyncio.to_thread(found.get_pod_ip) == address
    adopt = partial(client.create_sandbox, claim_name=ours.name, adopt_existing=True)
    adopted = await asyncio.to_thread(adopt, pool, settings.namespace, PATIENCE_S)
    status, _ = await asyncio.to_thread(adopted.status)
    assert (adopted.sandbox_id, status) == (found.sandbox_id, "SandboxReady")
    running = asyncio.create_task(ours.exec(Command("sleep 60", "long", 70)))
    await ours.exec(Command("true", "begun", 60))
    await asyncio.to_thread(client.delete_sandbox, ours.name, settings.namespace)
    with pytest.raises(SandboxLost, match=f"{ours.name} is over"):
        await running


async def test_it_understands_why_it_is_given_none(
    make_theirs: Their, cluster: Cluster, settings: KubernetesSettings
) -> None:
    with pytest.raises(SandboxWarmPoolNotFoundError):
        await make_theirs("none")
    name, _, pool = claim_manifest.kind(SMALL.model_copy(update={"image": "without-template:1"}), settings, 0)
    await asyncio.to_thread(cluster.kubectl, "create", "--filename=-", stdin=json.dumps(pool))
    with pytest.raises(SandboxTemplateNotFoundError):
        await make_theirs(name)


async def test_a_field_that_our_definitions_lack_is_refused_to_it_too(make_theirs: Their, pool: str) -> None:
    """Else what it says above would prove little."""
    with pytest.raises(ApiException, match=r'unknown field \\+"spec\.env'):
        await make_theirs(pool, env={"NAME": "value"})


def _in(settings: KubernetesSettings) -> tuple[str, ...]:
    return (f"--namespace={settings.namespace}",)
