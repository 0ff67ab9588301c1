"""What the chart makes for LeaderWorkerSet and KubeRay has the fields of these projects' definitions and no others, by
types that others generate from them."""

import shutil
from collections.abc import Callable

import pytest

from deploy.cluster import programs
from tests.helm.rendered import Object, profile, render
from tests.helm.rust_types import NotFetched, Types, misfits, types

pytestmark = [
    pytest.mark.skipif(
        bool(programs.missing()) or not programs.are_built(),
        reason="Helm is not built: deploy/setup.sh --for-tests",
    ),
    pytest.mark.skipif(shutil.which("cargo") is None, reason="not installed: cargo"),
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True, scope="module")
def _fetched() -> None:
    try:
        types("kcr_ray_io", "v1/rayclusters")
    except NotFetched as reason:
        pytest.skip(f"cargo: {reason}")


def groups() -> tuple[Object, str, Types]:
    [made] = profile("two-node-lws").of("LeaderWorkerSet")
    return made, "LeaderWorkerSetSpec", types("kcr_leaderworkerset_x_k8s_io", "v1/leaderworkersets")


def ray() -> tuple[Object, str, Types]:
    values = {
        "database": {"mode": "embedded"},
        "data": {"accessMode": "ReadWriteMany"},
        "sandbox": {"ray": {"mode": "kuberay", "assumeInstalled": True, "replicas": 2}},
    }
    [made] = render(values, "dev").of("RayCluster")
    return made, "RayClusterSpec", types("kcr_ray_io", "v1/rayclusters")


@pytest.mark.parametrize("made", [groups, ray])
def test_objects_of_other_projects_have_the_fields_that_these_define(
    made: Callable[[], tuple[Object, str, Types]],
) -> None:
    found, kind, known = made()
    assert list(misfits(found["spec"], kind, known)) == []


def test_what_does_not_fit_is_named() -> None:
    found, kind, known = groups()
    template = {**found["spec"]["leaderWorkerTemplate"], "restartPolicy": "Sometimes", "sise": 3}
    wrong = {**found["spec"], "leaderWorkerTemplate": template, "replicas": "2"}
    assert [each.partition(":")[0] for each in misfits(wrong, kind, known)] == [
        ".replicas",
        ".leaderWorkerTemplate.sise",
        ".leaderWorkerTemplate.restartPolicy",
    ]
