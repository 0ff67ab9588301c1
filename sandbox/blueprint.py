"""All that the processes which build a sandbox need to know: decided outside, carried over as JSON."""

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """One sandbox to build."""

    name: str
    """Name of its control group; unique on this machine."""
    root_mode: bool
    """Made by the superuser, onto ``host_uid``; otherwise onto the user the service runs as."""
    host_uid: int
    binds: dict[str, str]
    """Place in the sandbox -> real path on the host, seen read-only."""
    links: dict[str, str]
    """Symbolic link in the image -> what it points to."""
    files: dict[str, str]
    """Files of the image -> their text."""
    env: dict[str, str]
    """Environment of every command."""
    shell: str
    memory_bytes: int
    disk_bytes: int
    processes: int
    lifetime_s: float
    cgroup_parents: list[str]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def parse(cls, data: dict[str, object]) -> "Blueprint":
        """Comes from our own other end, so only a mismatch of versions can make this fail."""
        names = {field.name for field in fields(cls)}
        if names != data.keys():
            raise TypeError(f"not a blueprint: {sorted(names ^ data.keys())}")
        return cls(**data)  # type: ignore[arg-type]  # the JSON of another Blueprint
