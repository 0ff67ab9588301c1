"""Executors in Ray actors, for more sandboxes than one process should hold. Needs the extra ``ray``.

    async with RayExecutors.open(build, size=4, address="ray://head:10001") as executors:
        toolbox = Toolbox(executors, settings, name="kubernetes", capabilities=...)

``build`` makes an executor inside each actor. All workers of a cluster share the same actors: they are found by name.
:func:`open_shared_toolbox` is this for a worker, with a ``build`` out of its settings.

Ray never runs a call a second time here (``max_task_retries=0``): a call that was lost with its actor is an
:class:`ExecutorLost`, and the toolbox asks again by request id. So is one that was lost with the connection, which is
made anew. Nothing waits for a call in a way that blocks an event loop. Whoever reaches Ray's ports runs code as the
service, so this module refuses a cluster without authentication.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import ray
from ray.exceptions import RayActorError
from ray.util import list_named_actors

from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.errors import SandboxError, SandboxUnavailable
from sandbox.registry import open_registry
from sandbox.toolbox.calls import Call, Caller, ExecutorLost, Health, OnTrace, Port, Reply
from sandbox.toolbox.config import RaySettings
from sandbox.toolbox.controller import Controller
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.open import open_executor, toolbox_of
from sandbox.toolbox.placement import choose
from sandbox.toolbox.toolbox import Toolbox
from sandbox.types import Command, SandboxSpec

Build = Callable[[str], AbstractAsyncContextManager[Executor]]
"""Makes the executor of a name, inside its actor. Travels there pickled."""

NAMESPACE = "mimo-toolbox"
_CONTROLLER = "controller"
_LARGE = 100_000
"""Arguments above this many bytes are put into the object store, and only a reference travels with the call."""
_CONCURRENT = 100_000
"""Calls in one actor. What waits has to wait in our own queues, where turns are fair, and not in Ray's."""
_RESTARTS = 4
_PAUSE_S = 0.5
_ELSEWHERE = "ray://"
"""What the address of a cluster begins with of which this machine is no part."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_shared_toolbox(
    backend: str,
    settings: SandboxSettings,
    ray_settings: RaySettings,
    registry: str | None,
    on_trace: OnTrace | None = None,
) -> AsyncIterator[Toolbox]:
    """A toolbox whose executors are in a Ray cluster, each over a backend of that name; they outlast this process.

    Args:
        registry: address of the list of sandboxes, as the cluster's machines reach it.
        on_trace: hears of every call that ended.

    Raises:
        SandboxUnavailable: no cluster answers there, it has no authentication, or there is no such backend.
    """
    like = open_backend(backend, settings)
    await like.close()
    build = SettledBuild(backend, settings, registry)
    address = ray_settings.address
    async with RayExecutors.open(build, ray_settings.executors, address=address, stay=True) as executors:
        yield toolbox_of(executors, settings.toolbox, like, on_trace)


@dataclass(frozen=True, slots=True)
class SettledBuild:
    """Builds executors out of settings."""

    backend: str
    settings: SandboxSettings
    registry: str | None

    @asynccontextmanager
    async def __call__(self, name: str) -> AsyncIterator[Executor]:
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(open_registry(self.registry)) if self.registry else None
            backend = open_backend(self.backend, self.settings)
            opening = open_executor(backend, self.settings.toolbox, self.settings.pool, registry, owner=name)
            yield await stack.enter_async_context(opening)


def require_token() -> None:
    """
    Raises:
        SandboxUnavailable: Ray would run, or be reached, without authentication.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise SandboxUnavailable(
            "Ray runs whatever reaches its ports; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file of the "
            "cluster's token, for this process and for the cluster"
        )


class RayExecutors:
    """The executors of a Ray cluster; see :class:`sandbox.toolbox.toolbox.Executors`."""

    def __init__(self, build: Build, size: int, address: str | None) -> None:
        """Use :meth:`open`."""
        self._build = build
        self._size = size
        self._address = address
        self._controller: Any = None
        self._members: list[str] = []
        self._ports: dict[str, RayPort] = {}
        self._joining = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, build: Build, size: int, *, address: str | None = None, stay: bool = False
    ) -> AsyncIterator[Self]:
        """Executors in a cluster.

        Args:
            size: how many; what the first says that comes to the cluster, until :meth:`resize`.
            address: of the cluster, to connect to, and again when the connection is lost; None: ``ray.init`` did.
            stay: they outlast this process, for others to use.

        Raises:
            SandboxUnavailable: no cluster answers, or it has no authentication.
        """
        require_token()
        executors = cls(build, size, address)
        if address is not None:
            await asyncio.to_thread(_connect, address)
        try:
            await executors._join()
            yield executors
            if not stay:
                await executors._end()
        finally:
            if address is not None:
                await asyncio.to_thread(ray.shutdown)

    def place(self, run: str) -> str:
        if not self._members:
            raise ExecutorLost("there is no executor")
        return choose(run, self._members)

    def port(self, name: str) -> Port:
        if name not in self._members:
            raise ExecutorLost(f"the executor {name} is gone")
        if name not in self._ports:
            try:
                with _losses():
                    self._ports[name] = RayPort(ray.get_actor(name, namespace=NAMESPACE))
            except ValueError as error:
                raise ExecutorLost(f"the executor {name} is gone") from error
        return self._ports[name]

    async def recover(self, name: str) -> None:
        self._ports.pop(name, None)
        await asyncio.sleep(_PAUSE_S)
        try:
            async with self._joining:
                with _losses():
                    await self._reconnect()
                    await self._controller.check.remote()
                    self._members = await self._controller.members.remote()
        except (ExecutorLost, SandboxUnavailable) as error:
            _log.warning("action=recover executor=%s error=%s", name, str(error)[:200])
            await asyncio.sleep(_PAUSE_S)  # it is being started again

    async def resize(self, size: int) -> None:
        """Have so many executors, in the whole cluster; see :meth:`Controller.resize`."""
        self._size = size
        await self._controller.resize.remote(size)
        self._members = await self._controller.members.remote()

    async def _join(self) -> None:
        self._controller = _actor(ControllerActor, _CONTROLLER, max_restarts=-1).remote(self._build, self._size)
        self._members = await self._controller.members.remote()

    async def _reconnect(self) -> None:
        """What the new connection leads to may be another cluster, in which nobody is yet."""
        if self._address is None or _is_connected(self._address):
            return
        self._ports.clear()
        await asyncio.to_thread(ray.shutdown)
        await asyncio.to_thread(_connect, self._address)
        await self._join()

    async def _end(self) -> None:
        await self._controller.end.remote()
        ray.kill(self._controller)


class RayPort:
    """An executor in an actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def open(self, caller: Caller, spec: SandboxSpec) -> Reply:
        return cast(Reply, await self.ask("open", caller, spec))

    async def take_over(self, caller: Caller, sandbox: str) -> Reply:
        return cast(Reply, await self.ask("take_over", caller, sandbox))

    async def call(self, caller: Caller, sandbox: str, call: Call) -> Reply:
        return cast(Reply, await self.ask("call", caller, sandbox, call.with_arguments(()), *call.arguments))

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return cast(Reply, await self.ask("close_sandbox", caller, sandbox))

    async def leave_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return cast(Reply, await self.ask("leave_sandbox", caller, sandbox))

    async def expect(self, queue: Sequence[SandboxSpec]) -> None:
        await self.ask("expect", queue)

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        await self.ask("inherit", owner, executors, me)

    async def drain(self) -> None:
        await self.ask("drain")

    async def prove(self) -> SandboxError | None:
        return cast(SandboxError | None, await self.ask("prove"))

    async def health(self) -> Health:
        return cast(Health, await self.ask("health"))

    async def ask(self, method: str, *arguments: object) -> Any:
        """
        Raises:
            ExecutorLost: the actor's process is gone, or the way to it.
        """
        with _losses():
            return await getattr(self._actor, method).remote(*map(_sent, arguments))


class ExecutorActor:
    """One executor, built when it is first asked for anything; after a restart, a new one with the same name."""

    def __init__(self, build: Build, name: str) -> None:
        self._build = build
        self._name = name
        self._stack = AsyncExitStack()
        self._building: asyncio.Task[Executor] | None = None

    async def open(self, caller: Caller, spec: SandboxSpec) -> Reply:
        return await (await self._executor()).open(caller, spec)

    async def take_over(self, caller: Caller, sandbox: str) -> Reply:
        return await (await self._executor()).take_over(caller, sandbox)

    async def call(self, caller: Caller, sandbox: str, call: Call, *arguments: object) -> Reply:
        return await (await self._executor()).call(caller, sandbox, call.with_arguments(arguments))

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return await (await self._executor()).close_sandbox(caller, sandbox)

    async def leave_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return await (await self._executor()).leave_sandbox(caller, sandbox)

    async def expect(self, queue: Sequence[SandboxSpec]) -> None:
        await (await self._executor()).expect(queue)

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        await (await self._executor()).inherit(owner, executors, me)

    async def drain(self) -> None:
        await (await self._executor()).drain()

    async def prove(self) -> SandboxError | None:
        return await (await self._executor()).prove()

    async def health(self) -> Health:
        return await (await self._executor()).health()

    async def end(self) -> None:
        """Close everything that is held."""
        if self._building is not None:
            await self._stack.aclose()

    async def _executor(self) -> Executor:
        if self._building is None:
            self._building = asyncio.create_task(self._make())
        return await asyncio.shield(self._building)

    async def _make(self) -> Executor:
        executor = await self._stack.enter_async_context(self._build(self._name))
        await executor.inherit(self._name, [self._name], self._name)  # of the one before, if there was one
        return executor


class ControllerActor:
    """The one :class:`Controller` of a cluster."""

    def __init__(self, build: Build, size: int) -> None:
        self._staff = _Actors(build)
        self._size = size
        self._controller: Controller | None = None
        self._running: asyncio.Task[None] | None = None

    async def members(self) -> list[str]:
        return (await self._started()).members()

    async def check(self) -> None:
        await (await self._started()).check()

    async def resize(self, size: int) -> None:
        await (await self._started()).resize(size)

    async def end(self) -> None:
        """End all executors, and what they hold."""
        await self._started()
        if self._running is not None:
            self._running.cancel()
        for name in self._staff.hired():
            await self._staff.end(name)

    async def _started(self) -> Controller:
        if self._controller is None:
            self._controller = Controller(self._staff, self._size)
            await self._controller.check()
            self._running = asyncio.create_task(self._controller.run())
        return self._controller


class _Actors:
    """A :class:`sandbox.toolbox.controller.Staff` of actors."""

    def __init__(self, build: Build) -> None:
        self._build = build

    def hired(self) -> list[str]:
        every = list_named_actors(all_namespaces=True)
        return sorted(each["name"] for each in every if each["namespace"] == NAMESPACE and each["name"] != _CONTROLLER)

    def hire(self, name: str) -> RayPort:
        return RayPort(_actor(ExecutorActor, name, max_restarts=_RESTARTS).remote(self._build, name))

    def dismiss(self, name: str) -> None:
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
        except ValueError:
            return  # it is gone

    async def end(self, name: str) -> None:
        try:
            await RayPort(ray.get_actor(name, namespace=NAMESPACE)).ask("end")
        except (ValueError, ExecutorLost):
            return
        self.dismiss(name)


def _actor(kind: type, name: str, *, max_restarts: int) -> Any:
    """To be made with ``remote(...)``; where there is one of that name already, that one is found."""
    remote: Any = ray.remote  # whose types do not know all of its options
    return remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=max_restarts,
        max_task_retries=0,
        max_concurrency=_CONCURRENT,
        scheduling_strategy="SPREAD",
    )


def _connect(address: str) -> None:
    """Blocks, for half a minute where nobody answers.

    Raises:
        SandboxUnavailable: nobody does.
    """
    # By itself a lost connection would be tried again for so long, s, while whoever asks for something is blocked.
    os.environ["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = "0"
    try:
        ray.init(address, namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=False)
    except ConnectionError as error:
        told = str(error).strip().splitlines()[-1]  # what comes from the cluster has a traceback before it
        raise SandboxUnavailable(
            f"no Ray cluster answers at {address}: {told}; start it, correct ray.address in the settings of "
            "sandboxes, or leave [ray] out of them to have executors in the worker"
        ) from error


def _is_connected(address: str) -> bool:
    """As far as this process knows; nobody is asked."""
    client: Any = ray.util.client.ray
    return bool(client.is_connected() if address.startswith(_ELSEWHERE) else ray.is_initialized())


@contextmanager
def _losses() -> Iterator[None]:
    """
    Raises:
        ExecutorLost: the actor's process is gone, or the way to it.
    """
    try:
        yield
    except (RayActorError, ConnectionError) as error:
        raise ExecutorLost(f"the executor's process is gone: {error}") from error
    except Exception as error:
        if type(error) is not Exception:  # of no class is how Ray says that it is not connected any more
            raise
        raise ExecutorLost(f"the way to the executor is gone: {error}") from error


def _sent(argument: object) -> object:
    """What goes with a call. From elsewhere the cluster itself puts what is large into its store."""
    client: Any = ray.util.client.ray
    return argument if client.is_connected() or _size(argument) <= _LARGE else ray.put(argument)


def _size(argument: object) -> int:
    if isinstance(argument, Command):
        return len(argument.stdin) + len(argument.line)
    return len(argument) if isinstance(argument, bytes) else 0
