"""The chart, rendered without a cluster."""

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.chart.__main__ import CHART
from tests.helm.release import helm

Object = dict[str, Any]

SITE: Mapping[str, Any] = {
    "global": {"imageRegistry": "registry.example.internal"},
    "networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1/32"]}},
    "database": {"cidrs": ["10.0.0.9/32"]},
}
"""What no profile can know."""
_DIGEST = {"image": {"digest": f"sha256:{'0' * 64}"}}
_DIGESTS: Mapping[str, Any] = {
    "api": _DIGEST,
    "orchestrator": _DIGEST,
    "modelServer": {**_DIGEST, "sglang": _DIGEST},
    "sandbox": {**_DIGEST, "taskImage": _DIGEST["image"]},
}
LWS = "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"
PROFILES: Mapping[str, tuple[str, ...]] = {
    "dev": ("dev",),
    "h200": ("h200",),
    "h100-no-rdma": ("h100-no-rdma",),
    "two-node-lws": ("two-node-lws",),
    "airgapped": ("h200", "airgapped"),
    "hardened": ("h200", "hardened"),
}
"""Name -> the files of values, in their order."""


@dataclass(frozen=True, slots=True)
class Rendered:
    objects: list[Object]

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        [found] = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[tuple[Object, Object]]:
        """Every template of a pod, with what it is part of."""
        for each in self.objects:
            for template in templates(each):
                yield each, template


def render(values: Mapping[str, Any] | None = None, *profiles: str, arguments: tuple[str, ...] = ()) -> Rendered:
    """The objects of a release ``mimo`` in the namespace ``coder``.

    Raises:
        HelmError: with what it complains about.
    """
    return _render(json.dumps(values or {}), profiles, arguments)


def profile(name: str, *arguments: str) -> Rendered:
    """A profile of the chart on a cluster that has all it asks for."""
    return render(site(name), *PROFILES[name], arguments=(*arguments, f"--api-versions={LWS}"))


def lint(name: str) -> str:
    """What Helm says of the chart with a profile, where warnings count.

    Raises:
        HelmError: with what it complains about.
    """
    files = [f"--values={CHART}/values-{each}.yaml" for each in PROFILES[name]]
    has_all = "--set=modelServer.leaderWorkerSet.assumeInstalled=true"
    return helm("lint", "--strict", str(CHART), *files, f"--set-json={json.dumps(site(name))}", has_all)


def containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def _map_of_single_keys(loader: Any, node: Any) -> Object:
    """YAML would silently keep the last of two that are called alike."""
    names = [loader.construct_object(name, deep=True) for name, _ in node.value]
    assert len(names) == len(set(names)), f"{node.start_mark}: a key is there twice: {names}"
    made: Object = loader.construct_mapping(node, deep=True)
    return made


_Strict: Any = type("_Strict", (yaml.SafeLoader,), {})
_Strict.add_constructor("tag:yaml.org,2002:map", _map_of_single_keys)


@functools.cache
def _render(values: str, profiles: tuple[str, ...], arguments: tuple[str, ...]) -> Rendered:
    files = [f"--values={CHART}/values-{name}.yaml" for name in profiles]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        named = ("mimo", str(CHART), "--namespace=coder")
        text = helm("template", *named, *files, f"--values={Path(file.name)}", *arguments)
    return Rendered([each for each in yaml.load_all(text, _Strict) if each is not None])


def site(name: str) -> Mapping[str, Any]:
    """What a profile has to be told."""
    return {} if name == "dev" else {**SITE, **_DIGESTS}


def templates(each: Object) -> list[Object]:
    """Of the pods that an object makes."""
    match each["kind"]:
        case "Pod":
            return [each]
        case "DaemonSet" | "Deployment" | "Job" | "StatefulSet":
            return [each["spec"]["template"]]
        case "LeaderWorkerSet":
            group = each["spec"]["leaderWorkerTemplate"]
            return [group["leaderTemplate"], group["workerTemplate"]]
        case "RayCluster":
            return [group["template"] for group in (each["spec"]["headGroupSpec"], *each["spec"]["workerGroupSpecs"])]
    return []
