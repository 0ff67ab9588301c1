"""A namespace of sandboxes on the tests' own cluster, with everything that keeps one."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import ClusterError
from deploy.images.build import SANDBOXD, TASK
from sandbox.config import KubernetesSettings
from sandbox.kubernetes import manifest
from sandbox.kubernetes.fences import Bounds, Executors, fences
from sandbox.types import SandboxSpec

EXECUTORS = Executors(namespace="default", account="executor")


@contextmanager
def namespace(cluster: Cluster, bounds: Bounds | None = None, **settings: object) -> Iterator[KubernetesSettings]:
    """Set one up with these settings; it goes with all its pods, which is not waited for."""
    name = f"sandboxes-{secrets.token_hex(4)}"
    given: dict[str, object] = {
        "namespace": name,
        "kubeconfig": cluster.kubeconfig,
        "agent_image": SANDBOXD,
        "host_image": TASK,
    }
    # A small node shall hold many of them.
    given |= {"pull_policy": "Never", "cpu_request": 0.2}
    outside = (f"tcp:{cluster.layout.host}:22", f"udp:{cluster.layout.host}:53")
    made = KubernetesSettings.model_validate({**given, "outside": outside, **settings})
    objects = fences(made, EXECUTORS, bounds)
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    _wait_for_policy(cluster, made)
    with _controller(cluster, made) if made.provider == "claims" else nullcontext():
        yield made
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    policy = f"mimo-sandbox-{name}"
    cluster.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", policy, "--wait=false")


@contextmanager
def _controller(cluster: Cluster, settings: KubernetesSettings) -> Iterator[None]:
    """What gives the claims of a namespace their pods."""
    command = [sys.executable, "-m", "sandbox.testing.agent_sandbox"]
    command += [f"--kubeconfig={cluster.kubeconfig}", f"--namespace={settings.namespace}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == b"ready\n"
        yield
        assert controller.stdin is not None
        controller.stdin.close()


def _wait_for_policy(cluster: Cluster, settings: KubernetesSettings) -> None:
    """The server takes a moment to mind a new policy."""
    pod = manifest.pod(SandboxSpec(), settings, name="tried", service="tests", now=0.0)
    pod["metadata"] = {"name": "tried", "namespace": settings.namespace}  # without the label of a sandbox
    for _ in range(200):
        try:
            cluster.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))
        except ClusterError as refusal:
            if "a sandbox's pod must have" in str(refusal):
                return
    raise AssertionError(f"the policy of {settings.namespace} does not come into force")
