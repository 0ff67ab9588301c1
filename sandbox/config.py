"""What an operator may set about sandboxes on this machine."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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
    sockets: Path | None = Field(
        None,
        description="Folder for the sockets by which sandboxes are reached; must be the service's own. Empty: one in "
        "the folder for temporary files.",
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

    sandboxd: Path | None = Field(
        None,
        description="The program that serves a container from inside. Empty: built from its source with Go, once, and "
        "kept in the user's cache.",
    )
    docker: DockerSettings = DockerSettings()

    def prefixes(self) -> tuple[Path, ...]:
        """The Python installations a sandbox sees, in the order of PATH."""
        return self.python_prefixes or tuple(dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix))))
