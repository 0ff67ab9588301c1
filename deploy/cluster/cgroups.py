"""The control group below which all containers of one cluster are, in every hierarchy of either version."""

import time
from pathlib import Path

from deploy.cluster.errors import ClusterError

_PATIENCE_S = 20.0
# What a new group of the first version must be told before anything can join it.
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def create(name: str) -> None:
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for setting in _CPUSET:
            inherited = hierarchy / setting
            if inherited.exists():
                (group / setting).write_text(inherited.read_text())


def remove(name: str) -> None:
    """Remove it and all below; the processes in it must have been ended.

    Raises:
        ClusterError: some of them do not go.
    """
    give_up = time.monotonic() + _PATIENCE_S
    for hierarchy in _hierarchies():
        while not _is_removed(hierarchy / name):
            if time.monotonic() > give_up:
                raise ClusterError(f"the control group {hierarchy / name} is still in use")
            time.sleep(0.05)


def exists(name: str) -> bool:
    return any((hierarchy / name).exists() for hierarchy in _hierarchies())


def _is_removed(group: Path) -> bool:
    """Try, innermost first."""
    inner = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    for path in (*inner, group):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # busy: its last process is just ending
            return False
    return True


def _hierarchies() -> list[Path]:
    """Where they are mounted; each line of mountinfo ends with "- TYPE SOURCE OPTIONS"."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1] in ("cgroup", "cgroup2")]
