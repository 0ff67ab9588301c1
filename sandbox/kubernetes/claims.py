"""Pods from the agent-sandbox controller (sigs.k8s.io/agent-sandbox, API version v1beta1 of its extensions).

A claim names a warm pool, and that a template: what every pod of one kind is. The controller gives the claim a pod that
it holds ready, or makes one, and ends it with the claim. Of each kind we make the template and the pool when it is
first asked for; their names say what they are, so that every service means the same by them. What differs from one
sandbox to the next is on the claim: whose it is, and its lifetime. The controller lets no claim set a label of a pod
(but with domains that its operator allows), so an annotation says which claim a pod is for.

The controller makes a new pod for a claim whose pod was deleted. That one is nobody's, for a sandbox that is over stays
over, and goes with the claim.
"""

import math
import time
from collections.abc import Callable, Sequence

from sandbox.config import KubernetesSettings
from sandbox.inventory import Found
from sandbox.kubernetes import claim_manifest, manifest
from sandbox.kubernetes.claim import Claim, Pool
from sandbox.kubernetes.claim_manifest import FOR_CLAIM, VERSION
from sandbox.kubernetes.cluster import Cluster, Refusal
from sandbox.kubernetes.following import Following
from sandbox.kubernetes.pod import Pod
from sandbox.kubernetes.provider import Held
from sandbox.kubernetes.state import Cause, PodState
from sandbox.kubernetes.watch import Watch, list_objects
from sandbox.types import SandboxSpec

_BELIEVED_S = 60.0
"""A kind that was there is not asked for again for so long."""
_UNUSED_S = 24 * 3600.0
_STRICT = {"fieldValidation": "Strict"}
"""A controller that does not know one of our fields shall say so, not leave it out."""


class Claims:
    """The claims of one service."""

    def __init__(
        self, cluster: Cluster, settings: KubernetesSettings, service: str, now: Callable[[], float] = time.time
    ) -> None:
        self.following = Following()
        self._cluster = cluster
        self._settings = settings
        self._service = service
        self._now = now
        self._objects = f"/apis/{VERSION}/namespaces/{settings.namespace}"
        self._claims = f"{self._objects}/sandboxclaims"
        self._kinds: dict[str, float] = {}
        """When each was last known to be there."""
        pods = f"/api/v1/namespaces/{settings.namespace}/pods"
        claimed = f"{manifest.LABEL}={manifest.CLAIMED}"
        self._watches = (
            Watch(cluster, self._claims, f"{manifest.SERVICE_LABEL}={service}", Claim, self.following),
            # Why it does not start or is over, only the pod itself says.
            Watch(cluster, pods, claimed, Pod, self.following, stands_for=_claim_of, last=False),
        )

    async def ask_for(self, name: str, spec: SandboxSpec, *, again: bool = True) -> None:
        warm = self._settings.warm if again else 0
        kind = await self._kind(spec, warm)
        wanted = claim_manifest.claim(
            spec, self._settings, name=name, kind=kind, service=self._service, now=self._now()
        )
        await self._cluster.ask("POST", self._claims, _STRICT, body=wanted)
        while (await self.following.until(name, _is_answered)).cause is Cause.NO_KIND:
            self._kinds.pop(kind, None)  # another service took it for unused
            await self._kind(spec, warm)
            await self.following.until(name, lambda state: state.cause is not Cause.NO_KIND)

    async def end(self, name: str) -> bool:
        """The claim goes when its pod is gone."""
        return await self._cluster.delete(f"{self._claims}/{name}", {"propagationPolicy": "Foreground"})

    async def give_up(self, name: str) -> None:
        """The pod is the controller's, and goes with its node."""

    async def held(self) -> Sequence[Held]:
        return [Held(_found(each), each.state().over) for each in await self._all()]

    async def tidy(self) -> None:
        """Remove the kinds that no claim names and that are a day old."""
        self._kinds = {kind: known for kind, known in self._kinds.items() if self._is_known(kind)}
        pools, _ = await list_objects(self._cluster, f"{self._objects}/sandboxwarmpools", manifest.POOL_LABEL, Pool)
        needed = {each.kind for each in await self._all()} | set(self._kinds)
        for pool in pools:
            if pool.name not in needed and self._now() > pool.created_at + _UNUSED_S:
                for objects in ("sandboxwarmpools", "sandboxtemplates"):
                    await self._cluster.delete(f"{self._objects}/{objects}/{pool.name}", {})

    async def close(self) -> None:
        for watch in self._watches:
            await watch.close()

    async def _all(self) -> Sequence[Claim]:
        """Whoever's they are."""
        claims, _ = await list_objects(self._cluster, self._claims, manifest.LABEL, Claim)
        return claims

    async def _kind(self, spec: SandboxSpec, warm: int) -> str:
        """The name of what ``spec`` needs; it is there on return."""
        name, template, pool = claim_manifest.kind(spec, self._settings, warm)
        if not self._is_known(name):
            for objects, wanted in (("sandboxtemplates", template), ("sandboxwarmpools", pool)):
                try:
                    await self._cluster.ask("POST", f"{self._objects}/{objects}", _STRICT, body=wanted)
                except Refusal as error:
                    if error.reason != "AlreadyExists":
                        raise
            self._kinds[name] = time.monotonic()
        return name

    def _is_known(self, kind: str) -> bool:
        return time.monotonic() < self._kinds.get(kind, -math.inf) + _BELIEVED_S


def _is_answered(state: PodState) -> bool:
    return state.over or state.cause is not None or state.address is not None


def _claim_of(pod: Pod) -> str:
    return pod.metadata.annotations.get(FOR_CLAIM, "")


def _found(each: Claim) -> Found:
    return Found(
        each.name, created_at=each.created_at, ends_at=manifest.ends_at(each.metadata.labels), ending=each.ending
    )
