"""How the first process of a sandbox sees that there is not enough memory. Two ways, by what the host allows."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandbox import cgroups

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


class MemoryWatch(Protocol):
    """The bound on the memory of all commands together."""

    def num_kills(self) -> int:
        """Processes that the kernel ended for want of memory since the sandbox began."""

    def exceeded(self) -> bool:
        """Whether commands now use more than their bound. Asked some times a second while one runs."""


@dataclass(frozen=True, slots=True)
class GroupWatch:
    """Reads a control group's files, opened before the host went out of sight.

    The group's own bound is higher by the size of the disk, for files here are memory too and the kernel does not tell
    them apart when it counts. This is the bound proper.
    """

    kills_fd: int
    usage_fd: int
    memory_bytes: int

    def num_kills(self) -> int:
        return cgroups.count_kills(os.pread(self.kills_fd, 65536, 0).decode())

    def exceeded(self) -> bool:
        return cgroups.process_memory(os.pread(self.usage_fd, 65536, 0).decode()) > self.memory_bytes


@dataclass(frozen=True, slots=True)
class ProcessWatch:
    """Adds up all processes itself, where no control group is to be had; each has a bound of its own beside."""

    memory_bytes: int

    def num_kills(self) -> int:
        return 0

    def exceeded(self) -> bool:
        # The first sum counts memory that a fork shares with its parent twice, the second does not but takes longer.
        processes = [folder for folder in _PROC.iterdir() if folder.name.isdigit() and folder.name != "1"]
        return all(sum(map(each, processes)) > self.memory_bytes for each in (_private_bytes, _proportional_bytes))


def _private_bytes(folder: Path) -> int:
    """Memory of one process that is no file's."""
    try:
        _, resident, shared = (folder / "statm").read_text().split()[:3]
    except OSError:
        return 0  # ended meanwhile
    return (int(resident) - int(shared)) * _PAGE


def _proportional_bytes(folder: Path) -> int:
    """The same with shared parts shared out. Our own keepers let nobody look, and are small."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
