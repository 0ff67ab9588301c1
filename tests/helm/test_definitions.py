"""What the chart makes for KEDA, the Prometheus operator and gateways is what they define, by a real API server."""

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
from tests.helm.rendered import SITE, Object, render

pytestmark = pytest.mark.timeout(600)

MODULES = Path(__file__).with_name("definitions")
"""A Go module that pins those projects by hash."""
DEFINITIONS: Mapping[str, tuple[str, ...]] = {
    "github.com/kedacore/keda/v2": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    "github.com/prometheus-operator/prometheus-operator": tuple(
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
        for kind in ("podmonitors", "prometheusrules", "servicemonitors")
    ),
    "sigs.k8s.io/gateway-api": ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
}
KINDS = ("ScaledObject", "PodMonitor", "PrometheusRule", "ServiceMonitor", "HTTPRoute")
VALUES: Mapping[str, Any] = {
    **SITE,
    "modelServer": {
        "weights": {"claim": "weights"},
        "autoscaling": {"enabled": True, "prometheus": "http://prometheus.monitoring:9090", "assumeInstalled": True},
    },
    "router": {"enabled": True, "discovery": "kubernetes"},
    "monitoring": {"serviceMonitors": True, "rules": True, "labels": {"release": "prometheus"}},
    "api": {"httpRoute": {"enabled": True, "hosts": ["mimo.example.internal"], "parents": [{"name": "gateway"}]}},
}


@pytest.fixture(scope="module")
def extended(cluster: Cluster) -> Cluster:
    """A cluster that knows them."""
    for module, files in DEFINITIONS.items():
        folder = downloaded(module)
        for file in files:
            cluster.kubectl("apply", "--server-side", f"--filename={folder / file}")
    # One that was made this moment has no conditions yet, which kubectl takes for an error.
    for attempt in Retrying(
        retry=retry_if_exception_type(ClusterError), stop=stop_after_delay(120), wait=wait_fixed(1)
    ):
        with attempt:
            cluster.kubectl(
                "wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"
            )
    return cluster


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_knows_them_takes_the_objects_of_other_projects(extended: Cluster, kind: str) -> None:
    objects = [each | {"metadata": {**each["metadata"], "namespace": "default"}} for each in render(VALUES).of(kind)]
    assert objects
    said = extended.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"),
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )
    assert len(said.splitlines()) == len(objects)


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
    assert "Dir" in found, found.get("Error", done.stderr)
    return Path(found["Dir"])
