"""Sandboxes as pods of a cluster, wherever these come from (``provider``).

A pod that nobody wants any more ends in four ways: it is closed; sandboxd ends it with its lease, whatever became of
the service; its node ends it at its deadline; and what is left of it, the next service finds by its labels.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sandbox import image
from sandbox.chores import Chores
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.egress import Door, Egress, variables
from sandbox.errors import NoRoom, SandboxError, SandboxLost, SandboxUnavailable, UnknownImage
from sandbox.inventory import Found, Handle
from sandbox.kubernetes import canary, manifest
from sandbox.kubernetes.cluster import Cluster, Refusal
from sandbox.kubernetes.following import Following
from sandbox.kubernetes.provider import Held, Provider, open_provider
from sandbox.kubernetes.sandbox import KubernetesSandbox
from sandbox.kubernetes.starting import Unstarted, failure, first_contact
from sandbox.kubernetes.way_out import WayOut
from sandbox.types import Capability, NetworkMode, SandboxSpec
from sandbox.wire.client import Client
from sandbox.wire.dial import Dial, tcp

_SWEEP_S = 60.0
_LATE_S = 60.0
_PROVEN_S = 3600.0
"""What the trial showed is believed for so long: policies come and go."""
_GONE_S = 30.0
_log = logging.getLogger(__name__)


class KubernetesBackend:
    """Starts sandboxes as pods."""

    name = "kubernetes"

    def __init__(self, settings: SandboxSettings) -> None:
        self.capabilities = _capabilities(settings.kubernetes)
        self._settings = settings.kubernetes
        self._variables = {name: value for name, value in image.environment(settings).items() if name != "PATH"}
        self._service = self._settings.service or secrets.token_hex(8)
        self._opened: tuple[Cluster, Provider] | None = None
        self._turn = asyncio.Lock()
        self._swept = -_SWEEP_S
        self._proven = -_PROVEN_S
        self._chores = Chores()
        self._egress = Egress(settings.egress)
        self._doors: Path | None = None
        self._sandboxes: dict[str, KubernetesSandbox] = {}

    @property
    def needs_trial(self) -> bool:
        """See :class:`sandbox.types.TriedBackend`."""
        return canary.is_needed(self._settings)

    async def prove(self) -> None:
        """See :class:`sandbox.types.TriedBackend`. Without an image for it, the first task brings one."""
        if self._settings.host_image is not None:
            await self._ready(SandboxSpec())

    async def acquire(self, spec: SandboxSpec) -> KubernetesSandbox:
        if spec.network is NetworkMode.INTERNET:
            raise SandboxUnavailable("pods have no network mode 'internet'; name the hosts, with network 'proxy'")
        if spec.network is NetworkMode.PROXY and self._settings.network == "sealed":
            raise SandboxUnavailable(
                "sealed commands open no network socket, which network 'proxy' needs; set sandbox.kubernetes.network "
                "to 'fence' or 'policy'"
            )
        return await self._chores.make(self._acquire(spec))

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> KubernetesSandbox:
        """Take over a sandbox of a service that is gone; see :class:`sandbox.inventory.LastingBackend`."""
        _, provider = await self._open()
        host, _, port = handle.address.rpartition(":")
        sealed = self._settings.network == "sealed"
        door = await self._open_door(spec)
        client = await Client.attach(
            tcp(host.strip("[]"), int(port)),
            handle.key,
            handle.boot_id,
            lease_s=self._settings.lease_s,
            sealed=sealed,
            env={**self._variables, **variables(spec)},
            term=term,
        )
        following = provider.following
        following.follow(handle.id)
        return self._keep(client, following, handle, door)

    async def found(self) -> Sequence[Found]:
        """Every sandbox in the namespace."""
        return [held.found for held in await self._held()]

    async def remove(self, id: str) -> None:  # noqa: A002  # the field's name
        """Ask for the end of a sandbox; quiet where there is none."""
        await self._end(id)

    async def close(self) -> None:
        await self._chores.made()
        try:
            await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        finally:
            await self._chores.tidied()
            if self._opened is not None:
                (cluster, provider), self._opened = self._opened, None
                await provider.close()
                await cluster.close()
            await self._egress.close()
            if self._doors is not None:
                shutil.rmtree(self._doors)
                self._doors = None

    async def _acquire(self, spec: SandboxSpec) -> KubernetesSandbox:
        if not manifest.image(spec, self._settings):
            raise UnknownImage(
                "a cluster has no view of this machine, so it has no image 'host'; name another one, or what it stands "
                "for in the settings (sandbox.kubernetes.host_image)"
            )
        await self._ready(spec)
        return await self._make(spec)

    async def _ready(self, spec: SandboxSpec) -> None:
        await self._open()
        if time.monotonic() > self._swept + _SWEEP_S:
            self._swept = time.monotonic()
            self._chores.tidy(self._sweep())
        async with self._turn:
            if self.needs_trial and time.monotonic() > self._proven + _PROVEN_S:
                await self._prove(spec)
                self._proven = time.monotonic()

    async def _open(self) -> tuple[Cluster, Provider]:
        if self._opened is None:
            cluster = Cluster(self._settings)
            self._opened = cluster, open_provider(cluster, self._settings, self._service)
        return self._opened

    async def _prove(self, spec: SandboxSpec) -> None:
        made = await asyncio.gather(
            *(self._make(canary.trial(spec.image), again=False) for _ in range(2)), return_exceptions=True
        )
        sandboxes = [each for each in made if isinstance(each, KubernetesSandbox)]
        try:
            for failure in made:
                if isinstance(failure, BaseException):
                    raise failure
            cluster, _ = await self._open()
            await canary.prove(sandboxes[0], sandboxes[1], self._settings, cluster.address)
        finally:
            await asyncio.gather(*(each.close() for each in sandboxes))

    async def _make(self, spec: SandboxSpec, *, again: bool = True) -> KubernetesSandbox:
        _, provider = await self._open()
        name = f"mimo-sandbox-{secrets.token_hex(8)}"
        door = await self._open_door(spec)
        following = provider.following
        following.follow(name)
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                await self._ask_for(name, spec, again)
                client, address = await first_contact(following, name, self._settings.port, partial(self._claim, spec))
        except BaseException as error:
            state = error.state if isinstance(error, Unstarted) else following.state(name)
            late = await self._last_event(name) if isinstance(error, TimeoutError) and not state.cause else ""
            self._chores.tidy(self._abandon(name))
            if door is not None:
                self._chores.tidy(door.close())
            if isinstance(error, Unstarted | TimeoutError):
                state = replace(state, detail=late or state.detail)
                raise failure(name, state, manifest.image(spec, self._settings)) from error
            if isinstance(error, SandboxLost):
                raise SandboxUnavailable(f"the pod {name} does not serve: {error}") from error
            raise
        host = f"[{address}]" if ":" in address else address
        handle = Handle(name, f"{host}:{self._settings.port}", client.boot_id, client.key)
        return self._keep(client, following, handle, door)

    async def _claim(self, spec: SandboxSpec, dial: Dial) -> Client:
        return await Client.claim(
            dial,
            lease_s=self._settings.lease_s,
            lifetime_s=spec.lifetime_s,
            memory_bytes=spec.resources.memory_mib * 1024 * 1024,
            sealed=self._settings.network == "sealed",
            env={**self._variables, **variables(spec)},
            ready_s=self._settings.start_timeout_s,
        )

    async def _open_door(self, spec: SandboxSpec) -> Door | None:
        if spec.network is not NetworkMode.PROXY:
            return None
        if self._doors is None:
            self._doors = Path(tempfile.mkdtemp(prefix="mimo-doors-"))
        return await self._egress.open(spec, self._doors / secrets.token_hex(8))

    def _keep(self, client: Client, following: Following, handle: Handle, door: Door | None) -> KubernetesSandbox:
        way_out = None if door is None else WayOut(door, client.lend)
        sandbox = self._sandboxes[handle.id] = KubernetesSandbox(client, following, handle, self._discard, way_out)
        return sandbox

    async def _ask_for(self, name: str, spec: SandboxSpec, again: bool) -> None:
        _, provider = await self._open()
        try:
            await provider.ask_for(name, spec, again=again)
        except Refusal as error:
            if error.reason != "AlreadyExists":  # the first answer did not reach us: nobody else has this name
                raise self._refused(error) from error

    async def _last_event(self, name: str) -> str:
        """What the cluster says of it beside its status; "" where we may not read that."""
        cluster, _ = await self._open()
        path = f"/api/v1/namespaces/{self._settings.namespace}/events"
        params = {"fieldSelector": f"involvedObject.name={name},type=Warning"}
        with contextlib.suppress(Refusal, SandboxError):
            listed = json.loads(await cluster.ask("GET", path, params))
            return str(listed["items"][-1]["message"])[:1000] if listed["items"] else ""
        return ""

    async def _discard(self, name: str) -> None:
        """Have a sandbox ended. That it is gone is waited for beside whatever comes next."""
        self._sandboxes.pop(name, None)
        if await self._end(name):
            self._chores.tidy(self._confirm(name))
        else:
            (await self._open())[1].following.forget(name)

    async def _abandon(self, name: str) -> None:
        with contextlib.suppress(SandboxError):  # what is left of it ends by itself, and is swept up later
            await self._discard(name)

    async def _confirm(self, name: str) -> None:
        _, provider = await self._open()
        try:
            async with asyncio.timeout(_GONE_S):
                await provider.following.until(name, lambda state: state.gone)
        except TimeoutError:
            # Its node does not answer. sandboxd ends with its lease, also there; what is left is the cluster's record.
            _log.info("action=pod_stuck pod=%s", name)  # the reaper tells of all at once
            with _ending(name):
                await provider.give_up(name)
        finally:
            provider.following.forget(name)

    async def _end(self, name: str) -> bool:
        """Whether there was such a sandbox."""
        _, provider = await self._open()
        with _ending(name):
            return await provider.end(name)

    async def _held(self) -> Sequence[Held]:
        _, provider = await self._open()
        try:
            return await provider.held()
        except Refusal as error:
            raise self._refused(error) from error

    async def _sweep(self) -> None:
        """Remove what earlier services left."""
        _, provider = await self._open()
        with contextlib.suppress(SandboxError, Refusal):
            for held in await provider.held():
                if held.over or time.time() > held.found.ends_at + _LATE_S:
                    await self._end(held.found.id)
            await provider.tidy()

    def _refused(self, refusal: Refusal) -> SandboxError:
        namespace = self._settings.namespace
        if "exceeded quota" in str(refusal):
            return NoRoom(f"the namespace {namespace} is full: {refusal}; wait for others to end, or raise its quota")
        if refusal.status == 404 and not refusal.reason:  # not even a path of that name
            return SandboxUnavailable(
                "this cluster knows no claims of sandboxes; install the agent-sandbox controller with its extensions, "
                "or set sandbox.kubernetes.provider to 'pods'"
            )
        if refusal.status == 404:
            return SandboxUnavailable(
                f"{refusal}; make the namespace {namespace} first, or name another in the settings "
                "(sandbox.kubernetes.namespace)"
            )
        return SandboxUnavailable(f"the cluster refuses such a pod in the namespace {namespace}: {refusal}")


def _capabilities(settings: KubernetesSettings) -> frozenset[Capability]:
    own = {Capability.OWN_USERS} if settings.profile == "root" else set()
    one_each = settings.profile == "restricted" and settings.uid is None and settings.provider == "pods"
    own |= {Capability.OWN_ID} if one_each else set()
    own |= set() if settings.network == "sealed" else {Capability.PROXY}
    own |= {Capability.ONE_DISK} if settings.disk == "memory" else set()
    return frozenset({Capability.REATTACH, Capability.IMAGES, Capability.CHECKPOINTS, *own})


@contextlib.contextmanager
def _ending(name: str) -> Iterator[None]:
    try:
        yield
    except Refusal as error:
        raise SandboxError(f"the cluster does not end the sandbox {name}: {error}") from error
