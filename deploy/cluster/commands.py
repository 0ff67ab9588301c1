"""What each program of a cluster is told, in the order in which they are started."""

from collections.abc import Mapping
from pathlib import Path
from string import Template

from deploy.cluster.layout import Layout

_TEMPLATES = Path(__file__).with_name("config")
# The defaults (20 to 50 a second) are the first wall that a thousand pods run into.
_RATES = ["--kube-api-qps=500", "--kube-api-burst=500"]


def commands(layout: Layout, programs: Mapping[str, Path]) -> list[list[str]]:
    return [
        [str(programs[command[0]]), *command[1:]]
        for command in (
            _etcd(layout),
            _containerd(layout),
            _api_server(layout),
            _controller_manager(layout),
            _scheduler(layout),
            _kubelet(layout),
            _proxy(layout),
            _dns(layout),
            _fake_nodes(layout),
        )
    ]


def write_config(layout: Layout) -> None:
    """The files that the commands name."""
    layout.config.mkdir()
    facts = {
        "folder": str(layout.folder),
        "containerd": str(layout.containerd),
        "authority": str(layout.credentials / "authority.pem"),
        "administrator": str(layout.kubeconfig),
        "node": layout.node,
        "pods": layout.pods,
        "cgroup": layout.cgroup,
    }
    for template in _TEMPLATES.iterdir():
        (layout.config / template.name).write_text(Template(template.read_text("utf-8")).substitute(facts))


def _etcd(layout: Layout) -> list[str]:
    # Without waiting for the disk: what this cluster holds is not worth it.
    return ["etcd", f"--data-dir={layout.folder}/etcd", "--unsafe-no-fsync", "--log-level=warn"]


def _containerd(layout: Layout) -> list[str]:
    return ["containerd", f"--config={layout.config}/containerd.toml"]


def _api_server(layout: Layout) -> list[str]:
    keys = layout.credentials
    return [
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={layout.node}",
        f"--service-cluster-ip-range={layout.services}",
        f"--tls-cert-file={keys}/api-server.pem",
        f"--tls-private-key-file={keys}/api-server.key",
        f"--client-ca-file={keys}/authority.pem",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        # Debian's etcd 3.4 cannot give what these need, and clients that try them wait half a minute before they turn
        # to the ordinary way.
        "--feature-gates=WatchList=false,ImageVolume=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/service-accounts.pem",
        f"--service-account-signing-key-file={keys}/service-accounts.key",
        # Nodes are found by their addresses: no name server knows their names.
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={keys}/administrator.pem",
        f"--kubelet-client-key={keys}/administrator.key",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    keys = layout.credentials
    return [
        "kube-controller-manager",
        f"--kubeconfig={keys}/kube-controller-manager.kubeconfig",
        "--use-service-account-credentials",
        f"--root-ca-file={keys}/authority.pem",
        f"--service-account-private-key-file={keys}/service-accounts.key",
        "--leader-elect=false",
        # A machine too busy to let its nodes be heard has not lost them.
        "--node-monitor-grace-period=600s",
        *_RATES,
    ]


def _scheduler(layout: Layout) -> list[str]:
    kubeconfig = layout.credentials / "kube-scheduler.kubeconfig"
    return ["kube-scheduler", f"--kubeconfig={kubeconfig}", "--leader-elect=false", *_RATES]


def _kubelet(layout: Layout) -> list[str]:
    return [
        "kubelet",
        f"--config={layout.config}/kubelet.yaml",
        f"--kubeconfig={layout.credentials}/kubelet.kubeconfig",
        f"--hostname-override={layout.name}",
        f"--node-ip={layout.node}",
    ]


def _proxy(layout: Layout) -> list[str]:
    return [
        "kube-proxy",
        f"--kubeconfig={layout.credentials}/kube-proxy.kubeconfig",
        f"--hostname-override={layout.name}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={layout.pods}",
        # These belong to the whole machine.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]


def _dns(layout: Layout) -> list[str]:
    return ["coredns", f"-conf={layout.config}/Corefile"]


def _fake_nodes(layout: Layout) -> list[str]:
    return [
        "kwok",
        f"--kubeconfig={layout.kubeconfig}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--cidr={layout.fake_pods}",
    ]
