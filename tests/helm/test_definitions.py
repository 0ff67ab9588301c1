"""What the chart makes for other projects' controllers is what these define, by a real API server."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import ClusterError
from tests.helm.rendered import SITE, Object, profile, render

pytestmark = pytest.mark.timeout(600)

MODULES = Path(__file__).with_name("definitions")
"""A Go module that pins those projects by hash."""
_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
_MONITORING = "example/prometheus-operator-crd/monitoring.coreos.com_{}.yaml"
DEFINITIONS: Mapping[str, tuple[str, str]] = {
    "CiliumNetworkPolicy": (
        "github.com/cilium/cilium",
        "pkg/k8s/apis/cilium.io/client/crds/v2/ciliumnetworkpolicies.yaml",
    ),
    "HTTPRoute": ("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    "LeaderWorkerSet": ("sigs.k8s.io/lws", "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"),
    "PodMonitor": (_OPERATOR, _MONITORING.format("podmonitors")),
    "PrometheusRule": (_OPERATOR, _MONITORING.format("prometheusrules")),
    "RayCluster": ("github.com/ray-project/kuberay/ray-operator", "config/crd/bases/ray.io_rayclusters.yaml"),
    "ScaledObject": ("github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    "ServiceMonitor": (_OPERATOR, _MONITORING.format("servicemonitors")),
}
"""Kind -> the module that defines it, and the file there."""
ON_GPUS: Mapping[str, Any] = {
    **SITE,
    "modelServer": {
        "weights": {"claim": "weights"},
        "autoscaling": {"enabled": True, "prometheus": "http://prometheus.monitoring:9090", "assumeInstalled": True},
    },
    "router": {"enabled": True, "discovery": "kubernetes"},
    "monitoring": {"serviceMonitors": True, "rules": True, "labels": {"release": "prometheus"}},
    "api": {"httpRoute": {"enabled": True, "hosts": ["mimo.example.internal"], "parents": [{"name": "gateway"}]}},
}
ON_RAY: Mapping[str, Any] = {
    "database": {"mode": "embedded"},
    "data": {"accessMode": "ReadWriteMany"},
    "sandbox": {
        "ray": {"mode": "kuberay", "assumeInstalled": True, "replicas": 2},
        "egress": {"allow_hosts": ["*.packages.example.org", "git.example.org:22"]},
        "settings": {"network": "fence"},
    },
    "repositories": {"hosts": ["git.example.org"]},
    "networkPolicy": {"flavor": "cilium", "assumeInstalled": True},
}


def made() -> list[Object]:
    """All objects of releases that have all of these kinds between them."""
    groups = profile("two-node-lws").of("LeaderWorkerSet")
    return [*render(ON_GPUS).objects, *render(ON_RAY, "dev").objects, *groups]


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_server_that_knows_them_takes_the_objects_of_other_projects(cluster: Cluster, kind: str) -> None:
    define(cluster, kind)
    objects = [each for each in made() if each["kind"] == kind]
    assert objects
    assert len(taken(cluster, objects).splitlines()) == len(objects)


def test_a_field_that_they_do_not_define_is_refused_by_its_name(cluster: Cluster) -> None:
    define(cluster, "LeaderWorkerSet")
    [group] = (each for each in made() if each["kind"] == "LeaderWorkerSet")
    with pytest.raises(ClusterError, match=r'unknown field "(spec\.)?sise"'):
        taken(cluster, [{**group, "spec": {**group["spec"], "sise": 3}}])


def define(cluster: Cluster, kind: str) -> None:
    """Have the cluster know the kind as its project defines it."""
    module, path = DEFINITIONS[kind]
    file = downloaded(module) / path
    cluster.kubectl("apply", "--server-side", f"--filename={file}")
    # One that was made this moment has no conditions yet, which kubectl takes for an error.
    for attempt in Retrying(
        retry=retry_if_exception_type(ClusterError), stop=stop_after_delay(120), wait=wait_fixed(1)
    ):
        with attempt:
            cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"--filename={file}")


def taken(cluster: Cluster, objects: list[Object]) -> str:
    """What a server says that would take them."""
    moved = [each | {"metadata": {**each["metadata"], "namespace": "default"}} for each in objects]
    return cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"),
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": moved}),
    )


def downloaded(module: str) -> Path:
    """The folder of a module's files, whose hash is the one that was pinned."""
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    done = subprocess.run(
        ["go", "mod", "download", "-json", module],
        cwd=MODULES,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found: Object = json.loads(done.stdout or "{}")
    if "Dir" not in found:
        pytest.skip(f"go cannot fetch {module}: {found.get('Error', done.stderr)}")
    return Path(found["Dir"])
