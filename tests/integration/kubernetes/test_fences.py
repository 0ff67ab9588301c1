"""The objects that keep a namespace of sandboxes, on a real API server: ours is let in, and nothing wider is."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import ClusterError
from sandbox.config import KubernetesSettings
from sandbox.kubernetes import manifest
from sandbox.kubernetes.fences import Bounds, Executors, fences
from sandbox.types import Resources, SandboxSpec
from tests.conformance.sandbox import pods
from tests.integration.kubernetes.conftest import MakeNamespace

SPEC = SandboxSpec(resources=Resources(memory_mib=64, processes=64, disk_mib=16))


Refusal = Callable[[KubernetesSettings, object], str]


@pytest.fixture
def refusal(cluster: Cluster) -> Refusal:
    """What the server says to a pod, which it is not to make in any case; "" where it would."""

    def refusal(settings: KubernetesSettings, pod: object) -> str:
        arguments = ("create", f"--namespace={settings.namespace}", "--dry-run=server", "--filename=-")
        try:
            cluster.kubectl(*arguments, stdin=json.dumps(pod))
        except ClusterError as error:
            return str(error)
        return ""

    return refusal


def _pod(settings: KubernetesSettings) -> Any:
    return manifest.pod(SPEC, settings, name="tried", service="tests", now=time.time())


@pytest.mark.parametrize("network", ["sealed", "fence", "policy"])
@pytest.mark.parametrize("profile", ["restricted", "root"])
def test_the_pods_we_make_are_let_in(
    make_namespace: MakeNamespace, refusal: Refusal, network: str, profile: str
) -> None:
    settings = make_namespace(network=network, profile=profile)
    assert refusal(settings, _pod(settings)) == ""


def _set(path: str, value: object) -> Callable[[Any], None]:
    """Change one field, such as ``spec.containers.0.image``."""

    def change(pod: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            pod = pod[int(step)] if step.isdigit() else pod.setdefault(step, {})
        if value is None:
            del pod[last]
        elif last == "+":
            pod.append(value)
        else:
            pod[last] = value

    return change


def _all(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(pod: Any) -> None:
        for each in changes:
            each(pod)

    return change


TASK, FIRST = "spec.containers.0", "spec.initContainers.0"
STRANGER = {"name": "stranger", "image": "mimo.local/task:1", "command": ["/bin/sh"]}
HOST_PATH = {"name": "host", "hostPath": {"path": "/"}}
TOKEN = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
WIDER = {
    "no label": _set("metadata.labels", {}),
    "the node's network": _set("spec.hostNetwork", True),
    "the node's processes": _set("spec.hostPID", True),
    "the node's memory segments": _set("spec.hostIPC", True),
    "one view of all processes": _set("spec.shareProcessNamespace", True),
    "another account": _set("spec.serviceAccountName", "default"),
    "a token": _set("spec.automountServiceAccountToken", True),
    "a token by a volume": _set("spec.volumes.+", TOKEN),
    "addresses of services": _set("spec.enableServiceLinks", True),
    "a second life": _set("spec.restartPolicy", "Always"),
    "no deadline": _set("spec.activeDeadlineSeconds", None),
    "a long grace": _set("spec.terminationGracePeriodSeconds", 600),
    "a priority of the cluster's own": _set("spec.priorityClassName", "system-node-critical"),
    "the cluster's names": _set("spec.dnsPolicy", "ClusterFirst"),
    "a folder of the node": _set("spec.volumes.+", HOST_PATH),
    "a volume without bound": _set("spec.volumes.+", {"name": "endless", "emptyDir": {}}),
    "no filter of system calls": _set("spec.securityContext.seccompProfile.type", "Unconfined"),
    "a filter of its own": _set(f"{TASK}.securityContext.seccompProfile", {"type": "Unconfined"}),
    "no AppArmor": _set("spec.securityContext.appArmorProfile", {"type": "Unconfined"}),
    "the superuser": _set("spec.securityContext.runAsUser", 0),
    "the superuser in a container": _set(f"{TASK}.securityContext.runAsUser", 0),
    "a root that can be written": _set(f"{TASK}.securityContext.readOnlyRootFilesystem", False),
    "a second container": _set("spec.containers.+", STRANGER),
    "another first process": _set(f"{TASK}.command", ["/bin/sh"]),
    "the message file at its usual place": _set(f"{TASK}.terminationMessagePath", "/dev/termination-log"),
    "new privileges": _set(f"{TASK}.securityContext.allowPrivilegeEscalation", True),
    "all privileges": _all(
        _set(f"{TASK}.securityContext.privileged", True),
        _set(f"{TASK}.securityContext.allowPrivilegeEscalation", None),
    ),
    "an unmasked /proc": _all(_set(f"{TASK}.securityContext.procMount", "Unmasked"), _set("spec.hostUsers", False)),
    "capabilities kept": _set(f"{TASK}.securityContext.capabilities.drop", ["NET_RAW"]),
    "a capability": _set(f"{TASK}.securityContext.capabilities.add", ["NET_ADMIN"]),
    "a port of the node": _set(f"{TASK}.ports", [{"containerPort": 1, "hostPort": 1}]),
    "memory without bound": _set(f"{TASK}.resources.limits.memory", None),
    "memory that is not reserved": _set(f"{TASK}.resources.requests.memory", "1Mi"),
    "no reserved processor": _set(f"{TASK}.resources.requests.cpu", None),
    "a stranger first": _set("spec.initContainers.+", STRANGER),
    "a stranger by our name": _set(f"{FIRST}.image", "mimo.local/task:1"),
    "something else by our name": _set(f"{FIRST}.command", ["/bin/sh"]),
    "another capability for the fence": _set(f"{FIRST}.securityContext.capabilities.add", ["NET_ADMIN", "SYS_ADMIN"]),
}


@pytest.mark.parametrize("wider", WIDER)
def test_a_pod_with_more_than_the_profile_gives_is_refused(
    fenced: KubernetesSettings, refusal: Refusal, wider: str
) -> None:
    pod = _pod(fenced)
    WIDER[wider](pod)
    assert "a sandbox's pod must have" in refusal(fenced, pod)


def test_only_pods_of_the_runtime_class_are_let_in_where_one_is_set(
    cluster: Cluster, make_namespace: MakeNamespace, refusal: Refusal
) -> None:
    for name in ("apart", "other"):
        cluster.apply(
            {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "runc"}
        )
    settings = make_namespace(runtime_class="apart")
    assert refusal(settings, _pod(settings)) == ""
    for other in (None, "other"):
        said = refusal(settings, _pod(settings.model_copy(update={"runtime_class": other})))
        assert "a sandbox's pod must have the runtime class apart" in said


def test_no_fence_is_let_in_where_the_settings_ask_for_none(sealed: KubernetesSettings, refusal: Refusal) -> None:
    assert "violates PodSecurity" in refusal(sealed, _pod(sealed.model_copy(update={"network": "fence"})))


def test_only_images_of_the_registry_by_digest_are_let_in_where_that_is_asked(
    make_namespace: MakeNamespace, refusal: Refusal
) -> None:
    settings = make_namespace(bounds=Bounds(registry="registry.example/tasks/"), host_image=_by_digest("tasks"))

    def refused(image: str) -> str:
        return refusal(settings, _pod(settings.model_copy(update={"host_image": image})))

    assert "an image of registry.example/tasks/, by digest" in refused("registry.example/tasks/one:1")
    assert "an image of registry.example/tasks/, by digest" in refused(_by_digest("others"))
    assert refused(_by_digest("tasks")) == ""


def _by_digest(folder: str) -> str:
    return f"registry.example/{folder}/one@sha256:{'0' * 64}"


def test_executors_may_make_and_end_pods_and_nothing_else(cluster: Cluster, fenced: KubernetesSettings) -> None:
    who = f"--as=system:serviceaccount:{pods.EXECUTORS.namespace}:{pods.EXECUTORS.account}"
    listed = cluster.kubectl("auth", "can-i", "--list", "--no-headers", f"--namespace={fenced.namespace}", who)
    about_itself = tuple(f"selfsubject{what}reviews" for what in ("", "access", "rules"))
    lines = [line for line in listed.splitlines() if not line.startswith((" ", *about_itself))]
    may = {line.split()[0]: line.rpartition("[")[2] for line in lines}
    assert may == {"pods": "create delete list watch]", "events": "list]"}


def test_what_keeps_a_namespace_is_the_same_whenever_the_settings_are() -> None:
    settings, executors = KubernetesSettings(), Executors(namespace="mimo", account="executor")
    first, second = fences(settings, executors), fences(settings, executors)
    assert first == second
    assert [each["kind"] for each in first] == [
        "Namespace", "ServiceAccount", "ResourceQuota", "LimitRange", "NetworkPolicy", "NetworkPolicy", "Role",
        "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
    ]  # fmt: skip
