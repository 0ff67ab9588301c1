"""What keeps a namespace of sandboxes: pure functions that give the objects, for whoever sets one up.

Several of them say the same as ``manifest``, on purpose: they stand against our own mistakes, and against whoever gets
hold of an account that may make pods there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sandbox.config import KubernetesSettings
from sandbox.kubernetes.claim_manifest import EXTENSIONS
from sandbox.kubernetes.manifest import (
    CLOSED_LOG,
    FENCE,
    FENCE_CAPABILITIES,
    GRACE_S,
    IN_ITS_IMAGE,
    INSTALL,
    LABEL,
    PROGRAM,
    ROOT_CAPABILITIES,
    TASK,
    Manifest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executors:
    """Who may make sandboxes and speak to them."""

    namespace: str
    account: str
    """Service account of the executors, in their namespace."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of their pods; empty: every pod of their namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What all sandboxes together, and each one, may take."""

    pods: int = 250
    memory_mib: int = 512 * 1024
    cpus: int = 64
    """Processors that are reserved, all together."""
    pod_memory_mib: int = 32 * 1024
    registry: str = ""
    """What the name of every task image begins with, and images must be named by digest; empty: any image."""


def fences(settings: KubernetesSettings, executors: Executors, bounds: Bounds | None = None) -> list[Manifest]:
    """The objects, in the order in which they can be applied."""
    bounds = bounds or Bounds()
    return [
        _namespace(settings),
        _account(settings),
        _quota(settings, bounds),
        _limits(settings, bounds),
        _nobody(settings),
        _only_executors(settings, executors),
        _role(settings),
        _role_binding(settings, executors),
        _policy(settings, bounds),
        _policy_binding(settings),
    ]


def pod_security(settings: KubernetesSettings) -> str:
    """The strictest Pod Security level that admits our pods; what it leaves open, the admission policy closes."""
    if settings.network == "fence":
        return "privileged"  # for CAP_NET_ADMIN of one first container
    return "baseline" if settings.profile == "root" else "restricted"


def rules(provider: Literal["pods", "claims"]) -> list[Manifest]:
    """What executors may do in the namespace."""
    made, kept = ["create", "delete", "list", "watch"], ["create", "delete", "list"]
    events: Manifest = {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]}
    if provider == "pods":
        return [{"apiGroups": [""], "resources": ["pods"], "verbs": made}, events]
    return [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        events,
        {"apiGroups": [EXTENSIONS], "resources": ["sandboxclaims"], "verbs": made},
        {"apiGroups": [EXTENSIONS], "resources": ["sandboxtemplates", "sandboxwarmpools"], "verbs": kept},
    ]


def _namespace(settings: KubernetesSettings) -> Manifest:
    labels = {"pod-security.kubernetes.io/enforce": pod_security(settings)}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": settings.namespace, "labels": labels}}


def _account(settings: KubernetesSettings) -> Manifest:
    return _object(settings, "v1", "ServiceAccount", settings.service_account, automountServiceAccountToken=False)


def _quota(settings: KubernetesSettings, bounds: Bounds) -> Manifest:
    hard = {
        "pods": str(bounds.pods),
        "requests.cpu": str(bounds.cpus),
        "requests.memory": f"{bounds.memory_mib}Mi",
        "services": "0",
        "persistentvolumeclaims": "0",
    }
    return _object(settings, "v1", "ResourceQuota", "sandboxes", spec={"hard": hard})


def _limits(settings: KubernetesSettings, bounds: Bounds) -> Manifest:
    limit = {"type": "Pod", "max": {"memory": f"{bounds.pod_memory_mib}Mi"}}
    return _object(settings, "v1", "LimitRange", "sandboxes", spec={"limits": [limit]})


def _nobody(settings: KubernetesSettings) -> Manifest:
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return _object(settings, "networking.k8s.io/v1", "NetworkPolicy", "nobody", spec=spec)


def _only_executors(settings: KubernetesSettings, executors: Executors) -> Manifest:
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": executors.namespace}},
        "podSelector": {"matchLabels": executors.labels},
    }
    rule = {"from": [peer], "ports": [{"protocol": "TCP", "port": settings.port}]}
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}
    return _object(settings, "networking.k8s.io/v1", "NetworkPolicy", "executors", spec=spec)


def _role(settings: KubernetesSettings) -> Manifest:
    return _object(settings, "rbac.authorization.k8s.io/v1", "Role", "sandboxes", rules=rules(settings.provider))


def _role_binding(settings: KubernetesSettings, executors: Executors) -> Manifest:
    return _object(
        settings,
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        "sandboxes",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sandboxes"},
        subjects=[{"kind": "ServiceAccount", "name": executors.account, "namespace": executors.namespace}],
    )


def _policy(settings: KubernetesSettings, bounds: Bounds) -> Manifest:
    rules = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}
        for resource in ("pods", "pods/ephemeralcontainers")
    ]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": _policy_name(settings)},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules},
            "variables": [
                {
                    "name": "every",
                    "expression": "object.spec.containers + "
                    "(has(object.spec.initContainers) ? object.spec.initContainers : [])",
                },
                {
                    "name": "held",
                    "expression": "variables.every.filter(c, has(c.securityContext) && "
                    "has(c.securityContext.capabilities) && has(c.securityContext.capabilities.drop))",
                },
            ],
            "validations": [
                {"expression": expression, "message": f"a sandbox's pod must have {message}"}
                for message, expression in _demands(settings, bounds)
            ],
        },
    }


def _policy_binding(settings: KubernetesSettings) -> Manifest:
    here = {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}}
    name = _policy_name(settings)
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": here}},
    }


def _policy_name(settings: KubernetesSettings) -> str:
    """It is no object of the namespace, so its name says which one it is for."""
    return f"mimo-sandbox-{settings.namespace}"


def _demands(settings: KubernetesSettings, bounds: Bounds) -> Iterator[tuple[str, str]]:
    """What every pod must have -> whether it has, in the language of admission policies (CEL)."""
    spec = "object.spec"
    yield "the label of a sandbox", f"has(object.metadata.labels) && '{LABEL}' in object.metadata.labels"
    for shared in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        yield f"{shared} off", f"!has({spec}.{shared}) || !{spec}.{shared}"
    yield "the sandboxes' own account", f"{spec}.serviceAccountName == '{settings.service_account}'"
    for offered in ("automountServiceAccountToken", "enableServiceLinks"):
        yield f"{offered} off", f"has({spec}.{offered}) && !{spec}.{offered}"
    yield "no second life", f"{spec}.restartPolicy == 'Never' && has({spec}.activeDeadlineSeconds)"
    yield "a short grace", f"{spec}.terminationGracePeriodSeconds <= {GRACE_S}"
    yield "no names looked up", f"{spec}.dnsPolicy == 'None'"
    yield (
        "empty volumes of bounded size",
        (f"has({spec}.volumes) && {spec}.volumes.all(v, has(v.emptyDir) && has(v.emptyDir.sizeLimit))"),
    )
    yield (
        "no priority of the cluster's own",
        f"!has({spec}.priorityClassName) || !{spec}.priorityClassName.startsWith('system-')",
    )
    if settings.runtime_class is not None:
        name = settings.runtime_class
        yield f"the runtime class {name}", f"has({spec}.runtimeClassName) && {spec}.runtimeClassName == '{name}'"
    yield from _user_demands(settings)
    yield from _container_demands(settings, bounds)
    yield from _first_container_demands(settings)


def _user_demands(settings: KubernetesSettings) -> Iterator[tuple[str, str]]:
    security = "object.spec.securityContext"
    yield (
        "the runtime's own filter of system calls",
        (f"has({security}.seccompProfile) && {security}.seccompProfile.type == 'RuntimeDefault'"),
    )
    yield (
        "no profile of AppArmor but the runtime's",
        (f"!has({security}.appArmorProfile) || {security}.appArmorProfile.type == 'RuntimeDefault'"),
    )
    others = f"variables.held.filter(c, c.name != '{FENCE}')"
    if settings.profile == "root":
        yield "a user namespace", "has(object.spec.hostUsers) && !object.spec.hostUsers"
    else:
        yield (
            "an ordinary user",
            (
                f"has({security}.runAsUser) && {security}.runAsUser > 0 && {security}.runAsNonRoot && "
                f"{others}.all(c, !has(c.securityContext.runAsUser) && !has(c.securityContext.runAsNonRoot))"
            ),
        )
        yield (
            "a read-only root",
            (
                "variables.held.all(c, has(c.securityContext.readOnlyRootFilesystem) && "
                "c.securityContext.readOnlyRootFilesystem)"
            ),
        )


def _container_demands(settings: KubernetesSettings, bounds: Bounds) -> Iterator[tuple[str, str]]:
    task, every, held = "object.spec.containers", "variables.every", "variables.held"
    yield "a security context in every container", f"size({held}) == size({every})"
    yield (
        "one container, which sandboxd serves",
        (
            f"size({task}) == 1 && {task}[0].name == '{TASK}' && {task}[0].command[0] == '{PROGRAM}' && "
            f"{task}[0].terminationMessagePath == '{CLOSED_LOG}' && !has(object.spec.ephemeralContainers)"
        ),
    )
    yield (
        "no privilege",
        (
            f"{held}.all(c, has(c.securityContext.allowPrivilegeEscalation) && "
            "!c.securityContext.allowPrivilegeEscalation && "
            "(!has(c.securityContext.privileged) || !c.securityContext.privileged) && "
            "(!has(c.securityContext.procMount) || c.securityContext.procMount == 'Default') && "
            "!has(c.securityContext.seccompProfile) && !has(c.securityContext.appArmorProfile))"
        ),
    )
    yield "all capabilities dropped", f"{held}.all(c, c.securityContext.capabilities.drop == ['ALL'])"
    allowed = list(ROOT_CAPABILITIES) if settings.profile == "root" else []
    yield (
        "no capability beside the profile's",
        (
            f"{task}.all(c, !has(c.securityContext.capabilities.add) || "
            f"c.securityContext.capabilities.add.all(each, each in {allowed}))"
        ),
    )
    yield "no port of its node", f"{every}.all(c, !has(c.ports) || c.ports.all(p, !has(p.hostPort)))"
    yield (
        "bounds, and its memory reserved",
        (
            f"{every}.all(c, has(c.resources.limits) && has(c.resources.requests) && 'cpu' in c.resources.requests && "
            "['memory', 'ephemeral-storage'].all(each, each in c.resources.limits && each in c.resources.requests && "
            "c.resources.limits[each] == c.resources.requests[each]))"
        ),
    )
    if bounds.registry:
        yield (
            f"an image of {bounds.registry}, by digest",
            (f"{task}.all(c, c.image.startsWith('{bounds.registry}') && c.image.contains('@sha256:'))"),
        )


def _first_container_demands(settings: KubernetesSettings) -> Iterator[tuple[str, str]]:
    """Ours and no other, and only the fence with capabilities."""
    first = "object.spec.initContainers"
    name, capabilities = (FENCE, list(FENCE_CAPABILITIES)) if settings.network == "fence" else (INSTALL, [])
    yield "our first container", f"has({first}) && {first}.map(c, c.name) == ['{name}']"
    yield (
        "our program in it",
        (
            f"{first}.all(c, c.image == '{settings.agent_image}' && c.command[0] == '{IN_ITS_IMAGE}' && "
            f"c.command[1] == '{name}' && !has(c.args) && !has(c.env) && !has(c.envFrom) && !has(c.lifecycle))"
        ),
    )
    yield (
        "no capability in it but the fence's",
        (
            f"variables.held.filter(c, c.name != '{TASK}').all(c, !has(c.securityContext.capabilities.add) || "
            f"c.securityContext.capabilities.add.all(each, each in {capabilities}))"
        ),
    )


def _object(settings: KubernetesSettings, version: str, kind: str, name: str, **content: object) -> Manifest:
    metadata = {"name": name, "namespace": settings.namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}
