"""Who reaches whom where network policies are enforced, worked out from the policies themselves.

The plugin of the test cluster enforces none, so this is what shows that they open what is needed and nothing else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

import pytest

from deploy.cluster import programs
from tests.helm.rendered import Object, Rendered, containers, render

pytestmark = pytest.mark.skipif(
    bool(programs.missing()) or not programs.are_built(),
    reason="Helm is not built: deploy/setup.sh --for-tests",
)
HERE, SANDBOXES, ELSEWHERE, MONITORING = "coder", "mimo-sandboxes", "elsewhere", "monitoring"
SANDBOXD = 7070
VALUES: Mapping[str, Any] = {
    "database": {"mode": "embedded"},
    "router": {"enabled": True, "discovery": "kubernetes"},
    "sandbox": {"prepull": {"enabled": True}},
}
ON_RAY: Mapping[str, Any] = {
    "database": {"mode": "embedded"},
    "data": {"accessMode": "ReadWriteMany"},
    "sandbox": {"ray": {"mode": "pods"}},
}


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    """Name -> number."""
    address: str = ""
    """Of one outside of the cluster."""


@pytest.fixture(scope="module")
def made() -> Rendered:
    return render(VALUES, "dev")


def test_parts_reach_what_they_need_and_nothing_else(made: Rendered) -> None:
    ours = list(pods(made))
    assert reached(made, [each for each in ours if not each.name.startswith("test")], ours) == {
        ("api", "postgres", 5432),
        ("orchestrator", "postgres", 5432),
        ("orchestrator", "router", 30000),
        ("orchestrator", "sandbox", SANDBOXD),
        ("router", "model-server", 9001),
    }


def test_workers_reach_rays_head_and_its_machines_what_workers_reach() -> None:
    made = render(ON_RAY, "dev")
    ours = [each for each in pods(made) if not each.name.startswith("test")]
    both = ("ray-head", "ray-machine")
    assert reached(made, ours, ours) == {
        ("api", "postgres", 5432),
        ("orchestrator", "ray-head", 10001),
        *((each, "postgres", 5432) for each in ("orchestrator", *both)),
        *((each, "model-server", 9001) for each in ("orchestrator", *both)),
        *((each, "sandbox", SANDBOXD) for each in ("orchestrator", *both)),
        *(("ray-machine", "ray-head", port) for port in (6379, 6380, 10001)),
        ("ray-head", "ray-machine", 6380),
    }


def test_tests_of_an_installation_reach_what_they_try(made: Rendered) -> None:
    ours = list(pods(made))
    assert reached(made, [each for each in ours if each.name.startswith("test")], ours) == {
        *((f"test-{name}", "api", 8080) for name in ("api", "model", "sandbox")),
        *((f"test-{name}", "model-server", 9001) for name in ("api", "model", "sandbox")),
        *((f"test-{name}", "router", 30000) for name in ("api", "model", "sandbox")),
        ("test-sandbox", "sandbox", SANDBOXD),
    }


def test_the_database_of_others_is_reached_by_whoever_reads_it_and_at_its_port_alone() -> None:
    database = {"mode": "external", "urlSecret": "store", "migrations": "hook", "cidrs": ["10.9.0.0/24"]}
    made = render({"database": {**database, "ports": [6432]}}, "dev")
    ports = {"pooler": 6432, "ssh": 22}
    outside = [Pod(name, "", {}, ports, address) for name, address in (("its", "10.9.0.7"), ("other", "10.9.1.7"))]
    assert reached(made, list(pods(made)), outside) == {
        (each, "its", 6432) for each in ("api", "orchestrator", "migrations")
    }


def test_the_model_of_others_is_reached_by_workers_and_by_the_tests_of_an_installation() -> None:
    server = {"engine": "external", "url": "http://10.9.0.7:8000/v1", "cidrs": ["10.9.0.0/24"]}
    made = render({"modelServer": server, "database": {"mode": "embedded"}}, "dev")
    model = Pod("model", "", {}, {"http": 8000}, "10.9.0.7")
    assert {"orchestrator", "test-model"} <= {source for source, _, _ in reached(made, list(pods(made)), [model])}
    assert not reached(made, [each for each in pods(made) if each.name in ("api", "postgres", "sandbox")], [model])


def test_pods_of_others_reach_the_api_alone(made: Rendered) -> None:
    assert reached(made, [Pod("other", ELSEWHERE, {}, {})], list(pods(made))) == {("other", "api", 8080)}


def test_whoever_watches_reaches_series_alone(made: Rendered) -> None:
    assert reached(made, [Pod("watcher", MONITORING, {}, {})], list(pods(made))) == {
        ("watcher", "api", 8080),
        ("watcher", "orchestrator", 9002),
        ("watcher", "model-server", 9001),
        ("watcher", "router", 29000),
    }


def test_where_nobody_watches_nobody_reaches_more_than_the_api() -> None:
    made = render({**VALUES, "networkPolicy": {"prometheus": []}}, "dev")
    watcher = Pod("watcher", MONITORING, {}, {})
    assert reached(made, [watcher], list(pods(made))) == {("watcher", "api", 8080)}


def test_a_sandbox_reaches_nothing_in_the_cluster(made: Rendered) -> None:
    others = [*pods(made), Pod("other", ELSEWHERE, {}, {"http": 80})]
    sandboxes = [each for each in others if each.namespace == SANDBOXES]
    assert reached(made, sandboxes, others) == set()


def pods(made: Rendered) -> Iterator[Pod]:
    """One of each kind, and a sandbox."""
    for each, template in made.pods():
        ports = [port for container in containers(template) for port in container.get("ports", ())]
        yield Pod(
            each["metadata"]["name"].removeprefix("mimo-"),
            HERE,
            template["metadata"]["labels"],
            {port.get("name", str(port["containerPort"])): port["containerPort"] for port in ports},
        )
    yield Pod("sandbox", SANDBOXES, {}, {"sandboxd": SANDBOXD})


def reached(made: Rendered, sources: list[Pod], targets: list[Pod]) -> set[tuple[str, str, int]]:
    policies = made.of("NetworkPolicy")
    return {
        (source.name, target.name, port)
        for source, target in product(sources, targets)
        if source.name != target.name
        for name, port in target.ports.items()
        if is_open(policies, source, target, {port, name}, "egress")
        and is_open(policies, target, source, {port, name}, "ingress")
    }


def is_open(policies: list[Object], pod: Pod, other: Pod, port: set[int | str], way: str) -> bool:
    """Whether what is said of ``pod`` lets it send to the other (egress), or hear from it (ingress)."""
    about = [each for each in policies if concerns(each, pod, way)]
    rules = [rule for each in about for rule in each["spec"].get(way) or ()]
    return not about or any(allows(each, rule, other, port, way) for each in about for rule in rules)


def concerns(policy: Object, pod: Pod, way: str) -> bool:
    spec = policy["spec"]
    is_here = policy["metadata"]["namespace"] == pod.namespace
    return is_here and way.capitalize() in spec["policyTypes"] and fits(spec["podSelector"], pod.labels)


def allows(policy: Object, rule: Object, other: Pod, port: set[int | str], way: str) -> bool:
    peers = rule.get("to" if way == "egress" else "from")
    named = {each["port"] for each in rule.get("ports") or ()}
    return (not named or bool(named & port)) and (peers is None or any(is_peer(policy, peer, other) for peer in peers))


def is_peer(policy: Object, peer: Object, other: Pod) -> bool:
    if "ipBlock" in peer:
        return bool(other.address) and ip_address(other.address) in ip_network(peer["ipBlock"]["cidr"])
    if other.address:
        return False
    if "namespaceSelector" in peer:
        is_there = fits(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        is_there = policy["metadata"]["namespace"] == other.namespace
    return is_there and fits(peer.get("podSelector", {}), other.labels)


def fits(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted: Object = selector.get("matchLabels") or {}
    asked = selector.get("matchExpressions") or ()
    assert all(each["operator"] == "In" for each in asked), asked
    return wanted.items() <= labels.items() and all(labels.get(each["key"]) in each["values"] for each in asked)
