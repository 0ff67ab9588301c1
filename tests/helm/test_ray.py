"""Executors of the toolbox in a Ray cluster of the chart's own pods, or in one that KubeRay makes."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.cluster import programs
from sandbox.config import SandboxSettings
from tests.helm.rendered import Object, Rendered, containers, render

is_built = pytest.mark.skipif(
    bool(programs.missing()) or not programs.are_built(),
    reason="Helm is not built: deploy/setup.sh --for-tests",
)
MODES = ("pods", "kuberay")


def rendered(mode: str, **ray: Any) -> Rendered:
    shared = {"database": {"mode": "embedded"}, "data": {"accessMode": "ReadWriteMany"}}
    return render({**shared, "sandbox": {"ray": {"mode": mode, "assumeInstalled": True, **ray}}}, "dev")


def machines(made: Rendered) -> Iterator[Object]:
    """The templates of Ray's pods, the head first."""
    for _, template in made.pods():
        if template["metadata"]["labels"]["app.kubernetes.io/component"] in ("ray-head", "ray-machine"):
            yield template


def of_worker(made: Rendered) -> Object:
    [worker] = made.one("Deployment", "mimo-orchestrator")["spec"]["template"]["spec"]["containers"]
    return Object(worker)


@is_built
@pytest.mark.parametrize("mode", MODES)
def test_machines_of_ray_may_do_what_workers_may(mode: str) -> None:
    worker = rendered("none").one("Deployment", "mimo-orchestrator")["spec"]["template"]
    for machine in machines(rendered(mode)):
        assert machine["metadata"]["labels"]["mimo-coder/executor"] == "true"
        [container] = containers(machine)
        for name in ("serviceAccountName", "securityContext", "automountServiceAccountToken"):
            assert machine["spec"][name] == worker["spec"][name]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        [of_workers] = worker["spec"]["containers"]
        assert container["securityContext"] == of_workers["securityContext"]
        for mount in of_workers["volumeMounts"]:
            assert mount["name"] == "settings" or mounts[mount["name"]] == mount["mountPath"]


@is_built
@pytest.mark.parametrize("mode", MODES)
def test_workers_and_machines_have_one_image_and_one_token(mode: str) -> None:
    made = rendered(mode)
    together = [of_worker(made), *(container for machine in machines(made) for container in containers(machine))]
    assert len(together) == 3
    assert {each["image"] for each in together} == {"mimo-coder/agent-ray:0.1.0"}
    wanted = {"name": "mimo-keys", "key": "ray-token"}
    for each in together:
        variables = {variable["name"]: variable for variable in each["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == wanted
    assert "ray-token" in made.one("Secret", "mimo-keys")["data"]


@is_built
@pytest.mark.parametrize("mode", MODES)
def test_workers_are_told_where_the_head_is(mode: str) -> None:
    made = rendered(mode, executors=7)
    text = made.one("ConfigMap", "mimo-orchestrator")["data"]["sandbox.toml"]
    ray = SandboxSettings.model_validate(tomllib.loads(text)).ray
    assert ray is not None
    assert ray.executors == 7
    host = "mimo-ray" if mode == "pods" else f"{made.of('RayCluster')[0]['metadata']['name']}-head-svc"
    assert ray.address == f"ray://{host}.coder.svc:10001"
    _, machine = machines(made)
    assert f"--address={host}.coder.svc:6379" in containers(machine)[0]["args"]


@is_built
def test_a_cluster_of_ones_own_is_told_as_it_was_given() -> None:
    given = {"address": "ray://ray.example.internal:10001", "cidrs": ["10.0.0.7/32"], "token": {"existing": "mine"}}
    made = rendered("external", **given)
    assert not list(machines(made))
    text = made.one("ConfigMap", "mimo-orchestrator")["data"]["sandbox.toml"]
    assert tomllib.loads(text)["ray"]["address"] == given["address"]
    variables = {variable["name"]: variable for variable in of_worker(made)["env"]}
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "ray-token"}
    assert "ray-token" not in made.one("Secret", "mimo-keys")["data"]


@is_built
def test_what_kuberay_would_not_change_in_its_pods_makes_another_cluster() -> None:
    names = [rendered("kuberay", replicas=replicas).of("RayCluster")[0]["metadata"]["name"] for replicas in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


@is_built
def test_without_ray_there_is_nothing_of_it() -> None:
    made = rendered("none")
    assert not [each for each in made.objects if "ray" in each["metadata"]["name"]]
    assert "RAY_AUTH_TOKEN" not in str(of_worker(made))
