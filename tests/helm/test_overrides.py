"""What an operator says of pods reaches every pod of the component, beside what the chart needs, and never instead."""

from collections.abc import Mapping
from typing import Any

import pytest

from deploy.cluster import programs
from tests.helm.rendered import SITE, Object, Rendered, containers, render

pytestmark = pytest.mark.skipif(
    bool(programs.missing()) or not programs.are_built(),
    reason="Helm is not built: deploy/setup.sh --for-tests",
)
PROXY = {"name": "proxy", "image": "registry.example.internal/proxy:1", "restartPolicy": "Always"}
SCANNER = {"name": "scanner", "image": "registry.example.internal/scanner:1"}
VOLUME = {"name": "authorities", "configMap": {"name": "authorities"}}
MOUNT = {"name": "authorities", "mountPath": "/etc/authorities"}
NODE = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
TOLERATION = {"key": "dedicated", "operator": "Exists"}
SPREAD = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
AFFINITY: Mapping[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
GIVEN: Mapping[str, Any] = {
    "nodeSelector": {"pool": "agents"},
    "tolerations": [TOLERATION],
    "affinity": AFFINITY,
    "topologySpreadConstraints": [SPREAD],
    "priorityClassName": "high",
    "podLabels": {"team": "agents"},
    "podAnnotations": {"example.org/scrape": "no"},
    "podSecurityContext": {
        "runAsUser": None,
        "runAsGroup": 0,
        "fsGroup": 1_000_680_000,
        "seccompProfile": {"type": "Localhost", "localhostProfile": "mimo.json"},
    },
    "env": {"LEVEL": "1"},
    "extraEnv": [NODE],
    "envFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [VOLUME],
    "extraVolumeMounts": [MOUNT],
    "initContainers": [PROXY],
    "sidecars": [SCANNER],
    "resources": {"requests": {"cpu": "2"}},
    "probes": {"startup": {"failureThreshold": 77}, "readiness": {"timeoutSeconds": 9}},
    "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
}
"""Of every part, all of it."""
PARTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "api": (("api",), ("mimo-api",)),
    "orchestrator": (("orchestrator",), ("mimo-orchestrator",)),
    "router": (("router",), ("mimo-router",)),
    "model server": (("modelServer",), ("mimo-model-server",)),
    "Postgres": (("database",), ("mimo-postgres",)),
    "Ray": (("sandbox", "ray"), ("mimo-ray-head", "mimo-ray-machine")),
}
"""Part -> where its values are, and its objects."""
BASE: Mapping[str, Any] = {
    "database": {"mode": "embedded"},
    "data": {"accessMode": "ReadWriteMany"},
    "router": {"enabled": True},
    "sandbox": {"ray": {"mode": "pods"}},
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> tuple[Rendered, list[Object]]:
    """A release where everything is said of one part, and the templates of that part's pods."""
    place, names = PARTS[request.param]
    made = render(within(BASE, place, GIVEN), "dev")
    return made, [template for each, template in made.pods() if each["metadata"]["name"] in names]


def test_where_a_pod_runs_is_what_was_said(part: tuple[Rendered, list[Object]]) -> None:
    _, templates = part
    assert templates
    for template in templates:
        spec, labels = template["spec"], template["metadata"]["labels"]
        assert spec["nodeSelector"] == {"pool": "agents"}
        assert spec["tolerations"] == [TOLERATION]
        assert spec["affinity"] == AFFINITY
        assert spec["priorityClassName"] == "high"
        [spread] = spec["topologySpreadConstraints"]
        assert spread.items() >= SPREAD.items()
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items(), "spread among its own kind"
        assert labels["team"] == "agents"
        assert template["metadata"]["annotations"]["example.org/scrape"] == "no"


def test_containers_of_ones_own_come_before_and_beside(part: tuple[Rendered, list[Object]]) -> None:
    _, templates = part
    for template in templates:
        assert template["spec"]["initContainers"][0] == PROXY
        assert template["spec"]["containers"][-1] == SCANNER
        assert VOLUME in template["spec"]["volumes"]


def test_every_container_of_the_chart_is_told_and_sees_what_was_given(part: tuple[Rendered, list[Object]]) -> None:
    _, templates = part
    for container in (each for template in templates for each in ours(template)):
        assert [each for each in container["env"] if each["name"] in ("LEVEL", "NODE")] == [
            {"name": "LEVEL", "value": "1"},
            NODE,
        ]
        assert container["envFrom"] == [{"secretRef": {"name": "more"}}]
        assert MOUNT in container["volumeMounts"]
        if container["name"] != "migrate":
            assert container["resources"]["requests"]["cpu"] == "2"


def test_probes_have_the_times_and_ends_are_prepared_for_as_was_said(part: tuple[Rendered, list[Object]]) -> None:
    _, templates = part
    for container in (each for template in templates for each in ours(template) if each["name"] != "migrate"):
        assert container["startupProbe"]["failureThreshold"] == 77
        assert container["readinessProbe"]["timeoutSeconds"] == 9
        assert container["lifecycle"] == GIVEN["lifecycle"], "instead of the chart's own"


def test_what_is_not_said_of_a_probe_is_as_before() -> None:
    said = {"probes": {"liveness": {"periodSeconds": 60}}, "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}
    before, after = (
        container_of(render({**BASE, "router": {"enabled": True, **given}}, "dev")) for given in ({}, said)
    )
    assert after.pop("livenessProbe") == before.pop("livenessProbe") | {"periodSeconds": 60}
    assert after.pop("lifecycle") == before.pop("lifecycle") | said["lifecycle"]
    assert after == before


def test_a_longer_pause_between_its_probes_leaves_an_engine_as_long_to_load() -> None:
    server = {"weights": {"claim": "weights"}, "sglang": {"probes": {"startup": {"periodSeconds": 40}}}}
    [pod] = [pod for each, pod in render({**SITE, "modelServer": server}).pods() if each["kind"] == "StatefulSet"]
    [sglang] = pod["spec"]["containers"]
    assert sglang["startupProbe"].items() >= {"periodSeconds": 40, "failureThreshold": 90}.items()


def test_a_pod_stays_restricted_whatever_is_said_of_its_user(part: tuple[Rendered, list[Object]]) -> None:
    _, templates = part
    for template in templates:
        assert template["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "runAsGroup": 0,
            "fsGroup": 1_000_680_000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "Localhost", "localhostProfile": "mimo.json"},
        }
        for container in ours(template):
            assert "runAsUser" not in container["securityContext"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_sglang_has_variables_and_volumes_of_its_own_beside_the_server_in_front() -> None:
    own = {"env": {"SGLANG_X": "1"}, "extraEnv": [NODE], "extraVolumeMounts": [MOUNT]}
    server = {"weights": {"claim": "weights"}, "extraVolumes": [VOLUME], "env": {"LEVEL": "1"}, "sglang": own}
    [pod] = [pod for each, pod in render({**SITE, "modelServer": server}).pods() if each["kind"] == "StatefulSet"]
    told = {each["name"]: {variable["name"] for variable in each["env"]} for each in containers(pod)}
    assert {"SGLANG_X", "NODE"} <= told["sglang"]
    assert "LEVEL" in told["model-server"]
    assert not {"SGLANG_X", "LEVEL"} & (told["sglang"] & told["model-server"])
    [sglang] = pod["spec"]["containers"]
    assert MOUNT in sglang["volumeMounts"]


def test_whoever_fetches_weights_is_told_of_a_mirror_and_its_authority() -> None:
    fetching = {"env": {"HF_ENDPOINT": "https://mirror"}, "extraVolumeMounts": [MOUNT], "resources": {"limits": {}}}
    weights = {"source": "job", "revision": "0" * 40, "tokenSecret": "hub", **fetching}
    server = {"weights": weights, "extraVolumes": [VOLUME], "initContainers": [PROXY], "sidecars": [SCANNER]}
    made = render({**SITE, "modelServer": {**server, "nodeSelector": {"pool": "gpus"}}})
    [job] = made.of("Job")
    spec = job["spec"]["template"]["spec"]
    [download] = spec["containers"]
    assert download["env"] == [
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}},
        {"name": "HF_ENDPOINT", "value": "https://mirror"},
    ]
    assert MOUNT in download["volumeMounts"]
    assert VOLUME in spec["volumes"]
    assert spec["initContainers"] == [PROXY], "the way to the hub"
    assert spec["nodeSelector"] == {"pool": "gpus"}
    peers = {"networkPolicy": {**SITE["networkPolicy"], "weightsEgress": [{"ports": [{"port": 8081}]}]}}
    policy = render({**SITE, **peers, "modelServer": server}).one("NetworkPolicy", "mimo-weights")
    assert policy["spec"]["egress"] == [{"ports": [{"port": 8081}]}]


def test_a_job_before_the_release_has_the_workers_surroundings_but_no_sidecar() -> None:
    database = {"mode": "external", "urlSecret": "store", "migrations": "hook", "cidrs": ["10.0.0.9/32"]}
    job = render({"database": database, "orchestrator": GIVEN}, "dev").one("Job", "mimo-migrations")
    spec = job["spec"]["template"]["spec"]
    assert spec["initContainers"] == [PROXY], "the way to the database, which the kubelet ends with the pod"
    [container] = spec["containers"]
    assert MOUNT in container["volumeMounts"]
    assert spec["nodeSelector"] == {"pool": "agents"}


def test_with_sqlite_the_volumes_of_both_programs_are_in_the_one_pod() -> None:
    both = {"extraVolumes": [VOLUME], "extraVolumeMounts": [MOUNT]}
    [pod] = [
        pod for each, pod in render({"api": both, "orchestrator": both}, "dev").pods() if name_of(each) == "mimo-api"
    ]
    assert pod["spec"]["volumes"].count(VOLUME) == 1
    assert all(MOUNT in container["volumeMounts"] for container in containers(pod))


def test_labels_and_annotations_of_all_are_on_every_object_and_pod() -> None:
    labels, annotations = {"cost-centre": "7"}, {"example.org/contact": "platform"}
    database = {"mode": "external", "urlSecret": "store", "migrations": "hook", "cidrs": ["10.0.0.9/32"]}
    sandbox = {
        **{part: {"enabled": True} for part in ("prepull", "flowSchema", "priorityClass")},
        "ray": {"mode": "kuberay", "assumeInstalled": True},
    }
    everything = {
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "database": database,
        "data": {"accessMode": "ReadWriteMany"},
        "sandbox": sandbox,
        "router": {"enabled": True, "discovery": "kubernetes"},
        "monitoring": {"serviceMonitors": True, "rules": True, "dashboards": True},
        "api": {"ingress": {"enabled": True, "hosts": ["mimo.example.internal"]}},
    }
    made = render(everything, "dev")
    for metadata in [each["metadata"] for each in made.objects] + [pod["metadata"] for _, pod in made.pods()]:
        assert labels.items() <= metadata["labels"].items(), metadata
        assert annotations.items() <= metadata["annotations"].items(), metadata
    assert (
        made.one("PersistentVolumeClaim", "mimo-data")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    )


def test_what_is_said_of_one_part_stands_above_what_is_said_of_all() -> None:
    made = render({"commonLabels": {"team": "platform"}, "api": {"podLabels": {"team": "agents"}}}, "dev")
    deployment = made.one("Deployment", "mimo-api")
    assert deployment["metadata"]["labels"]["team"] == "platform"
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "agents"


def test_no_label_for_all_opens_the_namespace_of_sandboxes() -> None:
    level = "pod-security.kubernetes.io/enforce"
    namespace = render({"commonLabels": {level: "privileged"}}, "dev").one("Namespace", "mimo-sandboxes")
    assert namespace["metadata"]["labels"][level] == "restricted"


def test_a_named_domain_stands_behind_every_name_of_a_service() -> None:
    wide = {**BASE, "global": {"clusterDomain": "cluster.example"}, "modelServer": {"replicas": 2}}
    text = str(render(wide, "dev").objects)
    assert ".svc.cluster.example:" in text
    assert ".svc:" not in text
    assert ".svc.cluster.example" not in str(render(BASE, "dev").objects)


def container_of(made: Rendered) -> Object:
    """Of the router."""
    [found] = containers(made.one("Deployment", "mimo-router")["spec"]["template"])
    return found


def ours(template: Object) -> list[Object]:
    return [each for each in containers(template) if each["name"] not in ("proxy", "scanner")]


def name_of(each: Object) -> str:
    return str(each["metadata"]["name"])


def within(base: Mapping[str, Any], place: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    first, *rest = place
    inner = base.get(first) or {}
    return {**base, first: within(inner, tuple(rest), values) if rest else {**inner, **values}}
