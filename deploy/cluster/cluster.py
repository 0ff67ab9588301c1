"""The door to a cluster: start one in a folder, find it again, give it images and fake nodes, end it.

All its processes live in namespaces of their own (processes, mounts, network), below one first process
(``deploy.cluster.node``). The host is joined to its network by one pair of devices, and reaches the API server, pods
and services at their own addresses.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from deploy.cluster import cgroups, credentials, programs
from deploy.cluster.commands import commands, write_config
from deploy.cluster.errors import ClusterError
from deploy.cluster.layout import Layout
from deploy.cluster.node import COMMANDS, DEVICE
from deploy.cluster.storage import storage
from deploy.images.build import build_images

_ROOT = Path(__file__).parents[2]
_RECORD = "cluster.json"
_NUMBERS = range(100, 200)
_START_PATIENCE_S = 180.0
_END_PATIENCE_S = 60.0
_LOG_TAIL = 600
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
_SUPERUSER = "a cluster needs the superuser"


class _Record(BaseModel):
    """What has to be known to find a cluster again."""

    model_config = ConfigDict(frozen=True)

    name: str
    number: int
    pid: int
    """Of the first process in its namespaces, as the host counts."""
    born: int
    """When that process started, in ticks since the machine did: the number alone may be another's by now."""
    kubectl: Path


def missing() -> str:
    """Why no cluster can be started here, and what to do; "" where one can."""
    if os.geteuid() != 0:
        return _SUPERUSER
    if reason := programs.missing():
        return f"not installed: {reason}; as the superuser: deploy/setup.sh --for-tests"
    if not programs.are_built():
        return "the cluster's programs are not built yet (minutes, once): python -m deploy.cluster build"
    return ""


def start(folder: Path, name: str = "mimo", *, with_us: bool = False, has_image_volumes: bool = False) -> "Cluster":
    """Start a cluster that keeps everything in ``folder``; ready for pods on return.

    The folder must not exist, or be what is left of a cluster that has ended.

    Args:
        with_us: it ends when this thread does, however that ends.
        has_image_volumes: volumes can be images, by another containerd than Debian's; compiled when it is not yet.

    Raises:
        ClusterError: it cannot be, or does not get ready.
    """
    if os.geteuid() != 0:
        raise ClusterError(_SUPERUSER)
    if not _NAME.fullmatch(name):
        raise ClusterError(f"{name!r} is no name for a node: small letters, digits and - within, 30 at most")
    built = programs.build()
    if has_image_volumes:
        built["containerd"] = programs.compiled("containerd") / "containerd"
    _make_room(folder)
    folder = folder.resolve()
    layout = _claim_network(folder, name)
    try:
        credentials.write(layout)
        write_config(layout)
        (folder / COMMANDS).write_text(json.dumps(commands(layout, built), indent=2))
        cluster = _start_node(layout, built["kubectl"], with_us=with_us)
    except BaseException:
        _run("ip", "link", "delete", layout.link)
        raise
    try:
        _join_network(cluster)
        _wait_until_ready(cluster, build_images(folder / "images", built["pause"]))
    except BaseException:
        cluster.stop(keep_folder=True)  # its logs say why
        raise
    return cluster


def find(folder: Path) -> "Cluster | None":
    """The cluster of a folder; ``None`` where there is none that lives."""
    try:
        record = _Record.model_validate_json((folder / _RECORD).read_text())
    except FileNotFoundError:
        return None
    layout = Layout(folder.resolve(), record.name, record.number)
    cluster = Cluster(layout, record.pid, record.born, record.kubectl)
    return cluster if cluster.lives() else None


@dataclass(frozen=True, slots=True)
class Cluster:
    """One that was started."""

    layout: Layout
    pid: int
    born: int
    kubectl_program: Path
    _outer: subprocess.Popen[bytes] | None = None
    """Our child, the parent of the first process, where this process started it."""

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def containerd(self) -> Path:
        """The socket of the container runtime, as the host sees it."""
        return Path(f"/proc/{self.pid}/root{self.layout.containerd}")

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What it says.

        Raises:
            ClusterError: with what it complains about.
        """
        return _run(str(self.kubectl_program), f"--kubeconfig={self.kubeconfig}", *arguments, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Make these objects, or make them so.

        Raises:
            ClusterError: with what the server complains about.
        """
        self.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def load(self, archive: Path, name: str = "") -> None:
        """Give the node the images of an archive; one whose name, without a tag, is given also under its digest."""
        by_digest = ["--digests", f"--base-name={name}"] if name else []
        self._runtime("images", "import", *by_digest, str(archive))

    def digest(self, image: str) -> str:
        """``sha256:...`` of an image that the node has."""
        _, line = self._runtime("images", "list", f"name=={image}").splitlines()
        return line.split()[2]

    def tag(self, image: str, name: str) -> None:
        """Give an image that the node has another name too."""
        self._runtime("images", "tag", image, name)

    def add_fake_nodes(self, count: int) -> None:
        """Nodes on which pods that tolerate the taint ``kwok.x-k8s.io/node`` are said to run; nothing runs there."""
        nodes = [_fake_node(number) for number in range(count)]
        self.apply(*nodes)
        names = [f"node/{node['metadata']['name']}" for node in nodes]
        self.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *names)

    def process(self, program: str) -> int:
        """The process of one of its programs, such as ``kube-apiserver``; ended, it is started again.

        Raises:
            ClusterError: it is not running at this moment.
        """
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].endswith(f"/{program}".encode()):
                return int(child)
        raise ClusterError(f"{program} is not running")

    def lives(self) -> bool:
        return _birth(self.pid) == self.born

    def stop(self, *, keep_folder: bool = False) -> None:
        """End all its processes; with them go its mounts, its network and its control groups, and last its folder.

        Raises:
            ClusterError: something stays.
        """
        if self.lives():
            self._signal(signal.SIGTERM)
            give_up = time.monotonic() + _END_PATIENCE_S
            while self.lives():
                if time.monotonic() > give_up:
                    self._signal(signal.SIGKILL)
                time.sleep(0.05)
        if self._outer is not None:
            self._outer.wait()
        cgroups.remove(self.layout.cgroup)
        # It goes with the network, but seconds later, and perhaps just now.
        subprocess.run(["ip", "link", "delete", self.layout.link], capture_output=True, check=False)
        (self.layout.folder / _RECORD).unlink()
        if not keep_folder:
            shutil.rmtree(self.layout.folder)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was about to end anyway
            os.kill(self.pid, number)

    def _runtime(self, *arguments: str) -> str:
        return _run("ctr", f"--address={self.containerd}", "--namespace=k8s.io", *arguments)


def _make_room(folder: Path) -> None:
    if find(folder) is not None:
        raise ClusterError(f"a cluster runs already in {folder}")
    if (folder / COMMANDS).exists():
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ClusterError(f"{folder} holds something else than a cluster") from error


def _claim_network(folder: Path, name: str) -> Layout:
    """Take a free range of addresses: whoever makes the devices of its number has it."""
    for number in _NUMBERS:
        layout = Layout(folder, name, number)
        if not _run("ip", "-oneline", "route", "show", "root", layout.network):
            with contextlib.suppress(_Taken):
                _run("ip", "link", "add", layout.link, "type", "veth", "peer", "name", _far_end(layout))
                return layout
    raise ClusterError(f"no range of addresses from 10.{_NUMBERS[0]}.0.0/16 to 10.{_NUMBERS[-1]}.0.0/16 is free")


def _start_node(layout: Layout, kubectl: Path, *, with_us: bool) -> Cluster:
    separate = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"]
    if with_us:
        separate = ["setpriv", "--pdeathsig=KILL", *separate, "--kill-child=TERM"]
    node = [sys.executable, "-m", "deploy.cluster.node", str(layout.folder), layout.name, str(layout.number)]
    with (layout.folder / "node.log").open("wb") as log:
        outer = subprocess.Popen(
            [*separate, *node], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    pid = _only_child(outer)
    cluster = Cluster(layout, pid, _birth(pid), kubectl, outer)
    record = _Record(name=layout.name, number=layout.number, pid=pid, born=cluster.born, kubectl=kubectl)
    (layout.folder / _RECORD).write_text(record.model_dump_json())
    return cluster


def _join_network(cluster: Cluster) -> None:
    layout = cluster.layout
    _run("ip", "link", "set", _far_end(layout), "netns", str(cluster.pid), "name", DEVICE)
    _run("ip", "address", "add", f"{layout.host}/30", "dev", layout.link)
    _run("ip", "link", "set", layout.link, "up")
    _run("ip", "route", "add", layout.network, "via", layout.node)


def _wait_until_ready(cluster: Cluster, archives: Mapping[str, Path]) -> None:
    layout = cluster.layout
    _wait_for(cluster, "containerd", cluster.containerd.exists)
    for name, archive in archives.items():
        cluster.load(archive, name.rpartition(":")[0])
    trusted = ssl.create_default_context(cafile=str(layout.credentials / "authority.pem"))
    _wait_for(cluster, "kube-apiserver", lambda: _says_ready(f"{layout.api_server}/readyz", trusted))
    node = f"node/{layout.name}"
    cluster.kubectl("wait", "--for=create", "--timeout=120s", node)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=120s", node)
    cluster.apply(*storage(layout))
    cluster.kubectl("wait", "--for=create", "--timeout=120s", "--namespace=default", "serviceaccount/default")
    _wait_for(cluster, "coredns", lambda: _says_ready(f"http://{layout.node}:8181/ready", trusted))


def _says_ready(url: str, trusted: ssl.SSLContext) -> bool:
    try:
        return httpx.get(url, verify=trusted, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _wait_for(cluster: Cluster, program: str, is_ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _START_PATIENCE_S
    while not is_ready():
        if not cluster.lives() or time.monotonic() > give_up:
            log = cluster.layout.logs / f"{program}.log"
            said = log.read_text(errors="replace")[-_LOG_TAIL:] if log.exists() else ""
            raise ClusterError(f"{program} does not get ready; see {cluster.layout.folder}; its last words: {said}")
        time.sleep(0.1)


def _only_child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        if process.poll() is not None:
            raise ClusterError("no namespaces of processes, mounts and network can be made here (unshare)")
        time.sleep(0.01)
    return int(found[0])


def _birth(pid: int) -> int:
    """The 22nd field of the process's status, see proc(5); -1 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])


def _far_end(layout: Layout) -> str:
    return f"{layout.link}-node"


def _fake_node(number: int) -> dict[str, Any]:
    resources = {"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "10Ti", "pods": "250"}
    name = f"fake-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": resources, "capacity": resources},
    }


class _Taken(ClusterError):
    """What was to be made exists."""


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()[-1000:]
        kind = _Taken if "File exists" in said else ClusterError
        raise kind(f"{Path(command[0]).name} {' '.join(command[1:])[:200]}: {said}")
    return done.stdout
