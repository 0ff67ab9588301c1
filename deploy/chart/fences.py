"""What keeps the namespace of sandboxes, as files of the chart: ``sandbox.kubernetes.fences`` with the chart's words.

The chart shall say the same as the code that makes the pods, so it takes the objects from there. What an installation
decides stands in them as a template's action; of each pair of settings that change the objects themselves there is a
file of its own.
"""

from itertools import product

import yaml

from sandbox.config import KubernetesSettings
from sandbox.kubernetes.fences import Bounds, Executors, fences, rules

_NUMBERS = {
    900_001: "{{ int .Values.sandbox.bounds.pods }}",
    900_002: "{{ int .Values.sandbox.bounds.memoryMib }}",
    900_003: "{{ int .Values.sandbox.bounds.cpus }}",
    900_004: "{{ int .Values.sandbox.bounds.podMemoryMib }}",
    65_001: '{{ include "mimo.sandboxPort" . }}',
}
"""Numbers that nothing else in the objects is -> what is written for them; fields of numbers take no text."""
_PODS, _MEMORY_MIB, _CPUS, _POD_MEMORY_MIB, _PORT = _NUMBERS
_REGISTRY = "{{ .Values.sandbox.bounds.registry }}"
_RUNTIME_CLASS = "{{ .Values.sandbox.settings.runtime_class }}"


def fence_files() -> dict[str, str]:
    """Name -> content."""
    networks = {"install": "sealed", "fence": "fence"}  # by the first container; `policy` has the same as `sealed`
    claims = yaml.safe_dump(rules("claims"), sort_keys=False)  # of the role; all else is the same
    return {"claims.yaml": claims} | {
        f"{profile}-{first}.yaml": _file(profile, networks[first])
        for profile, first in product(("restricted", "root"), networks)
    }


def _file(profile: str, network: str) -> str:
    settings = KubernetesSettings.model_validate(
        {
            "namespace": '{{ include "mimo.sandboxNamespace" . }}',
            "service_account": '{{ include "mimo.sandboxAccount" . }}',
            "agent_image": '{{ include "mimo.image" (list . .Values.sandbox.image) }}',
            "port": _PORT,
            "profile": profile,
            "network": network,
        }
    ).model_copy(update={"runtime_class": _RUNTIME_CLASS})
    executors = Executors(
        namespace="{{ .Release.Namespace }}",
        account='{{ include "mimo.orchestratorAccount" . }}',
        labels={"app.kubernetes.io/instance": "{{ .Release.Name }}", "mimo-coder/executor": "true"},
    )
    bounds = Bounds(pods=_PODS, memory_mib=_MEMORY_MIB, cpus=_CPUS, pod_memory_mib=_POD_MEMORY_MIB, registry=_REGISTRY)
    text: str = yaml.safe_dump_all(fences(settings, executors, bounds), sort_keys=False, width=10_000)
    for number, action in _NUMBERS.items():
        text = text.replace(str(number), action)
    for optional in (_REGISTRY, _RUNTIME_CLASS):
        text = _only_with(optional, text)
    return "{{- /* Written by python -m deploy.chart */ -}}\n" + text


def _only_with(action: str, text: str) -> str:
    """The demand that names this value is left out where there is none; it is two lines, which both name it."""
    lines = text.splitlines(keepends=True)
    first, second = (number for number, line in enumerate(lines) if action in line)
    assert second == first + 1, (first, second)
    lines.insert(second + 1, "{{- end }}\n")
    lines.insert(first, action.replace("{{ ", "{{- if ") + "\n")
    return "".join(lines)
