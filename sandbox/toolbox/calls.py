"""What goes to an executor and comes back: plain values, so that they may travel between processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from sandbox.errors import SandboxError
from sandbox.types import SandboxSpec

Tool = Literal["exec", "read", "write", "upload", "download", "checkpoint", "restore"]
"""A method of :class:`sandbox.types.Sandbox`, or of those that some sandboxes have beside it."""
Lane = Literal["short", "long"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is."""

    run: str
    job: str
    """Runs that share their turns: those of one task, or of one training batch."""
    tenant: str
    """Whom quotas and rates are for."""
    weight: float = 1.0
    """Of the job: with twice the weight, twice as many turns."""
    term: int = 0
    """Counts those who had the run, one after the other; who has it in a later one shuts out those before."""


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one sandbox."""

    tool: Tool
    name: str
    """The request id of a command, the path of a file call."""
    arguments: tuple[Any, ...]
    lane: Lane = "short"
    patience_s: float | None = None
    """How long it may wait before it begins, s; None: as the executor's settings say."""

    def with_arguments(self, arguments: tuple[Any, ...]) -> "Call":
        return replace(self, arguments=arguments)


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of a call; two that differ in times only have equal :attr:`essence`."""

    run: str
    tool: str
    name: str
    lane: Lane
    attempts: int
    hedged: bool
    ended: str
    """The outcome's or error's name; with the code where a command exited."""
    queue_s: float = 0.0
    run_s: float = 0.0

    @property
    def essence(self) -> tuple[str | int | bool, ...]:
        return self.run, self.tool, self.name, self.lane, self.attempts, self.hedged, self.ended


OnTrace = Callable[[Trace], None]
"""Hears of every call that ended."""


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended. Errors are data here: who asked raises them again."""

    trace: Trace
    value: Any = None
    error: SandboxError | OSError | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A sandbox that was acquired."""

    id: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Health:
    """How an executor is."""

    pid: int
    num_sandboxes: int
    num_running: int
    num_waiting: int
    draining: bool


class ExecutorLost(Exception):
    """The process of the executor is gone or cannot be reached; what it was doing may or may not have been done."""


class Port(Protocol):
    """An executor, here or elsewhere.

    Every method raises :class:`ExecutorLost` where it is elsewhere, and gone.
    """

    async def open(self, caller: Caller, spec: SandboxSpec) -> Reply:
        """Acquire a sandbox; the value is :class:`Opened`."""

    async def take_over(self, caller: Caller, sandbox: str) -> Reply:
        """Have a sandbox that the run was given in an earlier term; the value is :class:`Opened`."""

    async def call(self, caller: Caller, sandbox: str, call: Call) -> Reply: ...

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply: ...

    async def leave_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        """Give it up as it is, for who has the run next; where nobody could take it over, it is closed."""

    async def expect(self, queue: Sequence[SandboxSpec]) -> None:
        """What will be opened, in this order; for a pool, where there is one."""

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        """Take over what is on record as ``owner``'s and, among ``executors``, belongs to ``me``."""

    async def drain(self) -> None:
        """Open nothing more, and come back when no call runs."""

    async def prove(self) -> SandboxError | None:
        """Have the trial of a :class:`sandbox.types.TriedBackend`; what is wrong, None where nothing is."""

    async def health(self) -> Health: ...
