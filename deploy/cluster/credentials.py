"""The keys and certificates of one cluster, and the kubeconfigs that carry them.

Every program gets an identity of its own, by the names that Kubernetes' default roles know
(https://kubernetes.io/docs/setup/best-practices/certificates/).
"""

import base64
import json
from pathlib import Path

import trustme

from deploy.cluster.layout import Layout

ADMINISTRATOR = "administrator"


def write(layout: Layout) -> None:
    """Make all of them anew, below the layout's ``credentials``, and the administrator's kubeconfig."""
    folder = layout.credentials
    folder.mkdir(mode=0o700)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    _save(folder, "service-accounts", authority.issue_cert(common_name="service-accounts"))
    server = authority.issue_cert(
        "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", layout.node, layout.api_service
    )
    _save(folder, "api-server", server)
    node = f"system:node:{layout.name}"
    for name, user, group in (
        (ADMINISTRATOR, "administrator", "system:masters"),
        ("kubelet", node, "system:nodes"),
        ("kube-controller-manager", "system:kube-controller-manager", None),
        ("kube-scheduler", "system:kube-scheduler", None),
        ("kube-proxy", "system:kube-proxy", None),
    ):
        # The first is of no use, but Go's programs refuse a certificate whose list of alternative names is empty.
        leaf = authority.issue_cert(name, common_name=user, organization_name=group)
        _save(folder, name, leaf)
        (folder / f"{name}.kubeconfig").write_text(_kubeconfig(layout, authority, leaf))
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text((folder / f"{ADMINISTRATOR}.kubeconfig").read_text())


def _save(folder: Path, name: str, leaf: trustme.LeafCert) -> None:
    leaf.private_key_pem.write_to_path(folder / f"{name}.key")
    leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")


def _kubeconfig(layout: Layout, authority: trustme.CA, leaf: trustme.LeafCert) -> str:
    """As JSON, which is YAML too."""
    cluster = {"server": layout.api_server, "certificate-authority-data": _base64(authority.cert_pem)}
    user = {
        "client-certificate-data": _base64(leaf.cert_chain_pems[0]),
        "client-key-data": _base64(leaf.private_key_pem),
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": layout.name, "cluster": cluster}],
            "users": [{"name": layout.name, "user": user}],
            "contexts": [{"name": layout.name, "context": {"cluster": layout.name, "user": layout.name}}],
            "current-context": layout.name,
        },
        indent=2,
    )


def _base64(blob: trustme.Blob) -> str:
    return base64.b64encode(blob.bytes()).decode()
