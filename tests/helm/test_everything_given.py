"""A release of which everything is said that can be said of pods, whose weights one Job fetches from a hub, and whose
sandboxes are made by executors in a Ray cluster."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.types import VerdictKind
from deploy.cluster.cluster import Cluster
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm import engine
from tests.helm.engine import RESTRICTED, REVISION, beside, image
from tests.helm.release import Release, ended

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]  # the first makes the images

NAME = "given"
LASTING = 'trap "exit 0" TERM; while :; do sleep 1; done'


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
    "data": {"accessMode": "ReadWriteMany"},
    "sandbox": {"ray": {**PODS, "mode": "pods", "executors": 2}},
    "modelServer": {
        **PODS,
        "engine": "sglang",
        "sglang": {
            **SERVER,
            **engine.SGLANG,
            "env": {"SAID": "plainly", **engine.PATHS},
            "extraVolumeMounts": [*SHARED["extraVolumeMounts"], engine.MOUNT],
        },
        "extraVolumes": [*OTHERS["extraVolumes"], engine.VOLUME],
        "weights": {
            **SHARED,
            **engine.WEIGHTS,
            "env": {"HF_ENDPOINT": f"http://hub.{NAME}.svc:8080", "SAID": "plainly"},
            "source": "job",
            "revision": REVISION,
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
    "ray-head": ("ray",),
    "ray-machine": ("ray",),
}
"""Component -> its containers."""


@pytest.fixture(scope="module")
def given(loaded: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """In a namespace that admits what "baseline" does."""
    engine.give_gpus(loaded)
    loaded.kubectl("create", "namespace", NAME)
    loaded.kubectl("label", "namespace", NAME, "pod-security.kubernetes.io/enforce=baseline")
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": NAME}, "value": 7}
    extra = [
        priority,
        beside(NAME, "ConfigMap", "beside", data={"FROM_MAP": "too"}),
        engine.engine(NAME),
        *engine.hub(NAME),
    ]
    values = tmp_path_factory.mktemp("values") / "values.json"
    values.write_text(json.dumps({**VALUES, "extraObjects": extra}))
    release = Release(loaded, NAME, NAME, (f"--values={values}",))
    release.install()
    yield release
    release.helm("uninstall", "--wait")


async def test_a_task_is_done_with_weights_that_a_job_has_fetched_in_sandboxes_of_executors_on_ray(
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
