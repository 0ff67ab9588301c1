"""A real API server takes what the chart makes of its profiles; nothing is kept of it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from deploy.cluster.cluster import Cluster
from tests.helm.drawn import drawn_values
from tests.helm.release import HelmError
from tests.helm.rendered import PROFILES, Object, Rendered, profile, render, templates

BESIDE: Mapping[str, Any] = {
    "database": {"mode": "external", "urlSecret": "store", "migrations": "hook", "cidrs": ["10.0.0.9/32"]},
    "sandbox": {"flowSchema": {"enabled": True}, "priorityClass": {"enabled": True}, "prepull": {"enabled": True}},
}
"""What no profile has."""
LOOKED_INTO_BY_THE_SERVER_ALONE = (
    *("requests", "limits", "tolerations", "topologySpreadConstraints", "extraEnv", "extraVolumeMounts"),
    "selectors",
)
"""Parts of pods, and conditions in CEL, that the chart hands on."""
OF_OTHERS = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute", "RayCluster")
"""Kinds that a server without those projects does not know."""


@pytest.mark.parametrize("name", PROFILES)
def test_a_server_takes_all_objects_of_a_profile(cluster: Cluster, namespace: str, name: str) -> None:
    taken(cluster, namespace, profile(name))


def test_a_server_takes_what_no_profile_has(cluster: Cluster, namespace: str) -> None:
    taken(cluster, namespace, render(BESIDE, "dev"))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=drawn_values(without=LOOKED_INTO_BY_THE_SERVER_ALONE))
def test_a_server_takes_whatever_is_made_of_any_values(
    cluster: Cluster, namespace: str, values: Mapping[str, Any]
) -> None:
    with suppress(HelmError):  # that is refused
        taken(cluster, namespace, render(values))


def taken(cluster: Cluster, namespace: str, made: Rendered) -> None:
    # Pods need their accounts, which are not kept.
    tried = [known for each in made.objects if each["kind"] != "Pod" for known in _known(each)]
    objects = [_moved(each, namespace) for each in tried]
    said = cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict", "--filename=-"),
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )
    assert len(said.splitlines()) == len(objects)


def _known(each: Object) -> list[Object]:
    """The server does not know groups of nodes, but the pods that they are made of."""
    if each["kind"] != "LeaderWorkerSet":
        return [each] if each["kind"] not in OF_OTHERS else []
    return [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {**each["metadata"], "name": f"{each['metadata']['name']}-{number}"},
            "template": template,
        }
        for number, template in enumerate(templates(each))
    ]


def _moved(each: Object, namespace: str) -> Object:
    """Into a namespace that is there."""
    metadata = each["metadata"]
    return {**each, "metadata": metadata | {"namespace": namespace}} if "namespace" in metadata else each
