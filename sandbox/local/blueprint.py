"""All that the processes which build a sandbox need to know: decided outside, carried over as JSON."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

MAX_MESSAGE = 150_000
"""Bytes of either when encoded; the kernel's usual bound on a message is a third higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """One sandbox to build."""

    root_mode: bool
    """Made by the superuser, onto ``host_uid``; otherwise onto the user the service runs as."""
    host_uid: int
    bubblewrap: str
    """The program that makes the machine, on the host; "" where we make it ourselves."""
    program: str
    """sandboxd, on the host."""
    tree: str
    """Root of the image, on the host; "" where it is made of ``binds`` alone."""
    binds: dict[str, str]
    """Place in the sandbox -> real path on the host, seen read-only."""
    links: dict[str, str]
    """Symbolic link in the image -> what it points to."""
    files: dict[str, str]
    """Files of the image -> their text."""
    shell: str
    folder: str
    """Of its sockets, on the host; its holder removes it."""
    egress: str
    """Socket in the sandbox that leads out of it; "" where nothing does."""
    memory_bytes: int
    disk_bytes: int
    processes: int
    lifetime_s: float

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Blueprint":
        """Comes from our own other end, so only a mismatch of versions can make this fail."""
        known = json.loads(data)
        names = {field.name for field in fields(cls)}
        if names != known.keys():
            raise TypeError(f"not a blueprint: {sorted(names ^ known.keys())}")
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a blueprint: it stands, or ``step`` was refused by the kernel."""

    step: str = ""
    detail: str = ""
    namespaces: str = ""
    """What holds the sandbox, for operators to read: ``root`` or ``user``, behind ``bubblewrap`` where that made it,
    and what bounds memory and processes."""
    memory: str = ""
    processes: str = ""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Verdict":
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How all sandboxes of one nursery are made."""

    root_mode: bool
    """By the superuser, or without privilege."""
    bubblewrap: bool
    cgroup_parents: tuple[Path, ...]
    """Where their groups are made; empty: looked for."""

    def encode(self) -> str:
        return json.dumps([self.root_mode, self.bubblewrap, *map(str, self.cgroup_parents)])

    @classmethod
    def parse(cls, text: str) -> "Way":
        root_mode, bubblewrap, *parents = json.loads(text)
        return cls(root_mode=root_mode, bubblewrap=bubblewrap, cgroup_parents=tuple(map(Path, parents)))
