"""What the agent-sandbox controller does for claims, as far as we rely on it.

Whatever changes, everything is looked at anew. What belongs to an object that was deleted, the cluster's own garbage
collector removes.
"""

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox.errors import SandboxError
from sandbox.kubernetes.cluster import Cluster, Refusal
from sandbox.testing.agent_sandbox.definitions import CORE, EXTENSIONS, VERSION

Item = dict[str, Any]
"""An object as the API server gives it."""

CLAIM_LABEL = f"{CORE}/claim-uid"
_LOOK_S = 1.0
"""Also without any change: times pass, and what was refused may be admitted."""


class Controller:
    """Of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        extensions = f"/apis/{EXTENSIONS}/{VERSION}/namespaces/{namespace}"
        self._claims = f"{extensions}/sandboxclaims"
        self._pools = f"{extensions}/sandboxwarmpools"
        self._templates = f"{extensions}/sandboxtemplates"
        self._sandboxes = f"/apis/{CORE}/{VERSION}/namespaces/{namespace}/sandboxes"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as listening:
            for path in (self._claims, self._pools, self._templates, self._sandboxes, self._pods):
                listening.create_task(self._listen(path))
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._changed.wait()
                self._changed.clear()
                with contextlib.suppress(Refusal, SandboxError):  # it is looked at again
                    await self._look()

    async def _listen(self, path: str) -> None:
        while True:
            with contextlib.suppress(ConnectionError):
                async with self._cluster.watch(path) as lines:
                    async for _ in lines:
                        self._changed.set()
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        paths = (self._claims, self._pools, self._templates, self._sandboxes, self._pods)
        there = There(*await asyncio.gather(*(self._list(path) for path in paths)))
        for claim in there.claims:
            if claim["spec"].get("lifecycle", {}).get("shutdownTime", "9") <= _now():
                await self._cluster.ask("DELETE", f"{self._claims}/{_name(claim)}")
            elif not there.of(claim):
                await self._bind(claim, there)
        for pool in there.pools:
            await self._fill(pool, there)
        await asyncio.gather(*(self._run_pod(sandbox, there) for sandbox in there.sandboxes))
        for claim in there.claims:
            for sandbox in there.of(claim):
                said = sandbox.get("status", {})
                ips = said.get("podIPs", [])
                sandbox_of = {"name": _name(sandbox), **({"podIPs": ips} if ips else {})}
                await self._say(self._claims, claim, {"conditions": said.get("conditions", []), "sandbox": sandbox_of})

    async def _bind(self, claim: Item, there: "There") -> None:
        """Give the claim a sandbox: one of its pool that is ready, or a new one."""
        pool = there.named(there.pools, claim["spec"]["warmPoolRef"]["name"])
        template = pool and there.named(there.templates, pool["spec"]["sandboxTemplateRef"]["name"])
        if pool is None or template is None:
            what = "WarmPoolNotFound" if pool is None else "TemplateNotFound"
            await self._say(self._claims, claim, {"conditions": [_condition("Ready", False, what, "not there")]})
            return
        about = {"ownerReferences": [_belongs_to(claim)], "labels": {CLAIM_LABEL: _uid(claim)}}
        annotations = claim["spec"].get("additionalPodMetadata", {}).get("annotations", {})
        ready = [each for each in there.of(pool) if _is_ready(each)]
        if ready:
            change = {"metadata": about, "spec": {"podTemplate": {"metadata": {"annotations": annotations}}}}
            path = f"{self._sandboxes}/{_name(ready[0])}"
            there.replace(ready[0], json.loads(await self._cluster.ask("PATCH", path, body=change)))
            return
        await self._make(_name(claim), about, template, annotations, there)

    async def _fill(self, pool: Item, there: "There") -> None:
        members, template = there.of(pool), there.named(there.templates, pool["spec"]["sandboxTemplateRef"]["name"])
        for _ in range(pool["spec"]["replicas"] - len(members) if template else 0):
            about = {"ownerReferences": [_belongs_to(pool)]}
            await self._make(f"{_name(pool)}-{secrets.token_hex(3)}", about, template or {}, {}, there)
        num_ready = sum(map(_is_ready, members))
        await self._say(self._pools, pool, {"replicas": len(members), "readyReplicas": num_ready})

    async def _make(self, name: str, about: Item, template: Item, annotations: Item, there: "There") -> None:
        pod = template["spec"]["podTemplate"]
        sandbox = {
            "apiVersion": f"{CORE}/{VERSION}",
            "kind": "Sandbox",
            "metadata": {"name": name, **about},
            "spec": {"podTemplate": {**pod, "metadata": {**pod.get("metadata", {}), "annotations": annotations}}},
        }
        there.sandboxes.append(json.loads(await self._cluster.ask("POST", self._sandboxes, body=sandbox)))

    async def _run_pod(self, sandbox: Item, there: "There") -> None:
        """See that the sandbox has its pod, and say how that is."""
        pod = there.named(there.pods, _name(sandbox))
        said: Item = {
            "podIPs": [],
            "conditions": [_condition("Ready", False, "DependenciesNotReady", "Pod does not exist")],
        }
        wanted = sandbox["spec"]["podTemplate"]
        labels = {**wanted["metadata"].get("labels", {}), **_claim_label(sandbox)}
        about = {"labels": labels, "annotations": wanted["metadata"].get("annotations", {})}
        if pod is None:
            body = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": _name(sandbox), "ownerReferences": [_belongs_to(sandbox)], **about},
                "spec": wanted["spec"],
            }
            try:
                await self._cluster.ask("POST", self._pods, {"fieldValidation": "Strict"}, body=body)
            except Refusal as error:
                said["conditions"] = [_condition("Ready", False, "ReconcilerError", f"Error seen: {error}")]
        else:
            if any(not about[part].items() <= pod["metadata"].get(part, {}).items() for part in about):
                await self._cluster.ask("PATCH", f"{self._pods}/{_name(pod)}", body={"metadata": about})
            said = _said_of(pod)
        await self._say(self._sandboxes, sandbox, said)

    async def _say(self, path: str, item: Item, status: Item) -> None:
        before = item.get("status", {})
        if _without_times(before) != _without_times(status):
            item["status"] = status
            await self._cluster.ask("PATCH", f"{path}/{_name(item)}/status", body={"status": status})

    async def _list(self, path: str) -> list[Item]:
        items: list[Item] = json.loads(await self._cluster.ask("GET", path))["items"]
        return [each for each in items if "deletionTimestamp" not in each["metadata"]]


@dataclass(frozen=True, slots=True)
class There:
    """All objects of the namespace that are not being deleted."""

    claims: list[Item]
    pools: list[Item]
    templates: list[Item]
    sandboxes: list[Item]
    pods: list[Item]

    def of(self, owner: Item) -> list[Item]:
        return [each for each in self.sandboxes if each["metadata"]["ownerReferences"][0]["uid"] == _uid(owner)]

    def named(self, among: list[Item], name: str) -> Item | None:
        return next((each for each in among if _name(each) == name), None)

    def replace(self, old: Item, new: Item) -> None:
        self.sandboxes[self.sandboxes.index(old)] = new


def _name(item: Item) -> str:
    return str(item["metadata"]["name"])


def _uid(item: Item) -> str:
    return str(item["metadata"]["uid"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _belongs_to(owner: Item) -> Item:
    named = {key: owner[key] for key in ("apiVersion", "kind")}
    return {**named, "name": _name(owner), "uid": _uid(owner), "controller": True, "blockOwnerDeletion": True}


def _claim_label(sandbox: Item) -> Item:
    return {key: value for key, value in sandbox["metadata"].get("labels", {}).items() if key == CLAIM_LABEL}


def _is_ready(sandbox: Item) -> bool:
    conditions = sandbox.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _said_of(pod: Item) -> Item:
    """What a sandbox says of its pod."""
    status = pod["status"]
    addresses = [each["ip"] for each in status.get("podIPs", [])]
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))
    phase = status.get("phase", "Pending")
    conditions = [
        _condition("Ready", ready, "DependenciesReady" if ready else "DependenciesNotReady", f"Pod is {phase}")
    ]
    if phase in ("Succeeded", "Failed"):
        conditions.append(_condition("Finished", True, f"Pod{phase}", f"Pod has {phase.lower()}"))
    return {"podIPs": addresses, "conditions": conditions}


def _condition(kind: str, status: bool, reason: str, message: str) -> Item:
    said = {"type": kind, "status": str(status), "reason": reason, "message": message[:1000]}
    return {**said, "lastTransitionTime": _now()}


def _without_times(status: Item) -> Item:
    conditions = [{**each, "lastTransitionTime": ""} for each in status.get("conditions", [])]
    return {**status, "conditions": conditions}
