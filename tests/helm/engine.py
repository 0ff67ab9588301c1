"""What releases of the tests have in place of SGLang, of GPUs and of the hub.

SGLang is the fake one, over the small model; it is started by the command line of the real one.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.cluster.cluster import Cluster

REPOSITORY, REVISION = "XiaomiMiMo/mimo-v2-nano", "0123456789abcdef0123456789abcdef01234567"
"""What the hub has, and nothing else."""
CHECKPOINT = "mimo-v2-nano"
GPU = "example.org/gpu"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
SMALL = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "256Mi"}}
_SHIPPED = f"/opt/mimo/model_server/checkpoints/{CHECKPOINT}"
_LAUNCH = """
import sys
from model_server.testing.__main__ import main
main([*sys.argv[1:], "--fake-model"])
"""
"""The module that is started as ``sglang.launch_server``."""
VOLUME = {"name": "engine", "configMap": {"name": "engine"}}
MOUNT = {"name": "engine", "mountPath": "/engine/sglang"}
PATHS = {"PYTHONPATH": "/engine:/opt/mimo"}
SGLANG: Mapping[str, Any] = {
    "image": {"registry": "docker.io", "repository": "mimo-coder/model-server", "tag": version("mimo-coder")},
    "settings": {"gpus": 1, "attention_groups": 1, "expert_exchange": "none", "context_length": 8192},
    "gpuResource": GPU,
    "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    "shmSize": "64Mi",
}
"""Values of ``modelServer.sglang``; beside them it needs ``VOLUME``, ``MOUNT`` and ``PATHS``."""
WEIGHTS: Mapping[str, Any] = {"path": CHECKPOINT, "repository": REPOSITORY, "size": "1Gi", "resources": SMALL}


def image(name: str) -> str:
    return f"mimo-coder/{name}:{version('mimo-coder')}"


def give_gpus(cluster: Cluster) -> None:
    """So many that every release of the tests has one."""
    node = cluster.kubectl("get", "nodes", "--selector=!type", "--output=name").strip()
    cluster.kubectl("patch", node, "--subresource=status", f'--patch={{"status":{{"capacity":{{"{GPU}":"8"}}}}}}')


def beside(namespace: str, kind: str, name: str, **parts: Any) -> dict[str, Any]:
    """An object that goes with a release."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **parts}


def engine(namespace: str) -> dict[str, Any]:
    return beside(namespace, "ConfigMap", "engine", data={"launch_server.py": _LAUNCH})


def hub(namespace: str) -> list[dict[str, Any]]:
    """Where weights come from, as http://hub.NAMESPACE.svc:8080."""
    program = Path(__file__).with_name("hub.py").read_text()
    command = ["python", "-c", program, _SHIPPED, REPOSITORY, REVISION]
    main = {"name": "hub", "image": image("model-server"), "imagePullPolicy": "Never", "command": command}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [{**main, "securityContext": RESTRICTED}]}
    pod = beside(namespace, "Pod", "hub", spec=spec)
    pod["metadata"]["labels"] = {"app": "hub"}
    return [pod, beside(namespace, "Service", "hub", spec={"selector": {"app": "hub"}, "ports": [{"port": 8080}]})]
