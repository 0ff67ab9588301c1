"""Holds sandboxes and does what is asked of them: in its turn, not too often, and once.

The same class serves in this process and in a Ray actor. What it knows is a cache: a sandbox it does not know is looked
up in the registry and taken over, so that an executor which was started anew goes on where the one before was ended.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sandbox.bucket import TokenBucket
from sandbox.errors import NoRoom, NotStarted, Overdue, SandboxError, SandboxLost, SandboxRejected
from sandbox.inventory import LastingBackend, LastingSandbox
from sandbox.pool.pool import WarmPool
from sandbox.registry import Registry
from sandbox.toolbox.calls import Call, Caller, ExecutorLost, Health, Lane, Opened, Reply, Trace
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.gate import Gate
from sandbox.toolbox.hedge import HedgeDelay, hedged
from sandbox.toolbox.lanes import Lanes
from sandbox.toolbox.placement import choose
from sandbox.toolbox.quota import Place, Quota
from sandbox.types import Backend, Capability, Command, Exited, Outcome, Sandbox, SandboxSpec

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0


class Executor:
    """A :class:`sandbox.toolbox.calls.Port` over one backend."""

    def __init__(
        self,
        backend: Backend,
        settings: ToolboxSettings,
        *,
        registry: Registry | None = None,
    ) -> None:
        """
        Args:
            registry: where the backend's sandboxes are on record; None where they end with this process.
        """
        self._backend = backend
        self._settings = settings
        self._registry = registry
        self._held: dict[str, asyncio.Task[_Held]] = {}
        self._quota: Gate[Place] = Gate(Quota(settings))
        self._lanes = Lanes(settings)
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._hedge_delay = HedgeDelay(settings.hedge_floor_s)
        self._draining = False
        self._num_busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self, caller: Caller, spec: SandboxSpec) -> Reply:
        if self._draining:
            raise ExecutorLost("this executor opens no more sandboxes")
        return await self._reply(caller, "open", "", "short", lambda progress: self._open(caller, spec, progress))

    async def call(self, caller: Caller, sandbox: str, call: Call) -> Reply:
        return await self._reply(
            caller, call.tool, call.name, call.lane, lambda progress: self._in_turn(caller, sandbox, call, progress)
        )

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return await self._reply(caller, "close", "", "short", lambda progress: self._close(caller, sandbox))

    async def expect(self, queue: Sequence[SandboxSpec]) -> None:
        if isinstance(self._backend, WarmPool):
            self._backend.expect(queue)

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        if self._registry is None:
            return
        for record in await self._registry.all():
            if record.owner == owner and record.run and choose(record.run, executors) == me:
                with contextlib.suppress(SandboxError):
                    await self._find(Caller(record.run, record.run, record.tenant), record.id)

    async def drain(self) -> None:
        self._draining = True
        await self._idle.wait()

    async def health(self) -> Health:
        waiting = self._lanes.num_waiting + self._quota.num_waiting
        return Health(os.getpid(), len(self._held), self._lanes.num_running, waiting, self._draining)

    async def _reply(
        self, caller: Caller, tool: str, name: str, lane: Lane, work: "Callable[[_Progress], Awaitable[object]]"
    ) -> Reply:
        begun, progress = _now(), _Progress()
        value, error = None, None
        self._num_busy += 1
        self._idle.clear()
        try:
            value = await work(progress)
        except (SandboxError, OSError) as failure:
            error = failure
        finally:
            self._num_busy -= 1
            if self._num_busy == 0:
                self._idle.set()
        trace = Trace(
            run=caller.run,
            tool=tool,
            name=name,
            lane=lane,
            attempts=progress.attempts,
            hedged=progress.hedged,
            ended=_ended(value, error),
            queue_s=progress.queue_s,
            run_s=_now() - begun - progress.queue_s,
        )
        return Reply(trace, value, error)

    async def _open(self, caller: Caller, spec: SandboxSpec, progress: "_Progress") -> Opened:
        begun = _now()
        place = self._place(caller, spec)
        await self._quota.enter(caller, place, self._settings.room_patience_s)
        progress.queue_s = _now() - begun
        try:
            async for attempt in self._attempts(NoRoom):
                with attempt:
                    progress.attempts += 1
                    sandbox = await self._backend.acquire(spec)
        except BaseException:
            self._quota.leave(place)
            raise
        id_ = cast(LastingSandbox, sandbox).handle.id if self._lasts else sandbox.boot_id
        if self._registry is not None:
            await self._registry.assign(id_, caller.run, caller.tenant)
        self._held[id_] = asyncio.create_task(_known(_Held(sandbox, place)))
        return Opened(id_, sandbox.boot_id)

    async def _in_turn(self, caller: Caller, sandbox: str, call: Call, progress: "_Progress") -> object:
        begun = _now()
        patience_s = self._settings.patience_s if call.patience_s is None else call.patience_s
        await self._wait_for_rate(caller, call.tool, patience_s)
        async with self._lanes.enter(caller, call.lane, patience_s - (_now() - begun)):
            progress.queue_s = _now() - begun
            held = await self._find(caller, sandbox)
            return await self._do(held.sandbox, call, progress)

    async def _do(self, sandbox: Sandbox, call: Call, progress: "_Progress") -> object:
        async for attempt in self._attempts(NotStarted):
            with attempt:
                progress.attempts += 1
                if call.tool == "read":
                    return await self._read(sandbox, call, progress)
                return await getattr(sandbox, call.tool)(*_again(call, progress.attempts))
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, sandbox: Sandbox, call: Call, progress: "_Progress") -> bytes:
        begun = _now()
        data, progress.hedged = await hedged(lambda: sandbox.read(*call.arguments), self._hedge_delay.seconds)
        self._hedge_delay.observe(_now() - begun)
        return data

    async def _close(self, caller: Caller, id_: str) -> None:
        try:
            held = await self._find(caller, id_)
        except SandboxLost:
            return
        finally:
            self._held.pop(id_, None)
        try:
            await held.sandbox.close()
        finally:
            self._quota.leave(held.place)

    async def _wait_for_rate(self, caller: Caller, tool: str, patience_s: float) -> None:
        limit = self._settings.rates.get(tool)
        if limit is None:
            return
        bucket = self._buckets.setdefault((caller.tenant, tool), TokenBucket(limit.per_s, limit.burst))
        wait_s = bucket.wait_s(_now())
        if wait_s > patience_s:
            raise Overdue(f"{caller.tenant} may call {tool} again in {wait_s:.1f} s, and would not wait so long")
        bucket.charge(_now())
        await asyncio.sleep(wait_s)

    async def _find(self, caller: Caller, id_: str) -> "_Held":
        if id_ not in self._held:
            self._held[id_] = asyncio.create_task(self._take_over(caller, id_))
        finding = self._held[id_]
        try:
            return await asyncio.shield(finding)
        except (SandboxError, OSError):
            if self._held.get(id_) is finding:
                del self._held[id_]
            raise

    async def _take_over(self, caller: Caller, id_: str) -> "_Held":
        """A sandbox of an executor that is gone."""
        record = await self._registry.get(id_) if self._registry is not None and self._lasts else None
        if record is None:
            raise SandboxLost(f"there is no sandbox {id_}; the process that had it may have ended")
        place = self._place(caller, record.spec)
        await self._quota.enter(caller, place, self._settings.patience_s)
        try:
            return _Held(await cast(LastingBackend, self._backend).attach(record.handle, record.spec), place)
        except BaseException:
            self._quota.leave(place)
            raise

    @property
    def _lasts(self) -> bool:
        return Capability.REATTACH in self._backend.capabilities

    def _place(self, caller: Caller, spec: SandboxSpec) -> Place:
        size = self._settings.class_of(spec)
        if size is None and self._settings.classes:
            raise SandboxRejected(f"a sandbox of {spec.resources} is larger than any that there may be")
        return Place(caller.tenant, size.name if size else None)

    def _attempts(self, *errors: type[SandboxError]) -> AsyncRetrying:
        """Only for what is known not to have run."""
        return AsyncRetrying(
            retry=retry_if_exception_type(errors),
            stop=stop_after_attempt(self._settings.attempts),
            wait=wait_random_exponential(_FIRST_PAUSE_S, _LONGEST_PAUSE_S),
            reraise=True,
        )


@dataclass(frozen=True, slots=True)
class _Held:
    sandbox: Sandbox
    place: Place


@dataclass(slots=True)
class _Progress:
    """What a trace will say."""

    attempts: int = 0
    hedged: bool = False
    queue_s: float = 0.0


async def _known(held: _Held) -> _Held:
    return held


def _again(call: Call, attempt: int) -> tuple[Any, ...]:
    """The arguments of an attempt. The sandbox remembers a request id also where nothing of the command ran."""
    if attempt == 1 or call.tool != "exec":
        return call.arguments
    command: Command = call.arguments[0]
    return (replace(command, request_id=f"{command.request_id}~{attempt}"),)


def _ended(value: object, error: Exception | None) -> str:
    if error is not None:
        return type(error).__name__
    if isinstance(value, Exited):
        return f"Exited {value.code}"
    return type(value).__name__ if isinstance(value, _Outcomes) else "ok"


_Outcomes = get_args(Outcome)


def _now() -> float:
    return asyncio.get_running_loop().time()
