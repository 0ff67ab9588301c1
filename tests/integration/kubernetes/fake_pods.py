"""Pods on nodes that are only said to be there, each of which answers as a sandbox does.

KWOK gives every such pod an address. In the cluster's own network all these addresses are made the node's, and one
program stands there for the sandboxd of every pod. So all of a backend runs as on any cluster, but for the nodes.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface

from deploy.cluster.cluster import Cluster
from sandbox.config import KubernetesSettings
from sandbox.kubernetes.fences import Bounds
from tests.conformance.sandbox import pods

PODS_OF_A_NODE = 250
PORT = 7070


@contextmanager
def namespace(cluster: Cluster, count: int, **settings: object) -> Iterator[KubernetesSettings]:
    """A namespace with a quota of ``count`` sandboxes, whose pods all go to nodes that are made for it."""
    cluster.add_fake_nodes(-(-count // PODS_OF_A_NODE))
    bounds = Bounds(pods=count, memory_mib=count * 32 * 1024, cpus=count)
    fake: dict[str, object] = {"node_selector": {"type": "kwok"}, "tolerations": ("kwok.x-k8s.io/node",), "port": PORT}
    # Nothing can be tried from inside of what does not run.
    fake |= {"accept_open_network": True, **settings}
    with _answering(cluster), pods.namespace(cluster, bounds, **fake) as made:
        yield made
    cluster.kubectl("delete", "nodes", "--selector=type=kwok", "--wait=false")


@contextmanager
def _answering(cluster: Cluster) -> Iterator[None]:
    inside = ["nsenter", f"--net=/proc/{cluster.pid}/ns/net"]
    addresses = str(ip_interface(cluster.layout.fake_pods).network)
    subprocess.run([*inside, "ip", "route", "replace", "local", addresses, "dev", "lo"], check=True)
    answer = [*inside, sys.executable, "-m", "sandbox.testing.sandboxd", "--port", str(PORT)]
    with subprocess.Popen(answer, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield
        assert server.stdin is not None
        server.stdin.close()
