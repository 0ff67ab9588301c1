"""Volumes of a cluster: folders of its node, one for each claim, as a class that claims get where they name none."""

from collections.abc import Iterator
from typing import Any

from deploy.cluster.layout import Layout

_CLASS = "folders"
_NUM_VOLUMES = 32
"""Nothing makes further ones, and one that was used is not given out again."""


def storage(layout: Layout) -> Iterator[dict[str, Any]]:
    """The objects; makes the folders, which belong to whatever group the pod names (``fsGroup``)."""
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": _CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    for number in range(_NUM_VOLUMES):
        folder = layout.folder / "volumes" / str(number)
        folder.mkdir(parents=True)
        yield _volume(layout, f"folder-{number}", str(folder))


def _volume(layout: Layout, name: str, folder: str) -> dict[str, Any]:
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [layout.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "100Gi"},  # a claim asks for it; nothing bounds what is written
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": _CLASS,
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
