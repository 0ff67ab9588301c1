"""Sandboxes that outlive the service that made them: how they are found again, taken over, and ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from sandbox.types import Backend, Sandbox, SandboxSpec


@dataclass(frozen=True, slots=True)
class Handle:
    """Where a sandbox is, and the proof that it is ours. Whoever has it can take the sandbox over."""

    id: str
    """The machines' own name for it: of a container, of a pod."""
    address: str
    """Where it listens: a path, or ``host:port``."""
    boot_id: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    """A sandbox that the machines hold, as their own labels say."""

    id: str
    created_at: float
    """Seconds since 1970."""
    ends_at: float
    """When its lifetime is over, in seconds since 1970."""
    ending: bool = False
    """The machines were asked for its end, and have said that it will come."""


@runtime_checkable
class Inventory(Protocol):
    """What the machines hold of one service, whoever made it and whatever became of that process."""

    async def found(self) -> Sequence[Found]:
        """All that is there now, also what is only being made or ended."""

    async def remove(self, id: str) -> None:  # noqa: A002  # the field's name
        """Ask for the end of a sandbox; quiet where there is none. That it is gone, only :meth:`found` says.

        Raises:
            SandboxError: the machines refuse or do not answer.
        """


class LastingSandbox(Sandbox, Protocol):
    """A sandbox that goes on while its service is away."""

    @property
    def handle(self) -> Handle: ...

    async def detach(self) -> None:
        """Leave it as it is, and whatever runs in it to go on. It ends with its lease, unless somebody attaches."""


@runtime_checkable
class LastingBackend(Backend, Inventory, Protocol):
    """A backend with :attr:`~sandbox.types.Capability.REATTACH`."""

    async def acquire(self, spec: SandboxSpec) -> LastingSandbox: ...

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> LastingSandbox:
        """Take over a sandbox whose service is gone. What ran in it still runs: asking again for a request id finds
        that command, and never runs it a second time.

        Args:
            term: shuts out whoever has it from an earlier one, should they not be gone. Who made it has 0.

        Raises:
            SandboxLost: it is not there, or not the one it was, or somebody of a later term has it.
        """
