"""The machine wanted, the running machine, and how a command ended.

Nothing here knows of agents, models or a particular backend.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sandbox.hosts import AllowedHost


class NetworkMode(StrEnum):
    """What a sandbox may reach."""

    NONE = "none"
    """An empty network namespace: its own loopback, and nothing else."""
    PROXY = "proxy"
    """As with ``none``, and a proxy inside that leads to the hosts in ``allow_hosts``, by name."""
    INTERNET = "internet"
    """Whatever the network reaches that the operator has set aside for this; refused where there is none."""


class Capability(StrEnum):
    """What not every backend has. Whatever is not listed here, all of them do alike."""

    BOUNDED_FILES = "bounded_files"
    """So many files are no more: elsewhere a command that makes them without end fills the memory with their names."""
    HOST = "host"
    """The image ``host`` is a view of this machine's own programs, and not some other image that stands for it."""
    NO_DEVICE = "no_device"
    """Of the network it sees loopback alone. Elsewhere it may see a device, through which nothing goes."""
    OWN_GROUPS = "own_groups"
    """A namespace of control groups: where it is among those of its machine, it does not see."""
    OWN_ID = "own_id"
    """A user id that no other sandbox of its machine has, and no image a name for. Elsewhere it is one for all."""
    OWN_USERS = "own_users"
    """A user namespace: on the host, the sandbox's user is one that nobody else is."""
    ONE_DISK = "one_disk"
    """The bound of the disk is for all writable folders together, not for each."""
    PLAIN_ROOT = "plain_root"
    """Nothing but what the image holds is seen: no ``/sys``, no devices beside the few that every program needs."""
    REATTACH = "reattach"
    """A command goes on while its client is away, and whoever has the sandbox's key finds it again."""
    IMAGES = "images"
    """Images beside ``host``, each with a root file system of its own."""
    CHECKPOINTS = "checkpoints"
    """Its sandboxes are :class:`~sandbox.checkpoints.rewindable.Rewindable`."""
    PROXY = "proxy"
    """The network mode of that name."""


class Resources(BaseModel):
    """Upper bounds for everything that runs in one sandbox, together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_mib: int = Field(1024, gt=0, description="Memory of all processes together, MiB.")
    processes: int = Field(256, gt=0, description="Processes and threads alive at once.")
    disk_mib: int = Field(1024, gt=0, description="Everything written in the sandbox, MiB.")


class SandboxSpec(BaseModel):
    """The machine wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field("host", min_length=1, description="Name of a read-only root file system the backend knows.")
    resources: Resources = Resources()
    network: NetworkMode = NetworkMode.NONE
    allow_hosts: tuple[AllowedHost, ...] = Field(
        (), max_length=200, description="With network `proxy`: the hosts that may be reached."
    )
    run_id: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][\w-]{0,99})?$",
        description="Whose sandbox it is, as records of its connections name it. One with network `proxy` that is for "
        "a single run is made for it, never taken from those that wait.",
    )
    lifetime_s: float = Field(3600.0, gt=0, description="The sandbox is ended this long after its start, s.")

    @model_validator(mode="after")
    def _hosts_need_a_proxy(self) -> Self:
        if (self.network is NetworkMode.PROXY) != bool(self.allow_hosts):
            raise ValueError(
                "allow_hosts names the hosts of network 'proxy', which needs at least one, and of no other"
            )
        return self


@dataclass(frozen=True, slots=True)
class Command:
    """One shell command. ``request_id`` is the caller's id: a repeated id never runs twice in one sandbox."""

    line: str
    request_id: str
    timeout_s: float
    cwd: str = "/workspace"
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    output_limit_bytes: int = 16 * 1024 * 1024
    """Output beyond this ends the command with :class:`OutputLimit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """What every outcome carries."""

    output: bytes = b""
    """Standard output and error in the order they were written, as far as kept."""
    total_bytes: int = 0
    """Bytes the command wrote, kept or not."""
    run_s: float = 0.0
    """Wall time from start to end, s."""
    boot_id: str = ""
    """Random id of the sandbox the command ran in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited(_Ended):
    """The shell ended by itself with ``code``."""

    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled(_Ended):
    """The shell was ended by ``signal``, not by us."""

    signal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut(_Ended):
    """The deadline passed; the whole process tree was ended and ``output`` is what came before."""

    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKilled(_Ended):
    """The memory limit was reached and the kernel ended the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimit(_Ended):
    """The command wrote more than its output limit and was ended."""

    limit_bytes: int


Outcome = Exited | Signalled | TimedOut | OomKilled | OutputLimit
"""How a command ended: data for whoever asked. A lost or broken machine is raised instead (``sandbox.errors``)."""


class Sandbox(Protocol):
    """A running machine. Paths are absolute inside it; the repository lives in ``/workspace``.

    Every method raises :class:`~sandbox.errors.SandboxLost` once the machine is gone.
    """

    boot_id: str

    async def exec(self, command: Command) -> Outcome:
        """Run one command in a fresh shell and wait for it; the deadline is enforced inside the sandbox."""

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """The bytes of a regular file; links are not followed.

        Raises:
            FileNotFoundError, IsADirectoryError: as usual.
            SandboxRejected: the file is larger than ``max_bytes``, or not a regular file.
        """

    async def write(self, path: str, data: bytes) -> None:
        """Replace a file as a whole, keeping its mode; parent directories are made. Links are not followed.

        Raises:
            OSError: with ``ENOSPC`` where the disk bound is reached.
        """

    async def upload(self, tar: bytes, path: str = "/workspace") -> None:
        """Unpack a tar archive of ours below ``path``."""

    async def download(self, path: str = "/workspace", max_bytes: int = 512 * 1024 * 1024) -> bytes:
        """A tar archive of everything below ``path``; it was made by hostile code and is to be read as such.

        Raises:
            SandboxRejected: the tree is larger than ``max_bytes``.
        """

    async def close(self) -> None:
        """End every process and free everything. Safe to call twice."""


class Backend(Protocol):
    """Starts sandboxes of one kind."""

    name: str
    capabilities: frozenset[Capability]

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        """Start one sandbox.

        Raises:
            SandboxUnavailable: this machine cannot run such a sandbox; says what to install.
            UnknownImage, ImageMismatch: the spec names an image that is not there, or not the one that is.
        """

    async def close(self) -> None:
        """End every sandbox of this backend that is still alive."""


@runtime_checkable
class TriedBackend(Backend, Protocol):
    """A backend that first tries on sandboxes of its own whether they are held as its settings say."""

    @property
    def needs_trial(self) -> bool:
        """Whether its settings ask for the trial."""

    async def prove(self) -> None:
        """Have the trial, unless what the last one showed is still believed. :meth:`acquire` does so by itself.

        Raises:
            NoRoom: it could not be had now.
            SandboxUnavailable: sandboxes would not be held so; says which setting decides.
        """
