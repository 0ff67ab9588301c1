"""What a claim is, and the kind of sandboxes it is for: pure functions of what was asked for and what is set."""

import hashlib
import json
import math
from datetime import UTC, datetime

from sandbox.config import KubernetesSettings
from sandbox.kubernetes import manifest
from sandbox.kubernetes.manifest import Manifest
from sandbox.types import SandboxSpec

EXTENSIONS = "extensions.agents.x-k8s.io"
VERSION = f"{EXTENSIONS}/v1beta1"
FOR_CLAIM = "mimo.sandbox/claim"
"""Annotation of a pod: the claim that it is for."""
_LATE_S = 60
"""A claim that nobody ended is ended by the controller, so much after its lifetime."""


def claim(
    spec: SandboxSpec, settings: KubernetesSettings, *, name: str, kind: str, service: str, now: float
) -> Manifest:
    """What asks for one sandbox; the arguments are those of :func:`manifest.pod`."""
    ends = datetime.fromtimestamp(math.ceil(now + spec.lifetime_s) + _LATE_S, UTC)
    return {
        "apiVersion": VERSION,
        "kind": "SandboxClaim",
        "metadata": manifest.about(spec, settings, name=name, service=service, now=now),
        "spec": {
            "warmPoolRef": {"name": kind},
            "additionalPodMetadata": {"annotations": {FOR_CLAIM: name}},
            "lifecycle": {"shutdownTime": ends.strftime("%Y-%m-%dT%H:%M:%SZ"), "shutdownPolicy": "Delete"},
        },
    }


def kind(spec: SandboxSpec, settings: KubernetesSettings, warm: int) -> tuple[str, Manifest, Manifest]:
    """The template of all sandboxes that can stand for each other, and the pool of those that are held ready, so many
    as ``warm`` says; both of the name that comes first."""
    template = {
        "podTemplate": manifest.template(spec, settings),
        # The namespace has its own policies, and the controller's would let whatever is its router in.
        "networkPolicyManagement": "Unmanaged",
        "envVarsInjectionPolicy": "Disallowed",
    }
    pool: Manifest = {"replicas": warm}
    name = f"mimo-{hashlib.sha256(json.dumps([template, pool], sort_keys=True).encode()).hexdigest()[:20]}"
    labels = {manifest.POOL_LABEL: manifest.pool_key(spec, settings)}
    about = {"name": name, "namespace": settings.namespace, "labels": labels}
    return (
        name,
        {"apiVersion": VERSION, "kind": "SandboxTemplate", "metadata": about, "spec": template},
        {
            "apiVersion": VERSION,
            "kind": "SandboxWarmPool",
            "metadata": about,
            "spec": pool | {"sandboxTemplateRef": {"name": name}},
        },
    )
