"""Pods that we make ourselves: one write each."""

import time
from collections.abc import Sequence

from sandbox.config import KubernetesSettings
from sandbox.inventory import Found
from sandbox.kubernetes import manifest
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.following import Following
from sandbox.kubernetes.pod import Pod
from sandbox.kubernetes.provider import Held
from sandbox.kubernetes.watch import Watch, list_objects
from sandbox.types import SandboxSpec


class BarePods:
    """The pods of one service."""

    def __init__(self, cluster: Cluster, settings: KubernetesSettings, service: str) -> None:
        self.following = Following()
        self._cluster = cluster
        self._settings = settings
        self._service = service
        self._path = f"/api/v1/namespaces/{settings.namespace}/pods"
        self._watch = Watch(cluster, self._path, f"{manifest.SERVICE_LABEL}={service}", Pod, self.following)

    async def ask_for(self, name: str, spec: SandboxSpec, *, again: bool = True) -> None:
        wanted = manifest.pod(spec, self._settings, name=name, service=self._service, now=time.time())
        await self._cluster.ask("POST", self._path, body=wanted)

    async def end(self, name: str) -> bool:
        return await self._delete(name, manifest.GRACE_S)

    async def give_up(self, name: str) -> None:
        await self._delete(name, 0)

    async def held(self) -> Sequence[Held]:
        # Those of claims have no service.
        selector = f"{manifest.LABEL},{manifest.SERVICE_LABEL}"
        pods, _ = await list_objects(self._cluster, self._path, selector, Pod)
        return [Held(_found(pod), pod.state().over) for pod in pods]

    async def tidy(self) -> None:
        """Pods leave nothing."""

    async def close(self) -> None:
        await self._watch.close()

    async def _delete(self, name: str, grace_s: int) -> bool:
        return await self._cluster.delete(f"{self._path}/{name}", {"gracePeriodSeconds": grace_s})


def _found(pod: Pod) -> Found:
    return Found(pod.name, created_at=pod.created_at, ends_at=manifest.ends_at(pod.metadata.labels), ending=pod.ending)
