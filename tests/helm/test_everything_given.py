"""A release of which everything is said that can be said of pods, whose weights one Job fetches from a hub.

SGLang is the fake one, over the small model; it is started by the command line of the real one.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agent.types import VerdictKind
from deploy.cluster.cluster import Cluster
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm.release import Release, ended

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]  # the first makes the images

NAME = "given"
REPOSITORY, REVISION = "XiaomiMiMo/mimo-v2-nano", "0123456789abcdef0123456789abcdef01234567"
SHIPPED = "/opt/mimo/model_server/checkpoints/mimo-v2-nano"
GPU = "example.org/gpu"
LAUNCH = """
import sys
from model_server.testing.__main__ import main
main([*sys.argv[1:], "--fake-model"])
"""
"""The module that is started as ``sglang.launch_server``."""
LASTING = 'trap "exit 0" TERM; while :; do sleep 1; done'
SMALL = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "256Mi"}}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def image(name: str) -> str:
    return f"mimo-coder/{name}:{version('mimo-coder')}"


def foreign(name: str, line: str, **more: str) -> dict[str, object]:
    """A container that is not the chart's."""
    command = ["sh", "-c", line]
    return {"name": name, "image": image("task"), "command": command, "securityContext": RESTRICTED, **more}


SHARED = {
    "env": {"SAID": "plainly"},
    "extraEnv": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    "envFrom": [{"configMapRef": {"name": "beside"}}],
    "extraVolumeMounts": [{"name": "beside", "mountPath": "/beside"}],
}
"""Of every container."""
SERVER = {**SHARED, "lifecycle": {"postStart": {"exec": {"command": ["test", "-e", "/beside/FROM_MAP"]}}}}
OTHERS: Mapping[str, Any] = {
    "initContainers": [foreign("before", "true"), foreign("from-before", LASTING, restartPolicy="Always")],
    "sidecars": [foreign("beside", LASTING)],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "example.org/agents", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 9, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": NAME,
    "podLabels": {"example.org/team": "agents"},
    "podAnnotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
    "extraVolumes": [{"name": "beside", "configMap": {"name": "beside"}}],
}
PROBES = {"startup": {"failureThreshold": 600}, "readiness": {"periodSeconds": 2}}
PODS: Mapping[str, Any] = {**SERVER, **OTHERS, "probes": PROBES}
VALUES: Mapping[str, Any] = {
    "global": {"clusterDomain": "cluster.local"},
    "commonLabels": {"example.org/cost-centre": "7"},
    "commonAnnotations": {"example.org/contact": "platform"},
    "api": PODS,
    "orchestrator": PODS,
    "router": {**PODS, "enabled": True, "replicas": 1},
    "database": {**PODS, "mode": "embedded"},
    "modelServer": {
        **PODS,
        "engine": "sglang",
        "sglang": {
            **SERVER,
            "env": {"SAID": "plainly", "PYTHONPATH": "/engine:/opt/mimo"},
            "extraVolumeMounts": [*SHARED["extraVolumeMounts"], {"name": "engine", "mountPath": "/engine/sglang"}],
            "image": {"registry": "docker.io", "repository": "mimo-coder/model-server", "tag": version("mimo-coder")},
            "settings": {"gpus": 1, "attention_groups": 1, "expert_exchange": "none", "context_length": 8192},
            "gpuResource": GPU,
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
            "shmSize": "64Mi",
        },
        "extraVolumes": [*OTHERS["extraVolumes"], {"name": "engine", "configMap": {"name": "engine"}}],
        "weights": {
            **SHARED,
            "env": {"HF_ENDPOINT": f"http://hub.{NAME}.svc:8080", "SAID": "plainly"},
            "source": "job",
            "path": "mimo-v2-nano",
            "repository": REPOSITORY,
            "revision": REVISION,
            "size": "1Gi",
            "resources": SMALL,
        },
        "compileCache": {"size": "1Gi"},
    },
    "networkPolicy": {"weightsEgress": [{"ports": [{"protocol": "TCP", "port": 8080}]}]},
}
PARTS: Mapping[str, tuple[str, ...]] = {
    "api": ("api",),
    "orchestrator": ("orchestrator",),
    "router": ("router",),
    "postgres": ("postgres",),
    "model-server": ("model-server", "sglang"),
}
"""Component -> its containers."""


def beside(kind: str, name: str, **parts: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAME}, **parts}


def hub() -> list[dict[str, Any]]:
    """Where weights come from."""
    program = Path(__file__).with_name("hub.py").read_text()
    command = ["python", "-c", program, SHIPPED, REPOSITORY, REVISION]
    main = {"name": "hub", "image": image("model-server"), "imagePullPolicy": "Never", "command": command}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [{**main, "securityContext": RESTRICTED}]}
    pod = beside("Pod", "hub", spec=spec)
    pod["metadata"]["labels"] = {"app": "hub"}
    return [pod, beside("Service", "hub", spec={"selector": {"app": "hub"}, "ports": [{"port": 8080}]})]


@pytest.fixture(scope="module")
def given(loaded: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """In a namespace that admits what "baseline" does."""
    node = loaded.kubectl("get", "nodes", "--selector=!type", "--output=name").strip()
    loaded.kubectl("patch", node, "--subresource=status", f'--patch={{"status":{{"capacity":{{"{GPU}":"1"}}}}}}')
    loaded.kubectl("create", "namespace", NAME)
    loaded.kubectl("label", "namespace", NAME, "pod-security.kubernetes.io/enforce=baseline")
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": NAME}, "value": 7}
    extra = [
        priority,
        beside("ConfigMap", "beside", data={"FROM_MAP": "too"}),
        beside("ConfigMap", "engine", data={"launch_server.py": LAUNCH}),
        *hub(),
    ]
    values = tmp_path_factory.mktemp("values") / "values.json"
    values.write_text(json.dumps({**VALUES, "extraObjects": extra}))
    release = Release(loaded, NAME, NAME, (f"--values={values}",))
    release.install()
    yield release
    release.helm("uninstall", "--wait")


async def test_a_task_is_done_with_weights_that_a_job_has_fetched(
    given: Release, exercise: EvalTask, tmp_path: Path
) -> None:
    given.kubectl("wait", "--for=condition=Complete", "--timeout=120s", "jobs", "--all")
    place = await given.put(exercise, tmp_path)
    async with given.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        done = await ended(client, submitted.id)
    assert done.verdict is not None, done
    assert done.verdict.kind is VerdictKind.VERIFIED


@pytest.mark.parametrize("component", PARTS)
def test_containers_are_told_and_see_what_was_given_beside_those_that_were_added(
    given: Release, component: str
) -> None:
    [name] = given.pods(component)
    pod = given.get("pod", name)
    running = {
        each["name"]
        for kind in ("containerStatuses", "initContainerStatuses")
        for each in pod["status"][kind]
        if each["state"].get("running")
    }
    assert running == {*PARTS[component], "beside", "from-before"}
    metadata, spec = pod["metadata"], pod["spec"]
    assert metadata["labels"].items() >= {"example.org/cost-centre": "7", **OTHERS["podLabels"]}.items()
    assert metadata["annotations"].items() >= {"example.org/contact": "platform", **OTHERS["podAnnotations"]}.items()
    assert spec["priority"] == 7
    assert OTHERS["tolerations"][0] in spec["tolerations"]
    for container in PARTS[component]:
        inside = ("exec", name, f"--container={container}", "--")
        assert given.kubectl(*inside, "printenv", "SAID", "FROM_MAP", "NODE").split() == [
            "plainly",
            "too",
            spec["nodeName"],
        ]
        assert given.kubectl(*inside, "cat", "/beside/FROM_MAP") == "too"
