"""What a sandbox's pod is: a pure function of what was asked for and what the operator set."""

import hashlib
import math
from collections.abc import Mapping

from sandbox.config import KubernetesSettings
from sandbox.types import NetworkMode, SandboxSpec

Manifest = dict[str, object]
"""An object as the API server takes it."""

LABEL = "mimo.sandbox"
"""On every pod of ours: when its lifetime is over, in seconds since 1970."""
SERVICE_LABEL = "mimo.sandbox.service"
"""Which service made it; another id for each start."""
POOL_LABEL = "mimo.sandbox.pool"
"""Pods of the same key can stand for each other."""
CLAIMED = "claimed"
"""The value of ``LABEL`` on pods that a controller makes: what they are for, and how long, says their claim."""
TASK = "sandbox"
FENCE = "fence"
INSTALL = "install"
"""Names of first containers, and what sandboxd does in them."""
FENCE_CAPABILITIES = ("NET_ADMIN", "SETGID", "SETUID")
"""To close the network, and then to become an ordinary user."""
PROGRAM = "/sandboxd/sandboxd"
"""Where sandboxd is in the task's container."""
IN_ITS_IMAGE = "/sandboxd"
CLOSED_LOG = "/sandboxd/closed/log"
"""The place of the cluster's message file, which has no bound: nobody may enter it (``sandboxd/install.go``)."""
UNMOVED = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations: those who take nodes away because they are little used wait until the sandbox has ended."""
GRACE_S = 1
UNCLAIMED_S = 600
HELD_READY_S = 24 * 3600
"""So long a pod waits for a claim."""
ROOT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
"""What the superuser of a user namespace keeps."""
FOLDERS = {"/workspace": "workspace", "/tmp": "tmp", "/var/tmp": "var-tmp", "/home/sandbox": "home", "/dev/shm": "shm"}  # noqa: S108
"""What commands may write -> its folder on the sandbox's disk."""

_LATE_S = 60
"""A pod that its own program did not end is ended by its node, so much later."""
_OUR_MEMORY_MIB = 32
_PROGRAM_MIB = 16
_LOGS_MIB = 16
_OUR_PROCESSES = 48
"""Threads of sandboxd, and what waits to become commands."""
_SHARED_UID = 1000
_FIRST_UID = 1_000_000
_NUM_UIDS = 1_000_000
"""All small enough for every format of archives. Two pods of one node seldom have the same; they then share a bound."""
_NODE_AWAY_S = 30
"""After which the pods of a node that is not heard of are given up."""


def pod(spec: SandboxSpec, settings: KubernetesSettings, *, name: str, service: str, now: float) -> Manifest:
    """The pod of one sandbox.

    Args:
        service: id of who makes it.
        now: seconds since 1970.
    """
    content = _content(spec, settings, settings.uid or _own_uid(name), UNCLAIMED_S)
    metadata = about(spec, settings, name=name, service=service, now=now) | {"annotations": UNMOVED}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": content}


def template(spec: SandboxSpec, settings: KubernetesSettings) -> Manifest:
    """The pods of all sandboxes that can stand for each other, as a controller makes them.

    They are one user, and their nodes' deadline is that of the longest whose lifetime ends in the same hour.
    """
    uid = settings.uid or _SHARED_UID
    shared = settings.model_copy(update={"uid": uid})
    hours = math.ceil(spec.lifetime_s / 3600)
    longest = spec.model_copy(update={"lifetime_s": hours * 3600.0 + HELD_READY_S})
    content = _content(longest, shared, uid, HELD_READY_S)
    labels = {LABEL: CLAIMED, POOL_LABEL: pool_key(spec, settings)}
    return {"metadata": {"labels": labels, "annotations": UNMOVED}, "spec": content}


def about(spec: SandboxSpec, settings: KubernetesSettings, *, name: str, service: str, now: float) -> Manifest:
    """The metadata of the object that stands for one sandbox; the arguments are those of :func:`pod`."""
    labels = {
        LABEL: str(math.ceil(now + spec.lifetime_s)),
        SERVICE_LABEL: service,
        POOL_LABEL: pool_key(spec, settings),
    }
    return {"name": name, "namespace": settings.namespace, "labels": labels}


def ends_at(labels: Mapping[str, str]) -> float:
    """When a sandbox's lifetime is over, as its labels say, in seconds since 1970."""
    ends = labels.get(LABEL, "")
    return float(ends) if ends.isdigit() else 0.0


def image(spec: SandboxSpec, settings: KubernetesSettings) -> str:
    """The image that nodes know; "" where ``host`` means none."""
    return (settings.host_image or "") if spec.image == "host" else spec.image


def pool_key(spec: SandboxSpec, settings: KubernetesSettings) -> str:
    asked = (image(spec, settings), spec.resources.model_dump_json(), spec.network)
    parts = (*asked, settings.profile, settings.network, str(settings.runtime_class))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _content(spec: SandboxSpec, settings: KubernetesSettings, uid: int, unclaimed_s: int) -> Manifest:
    uid = 0 if settings.profile == "root" else uid
    content: Manifest = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": math.ceil(spec.lifetime_s + settings.start_timeout_s) + _LATE_S,
        "terminationGracePeriodSeconds": GRACE_S,
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostname": "sandbox",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},  # one must be named; nobody listens there
        "securityContext": _pod_security(uid),
        "nodeSelector": settings.node_selector,
        "tolerations": [
            *({"key": taint, "operator": "Exists"} for taint in settings.tolerations),
            *(_tolerated(f"node.kubernetes.io/{trouble}") for trouble in ("not-ready", "unreachable")),
        ],
        "volumes": [_volume("program", _PROGRAM_MIB, ""), _volume("disk", spec.resources.disk_mib, _medium(settings))],
        "initContainers": [_first_container(spec, settings, uid)],
        "containers": [_task_container(spec, settings, unclaimed_s)],
    }
    if settings.profile == "root":
        content["hostUsers"] = False
    if settings.runtime_class is not None:
        content["runtimeClassName"] = settings.runtime_class
    if settings.priority_class is not None:
        content["priorityClassName"] = settings.priority_class
    return content


def _task_container(spec: SandboxSpec, settings: KubernetesSettings, unclaimed_s: int) -> Manifest:
    serve = ["serve", "--tcp", f":{settings.port}", "--unclaimed", f"{unclaimed_s}s", "--image-variables"]
    if settings.uid is None or settings.profile == "root":  # else others on its node are this user, too
        serve += ["--processes", str(spec.resources.processes + _OUR_PROCESSES)]
    if spec.network is NetworkMode.PROXY:
        serve += ["--lent-egress"]
    disk = [{"name": "disk", "mountPath": place, "subPath": folder} for place, folder in FOLDERS.items()]
    return {
        "name": TASK,
        "image": image(spec, settings),
        "imagePullPolicy": settings.pull_policy,
        "command": [PROGRAM, *serve],
        "workingDir": "/",
        "terminationMessagePath": CLOSED_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _security(settings, ROOT_CAPABILITIES if settings.profile == "root" else ()),
        "resources": _resources(spec, settings),
        "volumeMounts": [{"name": "program", "mountPath": "/sandboxd", "readOnly": True}, *disk],
    }


def _first_container(spec: SandboxSpec, settings: KubernetesSettings, uid: int) -> Manifest:
    """Brings sandboxd and makes the folders; where the network is fenced, does that before."""
    command = ["--program", "/program", "--disk", "/disk"]
    security = _security(settings, ())
    if settings.network == "fence":
        user = ["--user", f"{uid}:{uid}"] if uid else []
        command = [FENCE, "--port", str(settings.port), *user, "--", *command]
        security = _security(settings, FENCE_CAPABILITIES) | {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}
    else:
        command = [INSTALL, *command]
    return {
        "name": command[0],
        "image": settings.agent_image,
        "imagePullPolicy": settings.pull_policy,
        "command": [IN_ITS_IMAGE, *command],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": security,
        "resources": _resources(spec, settings),
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("program", "disk")],
    }


def _own_uid(name: str) -> int:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return _FIRST_UID + number % _NUM_UIDS


def _pod_security(uid: int) -> Manifest:
    return {
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": uid != 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _security(settings: KubernetesSettings, capabilities: tuple[str, ...]) -> Manifest:
    added: Mapping[str, object] = {"add": list(capabilities)} if capabilities else {}
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": settings.profile == "restricted",
        "capabilities": {"drop": ["ALL"], **added},
    }


def _resources(spec: SandboxSpec, settings: KubernetesSettings) -> Manifest:
    in_memory, on_node = (spec.resources.disk_mib, 0) if settings.disk == "memory" else (0, spec.resources.disk_mib)
    bounds = {
        "memory": f"{spec.resources.memory_mib + in_memory + _OUR_MEMORY_MIB}Mi",
        "ephemeral-storage": f"{on_node + _PROGRAM_MIB + _LOGS_MIB}Mi",
    }
    limits = bounds | ({} if settings.cpus is None else {"cpu": _cpu(settings.cpus)})
    return {"requests": bounds | {"cpu": _cpu(settings.cpu_request)}, "limits": limits}


def _cpu(count: float) -> str:
    return f"{math.ceil(count * 1000)}m"


def _medium(settings: KubernetesSettings) -> str:
    return "Memory" if settings.disk == "memory" else ""


def _volume(name: str, size_mib: int, medium: str) -> Manifest:
    return {"name": name, "emptyDir": {"sizeLimit": f"{size_mib}Mi", **({"medium": medium} if medium else {})}}


def _tolerated(taint: str) -> Manifest:
    return {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _NODE_AWAY_S}
