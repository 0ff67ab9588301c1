"""Where the things of one cluster are: files in its folder, addresses in its networks."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """One cluster.

    Attributes:
        folder: holds all its state, and nothing else.
        name: of the cluster, of its node, and of its control group.
        number: the second byte of every address of it, so that clusters on one machine do not meet.
    """

    folder: Path
    name: str
    number: int

    @property
    def network(self) -> str:
        """All addresses: the host reaches them through the node."""
        return f"10.{self.number}.0.0/16"

    @property
    def pods(self) -> str:
        return f"10.{self.number}.0.0/20"

    @property
    def fake_pods(self) -> str:
        """Addresses that pods of fake nodes are said to have; nothing answers there."""
        return f"10.{self.number}.64.1/18"

    @property
    def services(self) -> str:
        return f"10.{self.number}.128.0/20"

    @property
    def api_service(self) -> str:
        """Kubernetes gives its own service the first address of the range."""
        return f"10.{self.number}.128.1"

    @property
    def node(self) -> str:
        return f"10.{self.number}.255.2"

    @property
    def host(self) -> str:
        """The host's end of the only line into the cluster."""
        return f"10.{self.number}.255.1"

    @property
    def link(self) -> str:
        """The network device of the host's end."""
        return f"mimo{self.number}"

    @property
    def api_server(self) -> str:
        return f"https://{self.node}:6443"

    @property
    def cgroup(self) -> str:
        return f"mimo-cluster-{self.name}-{self.number}"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def containerd(self) -> Path:
        """The socket of the container runtime, as the node sees it: a name that is never too long for one."""
        return Path("/run/containerd/containerd.sock")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"
