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
from sandbox.errors import NoRoom, NotStarted, Overdue, SandboxError, SandboxLost, SandboxRejected, SandboxTaken
from sandbox.inventory import LastingBackend, LastingSandbox
from sandbox.pool.pool import WarmPool
from sandbox.registry import Registry
from sandbox.toolbox.calls import Call, Caller, ExecutorLost, Health, Lane, Opened, Reply, Trace
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.gate import Gate
from sandbox.toolbox.hedge import HedgeDelay, hedged
from sandbox.toolbox.keepers import Keepers
from sandbox.toolbox.lanes import Lanes
from sandbox.toolbox.placement import choose
from sandbox.toolbox.quota import Place, Quota
from sandbox.types import Backend, Capability, Command, Exited, Outcome, Sandbox, SandboxSpec, TriedBackend

_ATTACH_S = 45.0
"""One whose machine is gone would let us wait for minutes, and one that nobody has ends with its lease."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0


class Executor:
    """A :class:`sandbox.toolbox.calls.Port` over one backend."""

    def __init__(
        self,
        backend: Backend,
        settings: ToolboxSettings,
        *,
        registry: Registry | None = None,
        tried: TriedBackend | None = None,
        keepers: Keepers = Keepers(),  # noqa: B008 - frozen
    ) -> None:
        """
        Args:
            registry: where the backend's sandboxes are on record; None where they end with this process.
            tried: has the trial of the backend, where that has one.
            keepers: look after the backend's sandboxes.
        """
        self.keepers = keepers
        self._backend = backend
        self._tried = tried
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

    async def take_over(self, caller: Caller, sandbox: str) -> Reply:
        return await self._reply(
            caller, "take_over", "", "short", lambda progress: self._have(caller, sandbox, progress)
        )

    async def call(self, caller: Caller, sandbox: str, call: Call) -> Reply:
        return await self._reply(
            caller, call.tool, call.name, call.lane, lambda progress: self._in_turn(caller, sandbox, call, progress)
        )

    async def close_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return await self._reply(caller, "close", "", "short", lambda progress: self._close(caller, sandbox))

    async def leave_sandbox(self, caller: Caller, sandbox: str) -> Reply:
        return await self._reply(caller, "leave", "", "short", lambda progress: self._leave(caller, sandbox))

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

    async def prove(self) -> SandboxError | None:
        try:
            if self._tried is not None:
                await self._tried.prove()
        except SandboxError as error:
            return error
        return None

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
                    id_, sandbox = await self._acquire(caller, spec)
        except BaseException:
            self._quota.leave(place)
            raise
        self._held[id_] = asyncio.create_task(_known(_Held(sandbox, place, caller.term)))
        return Opened(id_, sandbox.boot_id)

    async def _acquire(self, caller: Caller, spec: SandboxSpec) -> tuple[str, Sandbox]:
        sandbox = await self._backend.acquire(spec)
        id_ = cast(LastingSandbox, sandbox).handle.id if self._lasts else sandbox.boot_id
        if self._registry is not None:
            try:
                await self._registry.assign(id_, caller.run, caller.tenant)
            except BaseException:
                await sandbox.close()
                raise
        return id_, sandbox

    async def _have(self, caller: Caller, id_: str, progress: "_Progress") -> Opened:
        async for attempt in self._attempts(NoRoom):
            with attempt:
                progress.attempts += 1
                held = await self._find(caller, id_)
        return Opened(id_, held.sandbox.boot_id)

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
        await self._part(caller, id_, lambda sandbox: sandbox.close())

    async def _leave(self, caller: Caller, id_: str) -> None:
        stays = self._registry is not None and self._lasts
        await self._part(
            caller, id_, lambda sandbox: cast(LastingSandbox, sandbox).detach() if stays else sandbox.close()
        )

    async def _part(self, caller: Caller, id_: str, how: Callable[[Sandbox], Awaitable[None]]) -> None:
        try:
            held = await self._find(caller, id_)
        except SandboxLost:
            return
        self._held.pop(id_, None)
        try:
            await how(held.sandbox)
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
        """
        Raises:
            SandboxLost: there is no such sandbox any more.
            SandboxTaken: somebody has it in a later term.
        """
        if id_ not in self._held:
            self._held[id_] = asyncio.create_task(self._take_over(caller, id_))
        finding = self._held[id_]
        try:
            held = await asyncio.shield(finding)
        except (SandboxError, OSError):
            if self._held.get(id_) is finding:
                del self._held[id_]
            raise
        if held.term > caller.term:
            raise SandboxTaken("somebody else has taken the sandbox over")
        if held.term == caller.term:
            return held
        if self._held.get(id_) is finding:
            del self._held[id_]
            self._quota.leave(held.place)
            await cast(LastingSandbox, held.sandbox).detach()
        return await self._find(caller, id_)

    async def _take_over(self, caller: Caller, id_: str) -> "_Held":
        """A sandbox of an executor that is gone, or of an earlier term."""
        record = await self._registry.get(id_) if self._registry is not None and self._lasts else None
        if record is None or record.run != caller.run:
            raise SandboxLost(f"there is no sandbox {id_} of this run; the process that had it may have ended")
        place = self._place(caller, record.spec)
        await self._quota.enter(caller, place, _ATTACH_S)
        try:
            backend = cast(LastingBackend, self._backend)
            async with asyncio.timeout(_ATTACH_S):
                sandbox = await backend.attach(record.handle, record.spec, caller.term)
            return _Held(sandbox, place, caller.term)
        except TimeoutError as error:
            self._quota.leave(place)
            raise SandboxLost(f"the sandbox {id_} does not answer") from error
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
    term: int
    """Of the caller it was opened or taken over for."""


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
