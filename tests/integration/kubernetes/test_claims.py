"""Sandboxes from claims, with a stand-in for the controller: what we send, and that all its answers are understood."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import ClusterError
from sandbox.backends import open_backend
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.errors import NoRoom, SandboxLost, SandboxUnavailable, UnknownImage
from sandbox.kubernetes import canary, claim_manifest
from sandbox.kubernetes.backend import KubernetesBackend
from sandbox.kubernetes.claims import Claims
from sandbox.kubernetes.cluster import Cluster as ApiServer
from sandbox.kubernetes.fences import Bounds
from sandbox.types import Command, Outcome, Resources, SandboxSpec
from tests.conformance.sandbox.pods import EXECUTORS
from tests.integration.kubernetes.conftest import MakeNamespace
from tests.integration.kubernetes.killed_service import killed_service

pytestmark = pytest.mark.anyio
SMALL = SandboxSpec(resources=Resources(memory_mib=64, processes=64, disk_mib=16))


@pytest.fixture(scope="module")
def executor(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the account that the role of a namespace is for, and no other."""
    with contextlib.suppress(ClusterError):  # another module's
        cluster.kubectl("create", "serviceaccount", EXECUTORS.account, f"--namespace={EXECUTORS.namespace}")
    token = cluster.kubectl("create", "token", EXECUTORS.account, f"--namespace={EXECUTORS.namespace}").strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [{"name": each["name"], "user": {"token": token}} for each in config["users"]]
    path = tmp_path_factory.mktemp("executor") / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def settings(make_namespace: MakeNamespace, executor: Path) -> KubernetesSettings:
    made = make_namespace(provider="claims", accept_open_network=True)
    return made.model_copy(update={"kubeconfig": executor})


Open = Callable[..., KubernetesBackend]


@pytest.fixture(scope="module")
async def open_claims(settings: KubernetesSettings) -> AsyncIterator[Open]:
    """A backend with these settings."""
    opened: list[KubernetesBackend] = []

    def open_claims(base: KubernetesSettings = settings, **changes: object) -> KubernetesBackend:
        backend = open_backend("kubernetes", SandboxSettings(kubernetes=base.model_copy(update=changes)))
        assert isinstance(backend, KubernetesBackend)
        opened.append(backend)
        return backend

    yield open_claims
    await asyncio.gather(*(backend.close() for backend in opened))


@pytest.fixture(scope="module")
def backend(open_claims: Open) -> KubernetesBackend:
    return open_claims()


Names = Callable[[str], Awaitable[set[str]]]


@pytest.fixture(scope="module")
def names(cluster: Cluster, settings: KubernetesSettings) -> Names:
    """What there is in the namespace of these kinds."""

    async def names(kinds: str) -> set[str]:
        listed = await asyncio.to_thread(
            cluster.kubectl, "get", kinds, f"--namespace={settings.namespace}", "--output=name"
        )
        return set(listed.split())

    return names


async def _until(happened: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(90):
        while not await happened():  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.1)


async def test_sandboxes_that_can_stand_for_each_other_share_a_template_and_go_with_all_that_was_made_for_them(
    backend: KubernetesBackend, names: Names, open_claims: Open
) -> None:
    kinds = "sandboxtemplates,sandboxwarmpools"
    before = await names(kinds)
    spec = SMALL.model_copy(update={"lifetime_s": 7000.0})
    one, other = await asyncio.gather(
        backend.acquire(spec), backend.acquire(spec.model_copy(update={"lifetime_s": 4000}))
    )
    assert len(await names(kinds) - before) == 2
    assert {one.name, other.name} <= {each.id for each in await backend.found()}
    assert {f"pod/{one.name}", f"pod/{other.name}"} <= await names("pods")
    assert await open_claims(provider="pods").found() == []
    assert (await one.exec(Command("echo alive", "a", 10))).output == b"alive\n"
    await asyncio.gather(one.close(), other.close())
    rest = f"{one.name} {other.name}"

    async def gone() -> bool:
        return not [name for name in await names("sandboxclaims,sandboxes,pods") if name.partition("/")[2] in rest]

    await _until(gone)


async def test_a_claim_gets_a_pod_that_is_held_ready(
    open_claims: Open, names: Names, cluster: Cluster, settings: KubernetesSettings
) -> None:
    backend = open_claims(warm=1, accept_open_network=False)
    await (await backend.acquire(SMALL)).close()
    name, _, _ = claim_manifest.kind(SMALL, settings, 1)
    pool = f"sandboxwarmpool.extensions.agents.x-k8s.io/{name}"
    wanted = "--for=jsonpath={.status.readyReplicas}=1"
    within = (f"--namespace={settings.namespace}", "--timeout=120s")
    await asyncio.to_thread(cluster.kubectl, "wait", pool, wanted, *within)
    pools = await names("sandboxwarmpools")
    for_trials = [claim_manifest.kind(canary.trial(SMALL.image), settings, warm)[0] for warm in (0, 1)]
    assert [any(kind in pool for pool in pools) for kind in for_trials] == [True, False]
    ready = {pod for pod in await names("pods") if name in pod}
    sandbox = await backend.acquire(SMALL)
    assert f"pod/{sandbox.name}" not in await names("pods")
    (used,) = ready
    found = await asyncio.to_thread(cluster.kubectl, "get", used, f"--namespace={settings.namespace}", "--output=json")
    pod: dict[str, Any] = json.loads(found)
    assert sandbox.handle.address == f"{pod['status']['podIP']}:{settings.port}"
    running = asyncio.create_task(sandbox.exec(Command("sleep 60", "long", 70)))
    await sandbox.exec(Command("true", "begun", 10))
    await asyncio.to_thread(cluster.kubectl, "delete", used, f"--namespace={settings.namespace}", "--wait=false")
    with pytest.raises(SandboxLost, match=f"{sandbox.name} is over: it was deleted"):
        await running
    await sandbox.close()


async def test_what_cannot_be_made_is_said_as_of_pods_of_our_own(open_claims: Open, names: Names) -> None:
    """All at once, for a node takes ten seconds to say that an image is nowhere."""
    nowhere = open_claims().acquire(SMALL.model_copy(update={"image": "example/none:2"}))
    no_node = open_claims(node_selector={"no": "such"}, start_timeout_s=12).acquire(SMALL)
    not_admitted = open_claims(service_account="default").acquire(SMALL)
    errors = await asyncio.gather(nowhere, no_node, not_admitted, return_exceptions=True)
    kinds = [type(error) for error in errors]
    assert kinds == [UnknownImage, NoRoom, SandboxUnavailable], errors
    assert "example/none:2" in str(errors[0])
    assert "no node has room" in str(errors[1])
    assert "must have the sandboxes' own account" in str(errors[2])


async def test_a_full_namespace_says_so(make_namespace: MakeNamespace, open_claims: Open) -> None:
    full = make_namespace(provider="claims", accept_open_network=True, bounds=Bounds(pods=1))
    backend = open_claims(full)
    await backend.acquire(SMALL)
    with pytest.raises(NoRoom, match=r"is full: .*exceeded quota"):
        await backend.acquire(SMALL)


async def test_a_claim_that_somebody_deletes_is_lost_in_mid_command(
    backend: KubernetesBackend, cluster: Cluster, settings: KubernetesSettings
) -> None:
    sandbox = await backend.acquire(SMALL)
    running = asyncio.create_task(sandbox.exec(Command("sleep 60", "long", 70)))
    await sandbox.exec(Command("true", "begun", 10))
    claim = f"sandboxclaim/{sandbox.name}"
    await asyncio.to_thread(cluster.kubectl, "delete", claim, f"--namespace={settings.namespace}", "--wait=false")
    with pytest.raises(SandboxLost, match=f"{sandbox.name} is over"):
        await running
    await sandbox.close()


async def test_what_a_killed_service_left_is_taken_over_or_removed_by_the_next(
    settings: KubernetesSettings, open_claims: Open
) -> None:
    kept, left = await asyncio.gather(
        killed_service(settings, SMALL, "sleep 1; echo ran", service="worker-0"),
        killed_service(settings, SMALL, "sleep 4711", lease_s=2.0),
    )
    backend = open_claims(service="worker-0")
    sandbox = await backend.attach(kept, SMALL)
    outcome: Outcome = await sandbox.exec(Command("sleep 1; echo ran", "intent-1", 60))
    assert outcome.output == b"ran\n"
    await sandbox.close()

    async def swept() -> bool:
        next_service = open_claims()
        await (await next_service.acquire(SMALL)).close()
        return not {kept.id, left.id} & {each.id for each in await next_service.found()}

    await _until(swept)


async def test_a_claim_that_nobody_ends_is_ended_by_the_controller_after_its_lifetime(
    cluster: Cluster, settings: KubernetesSettings, backend: KubernetesBackend
) -> None:
    short = SMALL.model_copy(update={"lifetime_s": 1.0})
    kind, *objects = claim_manifest.kind(short, settings, 0)
    # As if it had been asked for a while ago.
    asked = claim_manifest.claim(short, settings, name="left", kind=kind, service="gone", now=time.time() - 57)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*objects, asked]})
    await asyncio.to_thread(cluster.kubectl, "apply", "--filename=-", stdin=listed)

    async def ended() -> bool:
        return "left" not in {each.id for each in await backend.found()}

    await _until(ended)


async def test_kinds_that_no_claim_names_are_removed_a_day_later(settings: KubernetesSettings, names: Names) -> None:
    server = ApiServer(settings)
    later = Claims(server, settings, "later", now=lambda: time.time() + 2 * 24 * 3600)
    await later.ask_for("still-claimed", SMALL)
    unused = Claims(server, settings, "unused")
    other = SMALL.model_copy(update={"image": "unused:1"})
    await unused.ask_for("ended", other)
    await unused.end("ended")
    (kept, *_), (removed, *_) = (claim_manifest.kind(spec, settings, 0) for spec in (SMALL, other))

    async def only_kept() -> bool:
        await later.tidy()
        left = {name.partition("/")[2] for name in await names("sandboxtemplates,sandboxwarmpools")}
        return kept in left and removed not in left

    await _until(only_kept)
    await later.end("still-claimed")
    for each in (later, unused, server):
        await each.close()


async def test_a_kind_that_another_service_took_for_unused_is_made_again(
    backend: KubernetesBackend, cluster: Cluster, settings: KubernetesSettings
) -> None:
    spec = SMALL.model_copy(update={"resources": Resources(memory_mib=64, processes=64, disk_mib=17)})
    await (await backend.acquire(spec)).close()
    name, _, _ = claim_manifest.kind(spec, settings, 0)
    kinds = "sandboxwarmpools,sandboxtemplates"
    await asyncio.to_thread(cluster.kubectl, "delete", kinds, name, f"--namespace={settings.namespace}")
    sandbox = await backend.acquire(spec)
    assert (await sandbox.exec(Command("echo alive", "a", 60))).output == b"alive\n"
    await sandbox.close()


@pytest.mark.parametrize("change", [{"spec": {"env": []}}, {"spec": {"warmPoolRef": None}}, {"status": {"phase": ""}}])
def test_the_definitions_take_no_field_but_those_that_we_know(
    cluster: Cluster, settings: KubernetesSettings, change: dict[str, dict[str, object]]
) -> None:
    good = claim_manifest.claim(SMALL, settings, name="tried", kind="any", service="tests", now=time.time())
    tried: dict[str, Any] = json.loads(json.dumps(good))
    for part, fields in change.items():
        tried.setdefault(part, {}).update(fields)
    arguments = ("create", "--dry-run=server", "--validate=strict", "--filename=-")
    cluster.kubectl(*arguments, stdin=json.dumps(good))
    with pytest.raises(ClusterError, match=r"unknown field|Required value|must be of type"):
        cluster.kubectl(*arguments, stdin=json.dumps(tried))


async def test_a_cluster_without_the_controllers_definitions_is_told_what_to_install(
    settings: KubernetesSettings, open_claims: Open, tmp_path: Path
) -> None:
    with _server_without_definitions() as address:
        config: dict[str, object] = {"clusters": [{"name": "bare", "cluster": {"server": address}}]}
        config |= {"users": [{"name": "me", "user": {}}], "current-context": "it"}
        config |= {"contexts": [{"name": "it", "context": {"cluster": "bare", "user": "me"}}]}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        with pytest.raises(SandboxUnavailable, match=r"install the agent-sandbox controller .* 'pods'"):
            await open_claims(kubeconfig=tmp_path / "kubeconfig").acquire(SMALL)


@contextlib.contextmanager
def _server_without_definitions() -> Iterator[str]:
    """Says what an API server says of paths that it does not know."""

    class Unknown(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(404)
            self.send_header("Content-Length", "19")
            self.end_headers()
            self.wfile.write(b"404 page not found\n")

        do_POST = do_GET  # noqa: N815  # the library's name

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Unknown) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
