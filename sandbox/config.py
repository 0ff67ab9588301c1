"""What an operator may set about sandboxes on this machine."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SandboxSettings(BaseModel):
    """How the local backend builds its machines. Read once, at the start."""

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

    def prefixes(self) -> tuple[Path, ...]:
        """The Python installations a sandbox sees, in the order of PATH."""
        return self.python_prefixes or tuple(dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix))))
