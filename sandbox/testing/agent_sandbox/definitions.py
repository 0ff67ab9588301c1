"""The fields of the controller's objects (API version v1beta1) that we write or read, and no other."""

from sandbox.kubernetes.manifest import Manifest

CORE = "agents.x-k8s.io"
EXTENSIONS = "extensions.agents.x-k8s.io"
VERSION = "v1beta1"


def definitions() -> list[Manifest]:
    """As the API server takes them: whoever asks for strict validation may write nothing else."""
    return [
        _definition(CORE, "Sandbox", "sandboxes", _object(podTemplate=_POD_TEMPLATE), _SANDBOX_STATUS),
        _definition(
            EXTENSIONS,
            "SandboxTemplate",
            "sandboxtemplates",
            _object(
                podTemplate=_POD_TEMPLATE,
                networkPolicyManagement=_one_of("Managed", "Unmanaged"),
                envVarsInjectionPolicy=_one_of("Allowed", "Overrides", "Disallowed"),
            ),
        ),
        _definition(
            EXTENSIONS,
            "SandboxWarmPool",
            "sandboxwarmpools",
            _object(replicas={"type": "integer", "minimum": 0}, sandboxTemplateRef=_NAMED),
            _object(replicas={"type": "integer"}, readyReplicas={"type": "integer"}),
        ),
        _definition(
            EXTENSIONS,
            "SandboxClaim",
            "sandboxclaims",
            _object(
                warmPoolRef=_NAMED,
                additionalPodMetadata=_object(annotations=_TEXTS),
                lifecycle=_object(shutdownTime=_TIME, shutdownPolicy=_one_of("Delete", "DeleteForeground", "Retain")),
            )
            | {"required": ["warmPoolRef"]},
            _object(conditions=_CONDITIONS, sandbox=_object(name=_TEXT, podIPs=_list(_TEXT))),
        ),
    ]


def _object(**properties: Manifest) -> Manifest:
    return {"type": "object", "properties": properties}


def _one_of(*values: str) -> Manifest:
    return {"type": "string", "enum": list(values)}


def _list(items: Manifest) -> Manifest:
    return {"type": "array", "items": items}


_TEXT: Manifest = {"type": "string"}
_TEXTS: Manifest = {"type": "object", "additionalProperties": _TEXT}
_TIME: Manifest = {"type": "string", "format": "date-time"}
_NAMED = _object(name=_TEXT) | {"required": ["name"]}
_CONDITION = _object(type=_TEXT, status=_TEXT, reason=_TEXT, message=_TEXT, lastTransitionTime=_TIME)
_CONDITIONS = _list(_CONDITION | {"required": ["type", "status", "reason", "message", "lastTransitionTime"]})
_SANDBOX_STATUS = _object(conditions=_CONDITIONS, podIPs=_list(_TEXT))
_POD_TEMPLATE = _object(
    metadata=_object(labels=_TEXTS, annotations=_TEXTS),
    # The API server looks at it when the pod is made.
    spec={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
)


def _definition(group: str, kind: str, plural: str, spec: Manifest, status: Manifest | None = None) -> Manifest:
    schema = _object(
        apiVersion=_TEXT, kind=_TEXT, metadata={"type": "object"}, spec=spec, **({"status": status} if status else {})
    )
    version: Manifest = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema | {"required": ["spec"]}},
    }
    if status is not None:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }
