"""A control group per sandbox: memory and processes of everything in it, together.

Both versions of the kernel's interface are used, whichever is writable. Where none is, the caller falls back to
per-process limits and must say so.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_V1_CONTROLLERS = ("memory", "pids")
_MOST_MEMORY, _MOST_PROCESSES = 2**50, 2**22


@dataclass(frozen=True, slots=True)
class Group:
    """One sandbox's control group: a folder in version 2, one per controller in version 1."""

    version: int
    folders: tuple[Path, ...]
    """In version 1 in the order memory, pids."""

    def add(self, pid: int) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def bound(self, memory_bytes: int, processes: int) -> None:
        """Set both bounds; they may only become lower."""
        if self.version == 2:
            (self.folders[0] / "memory.max").write_text(str(memory_bytes))
            (self.folders[0] / "pids.max").write_text(str(processes))
            _write_if_there(self.folders[0] / "memory.swap.max", "0")
        else:
            (self.folders[0] / "memory.limit_in_bytes").write_text(str(memory_bytes))
            (self.folders[1] / "pids.max").write_text(str(processes))
            _write_if_there(self.folders[0] / "memory.memsw.limit_in_bytes", str(memory_bytes))

    def remove(self) -> None:
        """Remove the folders; their processes have just been ended, which takes the kernel a moment to notice."""
        for folder in self.folders:
            for _ in range(200):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break


def make(name: str, parents: tuple[Path, ...]) -> Group | None:
    """A new group called ``name``, bounded by nothing yet; None where this process may not make and bound one."""
    for version, places in _candidates(parents):
        group = Group(version, tuple(place / name for place in places))
        try:
            for folder in group.folders:
                folder.mkdir()
            group.bound(_MOST_MEMORY, _MOST_PROCESSES)
        except OSError:
            # Whether a hierarchy is delegated to us shows only when trying.
            for folder in group.folders:
                if folder.is_dir():
                    folder.rmdir()
        else:
            return group
    return None


def remove_abandoned(prefix: str, parents: tuple[Path, ...]) -> None:
    """Remove empty groups called ``prefix<pid>-...`` whose owner is gone: a killed service cannot do it itself."""
    for _, places in _candidates(parents):
        for place in places:
            for folder in place.glob(f"{prefix}*"):
                owner = folder.name.removeprefix(prefix).partition("-")[0]
                if owner.isdigit() and not Path("/proc", owner).exists():
                    try:
                        folder.rmdir()
                    except OSError:
                        continue  # still in use, or removed by somebody else at the same time


def _write_if_there(file: Path, text: str) -> None:
    """Swap accounting can be compiled out or switched off at boot."""
    if file.exists():
        file.write_text(text)


def _candidates(parents: tuple[Path, ...]) -> list[tuple[int, tuple[Path, ...]]]:
    if parents:
        return [(2, parents) if len(parents) == 1 else (1, parents)]
    unified, old = _mounts()
    own = _own_paths()
    found: list[tuple[int, tuple[Path, ...]]] = []
    if unified:
        below = unified / own.get("", "/").lstrip("/")
        found += [(2, (place,)) for place in dict.fromkeys((below, below.parent, unified)) if _delegates(place)]
    if all(controller in old for controller in _V1_CONTROLLERS):
        found.append((1, tuple(old[name] / own.get(name, "/").lstrip("/") for name in _V1_CONTROLLERS)))
        found.append((1, tuple(old[name] for name in _V1_CONTROLLERS)))
    return found


def _delegates(place: Path) -> bool:
    """Whether children of a version 2 group get the memory and pids controllers."""
    try:
        controllers = (place / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
    return {"memory", "pids"} <= set(controllers)


def _mounts() -> tuple[Path | None, dict[str, Path]]:
    """Where version 2 is mounted, and where each controller of version 1 is."""
    unified: Path | None = None
    old: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        place = Path(left.split(" ")[4])
        if kind == "cgroup2" and os.access(place, os.R_OK):
            unified = unified or place
        elif kind == "cgroup":
            old |= {name: place for name in options.split(",") if name in _V1_CONTROLLERS}
    return unified, old


def _own_paths() -> dict[str, str]:
    """Controller -> path of the group this process is in; the empty name is version 2."""
    paths: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(","), path)
    return paths
