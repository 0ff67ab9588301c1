"""What an operator may set about sandboxes on this machine."""

import sys
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.errors import SandboxUnavailable
from sandbox.hosts import AllowedHost
from sandbox.pool.config import PoolSettings
from sandbox.toolbox.config import RaySettings, ToolboxSettings

FILE_VARIABLE = "MIMO_SANDBOX_SETTINGS"
"""Names a TOML file with the settings of sandboxes."""
_OBJECT_NAME = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
"""Of an object of a cluster."""


class LocalSettings(BaseModel):
    """How sandboxes of this machine are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease_s: float = Field(
        60.0, gt=0, description="A sandbox ends by itself when it has not heard from the service for so long, s."
    )
    sockets: Path | None = Field(
        None,
        description="Folder for the sockets by which sandboxes are reached; must be the service's own, and the next "
        "service's that shall take them over. Empty: one in the folder for temporary files.",
    )
    maker: Literal["own", "bubblewrap"] = Field(
        "own",
        description="Who makes a sandbox's namespaces. `own`: this service. `bubblewrap`: that program, for machines "
        "where it may make user namespaces and others may not.",
    )
    bubblewrap: Path | None = Field(None, description="bwrap, for the maker of that name. Empty: the one in PATH.")
    oldest_bubblewrap: str = Field(
        "0.12.0",
        pattern=r"^\d+\.\d+\.\d+$",
        description="Older ones are refused: before 0.12.0, paths that it makes could lead out of the sandbox "
        "(CVE-2026-87766). Name the version of a distribution's own that has the repair, such as 0.9.0, at your word.",
    )


class DockerSettings(BaseModel):
    """How the Docker backend makes its containers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = Field(
        None,
        description="Where the Docker daemon listens, such as unix:///var/run/docker.sock. Empty: as the variable "
        "DOCKER_HOST says, or else the usual socket. It must see this machine's files at the same paths.",
    )
    runtime: str | None = Field(None, description="Container runtime, such as runsc. Empty: the daemon's own choice.")
    cpus: float | None = Field(None, gt=0, description="Processors one sandbox may keep busy. Empty: all.")
    uid: int = Field(
        1000,
        gt=0,
        description="User and group id of everything that runs in a sandbox. Where the service itself is that user, "
        "the next id is taken: the two must not be one.",
    )
    lease_s: float = Field(
        60.0, gt=0, description="A sandbox ends by itself when it has not heard from the service for so long, s."
    )
    sealed: bool = Field(
        False, description="Commands may open no network socket at all, not even to servers of their own on 127.0.0.1."
    )
    internet: str | None = Field(
        None,
        description="The Docker network that sandboxes with network `internet` join, which is the operator's consent "
        "to that: they reach all that it reaches. Empty: such sandboxes are refused.",
    )
    sockets: Path | None = Field(
        None,
        description="Folder for the sockets by which sandboxes are reached; must be the service's own. Empty: one in "
        "the folder for temporary files.",
    )


class KubernetesSettings(BaseModel):
    """How the Kubernetes backend makes its pods."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: Path | None = Field(
        None,
        description="How to reach the cluster. Empty: the pod's own account where the service runs in a pod, or else "
        "as the variable KUBECONFIG says, or ~/.kube/config.",
    )
    context: str | None = Field(None, description="Context of the kubeconfig. Empty: its current one.")
    namespace: str = Field(
        "mimo-sandboxes", min_length=1, description="Where pods are made; nothing else should live in it."
    )
    provider: Literal["pods", "claims"] = Field(
        "pods",
        description="Where pods come from. `pods`: made here, one write each. `claims`: from the agent-sandbox "
        "controller (API version v1beta1), which must run in the cluster with its extensions.",
    )
    warm: int = Field(
        0,
        ge=0,
        description="With `claims`, how many pods the controller holds ready of every kind that was asked for within a "
        "day.",
    )
    service: str = Field(
        "",
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$",
        description="Marks the pods of this service, so that after a restart it sees those it takes over. Empty: "
        "another mark at every start.",
    )
    agent_image: str = Field(
        "mimo-coder/sandboxd:latest",
        min_length=1,
        description="Image that holds nothing but /sandboxd, the program that serves a pod from inside.",
    )
    host_image: str | None = Field(
        None, description="The image taken where `host` is asked for: a cluster has no view of this machine's programs."
    )
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When nodes fetch images."
    )
    profile: Literal["restricted", "root"] = Field(
        "restricted",
        description="`restricted`: an ordinary user without any capability (Pod Security restricted). `root`: the "
        "superuser of a user namespace, for images that need one; refused where the cluster makes no user namespace.",
    )
    uid: int | None = Field(
        None,
        gt=0,
        description="User and group id of everything that runs in a restricted sandbox, such as one that the images "
        "know by name. Empty: an id of its own for each, for a node's kernel counts by user; with one id for all, the "
        "bound on processes is the node's alone (podPidsLimit).",
    )
    network: Literal["sealed", "fence", "policy"] = Field(
        "sealed",
        description="How pods are kept from the network. `sealed`: commands can open no network socket, not even to "
        "themselves. `fence`: a first container leaves only loopback and answers to us; needs a namespace that admits "
        "its CAP_NET_ADMIN. `policy`: as the cluster's network policies say.",
    )
    accept_open_network: bool = Field(
        False, description="Serve even where the trial at the start reaches something from inside a sandbox."
    )
    outside: tuple[str, ...] = Field(
        ("tcp:1.1.1.1:443", "udp:1.1.1.1:53"),
        description="Addresses outside the cluster that the trial must not reach, as network:host:port.",
    )
    service_account: str = Field("mimo-sandbox", description="Account of the pods; it has no right and no token.")
    runtime_class: str | None = Field(
        None, pattern=_OBJECT_NAME, description="Runtime class, such as gvisor. Empty: the cluster's default."
    )
    priority_class: str | None = Field(
        None,
        pattern=_OBJECT_NAME,
        description="Priority class of the pods, such as a low one. Empty: as the cluster has it.",
    )
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that pods may run on.")
    tolerations: tuple[str, ...] = Field(
        (), description="Keys of the taints that pods do not mind, such as that of nodes kept for sandboxes alone."
    )
    disk: Literal["memory", "node"] = Field(
        "memory",
        description="Where a sandbox's files are. `memory`: bounded exactly, and reserved beside its memory. `node`: "
        "on the node's disk; a sandbox over its bound is evicted within about a minute.",
    )
    cpu_request: float = Field(0.25, gt=0, description="Processors reserved for one sandbox.")
    cpus: float | None = Field(None, gt=0, description="Processors one sandbox may keep busy. Empty: all of its node.")
    port: int = Field(7070, gt=0, lt=65_536, description="TCP port of sandboxd in the pod.")
    lease_s: float = Field(
        60.0, gt=0, description="A sandbox ends by itself when it has not heard from the service for so long, s."
    )
    start_timeout_s: float = Field(
        120.0, gt=0, description="How long a pod may take until it serves: room on a node, its image, its start, s."
    )
    patience_s: float = Field(
        30.0, gt=0, description="How long one call to an API server that is away or busy is repeated, s."
    )


class EgressSettings(BaseModel):
    """How sandboxes with network `proxy` reach the hosts that they may reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_hosts: tuple[AllowedHost, ...] = Field(
        (),
        max_length=200,
        description="Hosts that sandboxes in which a model works may reach by name, such as packages.example.org, "
        "*.files.example.org or git.example.org:22. Empty: no network. Those that check its work never have one.",
    )
    egressd: Path | None = Field(
        None,
        description="The program that is their proxy. Empty: built from its source with Go 1.24 or newer, once, and "
        "kept in the user's cache.",
    )
    allow_addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Address ranges that allowed hosts may have beside public ones, such as that of a package mirror "
        "of one's own. Link-local addresses and clouds' metadata stay out of reach.",
    )
    resolver: str | None = Field(
        None,
        pattern=r"^(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):\d+$",
        description="Address and port of the DNS server to ask for hosts. Empty: as this machine does.",
    )
    log: Path | None = Field(
        None,
        description="Folder for one file per run with a line of JSON for each connection. Empty: the service's log "
        "only.",
    )


class SandboxSettings(BaseModel):
    """How backends build their machines. Read once, at the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read_only_paths: tuple[Path, ...] = Field(
        tuple(Path(path) for path in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives")),
        description="Host folders and files seen read-only at the same path. Those that do not exist are left out.",
    )
    python_prefixes: tuple[Path, ...] = Field(
        (),
        description="Python installations seen read-only at the same path; the `bin` of the first comes first in PATH. "
        "Empty: the interpreter that runs the service and its virtual environment.",
    )
    path: tuple[str, ...] = Field(
        ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
        description="Folders of PATH in the sandbox, after those of the Python installations.",
    )
    env: dict[str, str] = Field({}, description="Variables that every command sees. Never put a secret here.")
    namespaces: Literal["auto", "root", "user"] = Field(
        "auto",
        description="How namespaces are made: `root` as the superuser, onto a host user id that nobody has; `user` "
        "without any privilege, onto the service's own user id; `auto` is `root` where the service is the superuser.",
    )
    first_host_uid: int = Field(
        1_600_000_000,
        ge=65_536,
        le=2_000_000_000,
        description="Sandboxes made as root run as one of the million host user ids from here on.",
    )
    cgroup_parents: tuple[Path, ...] = Field(
        (),
        description="Writable cgroup folders below which each sandbox gets its own: one for version 2, or one per "
        "controller (memory, pids) for version 1. Empty: looked for.",
    )

    images: Path | None = Field(
        None,
        description="Folder of the images that were brought in for local sandboxes (python -m sandbox.images). Empty: "
        "one in the folder for the user's data.",
    )
    sandboxd: Path | None = Field(
        None,
        description="The program that serves a sandbox from inside. Empty: the one that was shipped, or else one built "
        "from its source with Go, once, and kept in the user's cache.",
    )
    egress: EgressSettings = EgressSettings()
    local: LocalSettings = LocalSettings()
    docker: DockerSettings = DockerSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    toolbox: ToolboxSettings = Field(ToolboxSettings(), description="How much a worker does at once, and for whom.")
    pool: PoolSettings | None = Field(
        None,
        description="Sandboxes that a worker keeps ready. Empty: none; an empty table `[pool]`: as it says itself.",
    )
    ray: RaySettings | None = Field(
        None, description="Where executors are in actors of a Ray cluster; needs the extra `ray`. Empty: in the worker."
    )

    def image_folder(self) -> Path:
        return self.images or user_data_path("mimo-coder") / "images"

    def prefixes(self) -> tuple[Path, ...]:
        """The Python installations a sandbox sees, in the order of PATH."""
        return self.python_prefixes or tuple(dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix))))


def sandbox_settings(environment: Mapping[str, str]) -> SandboxSettings:
    """The settings in the TOML file that ``MIMO_SANDBOX_SETTINGS`` names, as ``[kubernetes] network = "fence"``; those
    that it does not have, and all where the variable is unset or empty, are as they are by themselves.

    Raises:
        SandboxUnavailable: the file is not there, or says what cannot be.
    """
    file = environment.get(FILE_VARIABLE)
    if not file:
        return SandboxSettings()
    try:
        return SandboxSettings.model_validate(tomllib.loads(Path(file).read_text()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
        raise SandboxUnavailable(f"the settings of sandboxes in {file} cannot be: {problems}") from error
    except (OSError, ValueError) as error:
        raise SandboxUnavailable(f"the settings of sandboxes ({FILE_VARIABLE}) cannot be read: {error}") from error
