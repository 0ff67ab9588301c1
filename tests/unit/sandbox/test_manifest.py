"""What a sandbox's pod says to others of the cluster."""

from sandbox.config import KubernetesSettings
from sandbox.kubernetes import manifest
from sandbox.types import SandboxSpec

SETTINGS = KubernetesSettings(namespace="sandboxes", agent_image="sandboxd:1")
UNMOVED = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def test_no_autoscaler_ends_a_sandbox_because_its_node_is_little_used() -> None:
    pod = manifest.pod(SandboxSpec(), SETTINGS, name="one", service="tests", now=0.0)
    for made in (pod, manifest.template(SandboxSpec(), SETTINGS)):
        metadata = made["metadata"]
        assert isinstance(metadata, dict)
        assert metadata["annotations"] == UNMOVED
