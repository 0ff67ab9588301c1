"""Executors in Ray actors, for more sandboxes than one process should hold. Needs the extra ``ray``.

    async with RayExecutors.open(build, size=4) as executors:
        toolbox = Toolbox(executors, settings, name="kubernetes", capabilities=...)

``build`` makes an executor inside each actor. All workers of a cluster share the same actors: they are found by name.

Ray never runs a call a second time here (``max_task_retries=0``): a call that was lost with its actor is an
:class:`ExecutorLost`, and the toolbox asks again by request id. Nothing waits for Ray in a way that blocks an event
loop. Whoever reaches Ray's ports runs code as the service, so this module refuses a cluster without authentication.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Self, cast

import ray
from ray.exceptions import RayActorError
from ray.util import list_named_actors

from sandbox.errors import SandboxUnavailable
from sandbox.toolbox.calls import Call, Caller, ExecutorLost, Health, Port, Reply
from sandbox.toolbox.controller import Controller
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.placement import choose
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

    def __init__(self, controller: Any, members: Sequence[str]) -> None:
        """Use :meth:`open`."""
        self._controller = controller
        self._members = list(members)
        self._ports: dict[str, RayPort] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, build: Build, size: int, *, stay: bool = False) -> AsyncIterator[Self]:
        """Executors in the cluster that ``ray.init`` connected to.

        Args:
            size: how many; what the first says that comes to the cluster, until :meth:`resize`.
            stay: they outlast this process, for others to use.

        Raises:
            SandboxUnavailable: the cluster has no authentication.
        """
        require_token()
        controller = _actor(ControllerActor, _CONTROLLER, max_restarts=-1).remote(build, size)
        try:
            yield cls(controller, await controller.members.remote())
        finally:
            if not stay:
                await controller.end.remote()
                ray.kill(controller)

    def place(self, run: str) -> str:
        if not self._members:
            raise ExecutorLost("there is no executor")
        return choose(run, self._members)

    def port(self, name: str) -> Port:
        if name not in self._members:
            raise ExecutorLost(f"the executor {name} is gone")
        if name not in self._ports:
            try:
                self._ports[name] = RayPort(ray.get_actor(name, namespace=NAMESPACE))
            except ValueError as error:
                raise ExecutorLost(f"the executor {name} is gone") from error
        return self._ports[name]

    async def recover(self, name: str) -> None:
        self._ports.pop(name, None)
        await asyncio.sleep(_PAUSE_S)
        try:
            await self._controller.check.remote()
            self._members = await self._controller.members.remote()
        except RayActorError:
            await asyncio.sleep(_PAUSE_S)  # it is being started again

    async def resize(self, size: int) -> None:
        """Have so many executors, in the whole cluster; see :meth:`Controller.resize`."""
        await self._controller.resize.remote(size)
        self._members = await self._controller.members.remote()


class RayPort:
    """An executor in an actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def open(self, caller: Caller, spec: SandboxSpec) -> Reply:
        return cast(Reply, await _answer(self._actor.open.remote(caller, spec)))

    async def call(self, caller: Caller, sandbox: str, call: Call) -> Reply:
        arguments = [ray.put(each) if _size(each) > _LARGE else each for each in call.arguments]
        return cast(Reply, await _answer(self._actor.call.remote(caller, sandbox, call.with_arguments(()), *arguments)))

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return cast(Reply, await _answer(self._actor.close_sandbox.remote(caller, sandbox)))

    async def expect(self, queue: Sequence[SandboxSpec]) -> None:
        await _answer(self._actor.expect.remote(queue))

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        await _answer(self._actor.inherit.remote(owner, executors, me))

    async def drain(self) -> None:
        await _answer(self._actor.drain.remote())

    async def health(self) -> Health:
        return cast(Health, await _answer(self._actor.health.remote()))


class ExecutorActor:
    """One executor, built when it is first asked for anything; after a restart, a new one with the same name."""

    def __init__(self, build: Build, name: str) -> None:
        self._build = build
        self._name = name
        self._stack = AsyncExitStack()
        self._building: asyncio.Task[Executor] | None = None

    async def open(self, caller: Caller, spec: SandboxSpec) -> Reply:
        return await (await self._executor()).open(caller, spec)

    async def call(self, caller: Caller, sandbox: str, call: Call, *arguments: object) -> Reply:
        return await (await self._executor()).call(caller, sandbox, call.with_arguments(arguments))

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return await (await self._executor()).close_sandbox(caller, sandbox)

    async def expect(self, queue: Sequence[SandboxSpec]) -> None:
        await (await self._executor()).expect(queue)

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        await (await self._executor()).inherit(owner, executors, me)

    async def drain(self) -> None:
        await (await self._executor()).drain()

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
            await _answer(ray.get_actor(name, namespace=NAMESPACE).end.remote())
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


async def _answer(reference: Any) -> Any:
    try:
        return await reference
    except RayActorError as error:
        raise ExecutorLost(f"the executor's process is gone: {error}") from error


def _size(argument: object) -> int:
    if isinstance(argument, Command):
        return len(argument.stdin) + len(argument.line)
    return len(argument) if isinstance(argument, bytes) else 0
