"""What an agent sees: a backend like any other, of which each run has its own view.

toolbox = Toolbox(Alone(executor), backend)
async with toolbox.of(Caller(run="r1", job="t1", tenant="p1")) as tools:
    sandbox = await tools.acquire(spec)
    await sandbox.exec(command)
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self, cast

from sandbox.checkpoints.store import CheckpointStore
from sandbox.errors import NoRoom, SandboxLost, SandboxUnavailable
from sandbox.toolbox.calls import Call, Caller, ExecutorLost, Lane, OnTrace, Opened, Port, Reply, Tool
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.keepers import Keepers
from sandbox.types import Capability, Command, Outcome, Sandbox, SandboxSpec

_ATTEMPTS = 60
"""With the pause of :meth:`Executors.recover` between them, longer than an executor takes to be started anew."""


class Executors(Protocol):
    """Which executor has what."""

    def place(self, run: str) -> str:
        """The name of the one that opens sandboxes for this run.

        Raises:
            ExecutorLost: there is none at all.
        """

    def port(self, name: str) -> Port:
        """
        Raises:
            ExecutorLost: there is no such one any more.
        """

    async def recover(self, name: str) -> None:
        """One did not answer. Comes back when it is worth asking again."""


class Alone:
    """The one executor of this process."""

    def __init__(self, executor: Port) -> None:
        self._executor = executor

    def place(self, run: str) -> str:
        return "here"

    def port(self, name: str) -> Port:
        return self._executor

    async def recover(self, name: str) -> None:
        return


class Toolbox:
    """All runs' way to their machines."""

    def __init__(
        self,
        executors: Executors,
        settings: ToolboxSettings,
        *,
        name: str,
        capabilities: frozenset[Capability],
        needs_trial: bool = False,
        on_trace: OnTrace = lambda trace: None,
        keepers: Keepers = Keepers(),  # noqa: B008 - frozen
    ) -> None:
        """
        Args:
            name, capabilities, needs_trial: of the backend that the executors have.
            on_trace: hears of every call that ended.
            keepers: who looks after the sandboxes, where the executors are in this process.
        """
        self.executors = executors
        self.settings = settings
        self.name = name
        self.capabilities = capabilities
        self.needs_trial = needs_trial
        self.on_trace = on_trace
        self.keepers = keepers

    def of(self, caller: Caller) -> "RunTools":
        """The view of one run."""
        return RunTools(self, caller)

    async def prove(self) -> None:
        """Have one executor see whether sandboxes are held as their settings say.

        Raises:
            NoRoom: that could not be seen now.
            SandboxUnavailable: they are not; says which setting decides.
        """
        try:
            found = await self.executors.port(self.executors.place("")).prove()
        except ExecutorLost as error:
            raise NoRoom(f"no executor answers: {error}") from error
        if found is not None:
            raise found

    async def expect(self, queue: Iterable[tuple[str, SandboxSpec]]) -> None:
        """Which runs will ask for what, in this order, so that it is ready by then."""
        by_executor: dict[str, list[SandboxSpec]] = {}
        for run, spec in queue:
            by_executor.setdefault(self.executors.place(run), []).append(spec)
        for name, specs in by_executor.items():
            await self.executors.port(name).expect(specs)


class RunTools:
    """A :class:`sandbox.types.Backend` for one run; closing it ends the run's sandboxes and no others."""

    def __init__(self, toolbox: Toolbox, caller: Caller) -> None:
        self.name = toolbox.name
        self.capabilities = toolbox.capabilities
        self.caller = caller
        self._toolbox = toolbox
        self._sandboxes: set[ToolSandbox] = set()

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        for _ in range(_ATTEMPTS):
            name = self._toolbox.executors.place(self.caller.run)
            try:
                reply = await self._toolbox.executors.port(name).open(self.caller, spec)
            except ExecutorLost:
                # If a sandbox was made, nobody has it: the reaper's.
                await self._toolbox.executors.recover(name)
                continue
            return self._have(name, self._value(reply))
        raise SandboxUnavailable(f"no executor answers; asked {_ATTEMPTS} times")

    async def take_over(self, sandbox: str) -> Sandbox:
        """The sandbox of this id, which the run was given in an earlier term. What runs in it still runs.

        Raises:
            SandboxLost: it is not there any more, or somebody has it in a later term.
        """
        name, opened = await self.ask(
            self._toolbox.executors.place(self.caller.run), lambda port: port.take_over(self.caller, sandbox)
        )
        return self._have(name, opened)

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))

    async def leave(self) -> None:
        """Give the run's sandboxes up, for who has it next; where they cannot be taken over, they end."""
        await asyncio.gather(*(sandbox.leave() for sandbox in list(self._sandboxes)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def forget(self, sandbox: "ToolSandbox") -> None:
        self._sandboxes.discard(sandbox)

    async def ask(self, executor: str, do: Callable[[Port], Awaitable[Reply]]) -> tuple[str, Any]:
        """Ask for something of a sandbox; the executor that answered, and its answer.

        Asked again where an executor was lost meanwhile: what did run is found by its request id and not run twice.
        """
        executors = self._toolbox.executors
        for _ in range(_ATTEMPTS):
            try:
                return executor, self._value(await do(executors.port(executor)))
            except ExecutorLost as error:
                if Capability.REATTACH not in self.capabilities:
                    raise SandboxLost(f"the process that held the sandbox is gone: {error}") from error
                await executors.recover(executor)
                executor = executors.place(self.caller.run)
        raise SandboxLost(f"no executor answers for the sandbox; asked {_ATTEMPTS} times")

    def _have(self, executor: str, opened: Opened) -> Sandbox:
        kind = RewindableToolSandbox if Capability.CHECKPOINTS in self.capabilities else ToolSandbox
        sandbox = kind(self, executor, opened)
        self._sandboxes.add(sandbox)
        return cast(Sandbox, sandbox)

    def _value(self, reply: Reply) -> Any:
        self._toolbox.on_trace(reply.trace)
        if reply.error is not None:
            raise reply.error
        return reply.value

    def lane_of(self, command: Command) -> Lane:
        return "long" if command.timeout_s >= self._toolbox.settings.long_from_s else "short"


class ToolSandbox:
    """A sandbox that an executor has; see :class:`sandbox.types.Sandbox`."""

    def __init__(self, tools: RunTools, executor: str, opened: Opened) -> None:
        self.id = opened.id
        self.boot_id = opened.boot_id
        self._tools = tools
        self._executor = executor
        self._closed = False

    async def exec(self, command: Command) -> Outcome:
        lane = self._tools.lane_of(command)
        return cast(Outcome, await self._call(Call("exec", command.request_id, (command,), lane)))

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        return cast(bytes, await self._file("read", path, max_bytes))

    async def write(self, path: str, data: bytes) -> None:
        await self._file("write", path, data)

    async def upload(self, tar: bytes, path: str = "/workspace") -> None:
        await self._call(Call("upload", path, (tar, path)))

    async def download(self, path: str = "/workspace", max_bytes: int = 512 * 1024 * 1024) -> bytes:
        return cast(bytes, await self._file("download", path, max_bytes))

    async def close(self) -> None:
        await self._part(lambda port: port.close_sandbox(self._tools.caller, self.id))

    async def leave(self) -> None:
        await self._part(lambda port: port.leave_sandbox(self._tools.caller, self.id))

    async def _part(self, how: Callable[[Port], Awaitable[Reply]]) -> None:
        if self._closed:
            return
        self._closed = True
        self._tools.forget(self)
        try:
            await self._tools.ask(self._executor, how)
        except SandboxLost:
            return

    async def _file(self, tool: Tool, path: str, *rest: object) -> Any:
        return await self._call(Call(tool, path, (path, *rest)))

    async def _call(self, call: Call) -> Any:
        if self._closed:
            raise SandboxLost("the sandbox was closed")
        self._executor, value = await self._tools.ask(
            self._executor, lambda port: port.call(self._tools.caller, self.id, call)
        )
        return value


class RewindableToolSandbox(ToolSandbox):
    """One of a backend with checkpoints; see :class:`sandbox.checkpoints.rewindable.Rewindable`."""

    async def checkpoint(self, store: CheckpointStore, path: str = "/workspace", max_bytes: int = 2**30) -> str:
        """The store is where the executor sees it."""
        return cast(str, await self._call(Call("checkpoint", path, (store, path, max_bytes))))

    async def restore(self, store: CheckpointStore, checkpoint: str, path: str = "/workspace") -> None:
        await self._call(Call("restore", path, (store, checkpoint, path)))
