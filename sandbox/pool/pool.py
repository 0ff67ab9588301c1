"""The warm pool: a backend that has sandboxes ready before they are asked for.

    async with WarmPool.open(backend, PoolSettings()) as pool:
        pool.expect(specs_in_queue_order)
        sandbox = await pool.acquire(spec)  # warm where one is ready, else made now and counted as a miss

A sandbox is given out once: closing it ends it.
"""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

from sandbox.bucket import TokenBucket
from sandbox.errors import SandboxError
from sandbox.inventory import Handle, Inventory, LastingBackend, LastingSandbox
from sandbox.pool.backoff import Backoff, Cause, cause_of
from sandbox.pool.config import PoolSettings
from sandbox.pool.plan import Key, Known, key_of, plan
from sandbox.pool.rate import CreateRate
from sandbox.types import Backend, Command, NetworkMode, Sandbox, SandboxSpec

_ROUND_S = 0.1
"""What changes meanwhile is looked at together."""
_TICK_S = 0.25
_PROBE_S = 5.0
_KEPT_CLAIMS = 50
"""So many last claims say how many there are a second."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PoolCounts:
    """What the pool did since it was opened."""

    warm: int = 0
    """Sandboxes given out that were ready."""
    cold: int = 0
    """Misses: sandboxes that were made when they were asked for."""
    made: int = 0
    failed: int = 0
    """Sandboxes that the pool tried to make and that were not made."""
    evicted: int = 0
    """Ended unused, because others were needed sooner."""
    expired: int = 0
    """Ended unused, because they had waited too long."""
    dead: int = 0
    """Found dead when they were about to be given out."""
    broken: int = 0
    """Rounds in which nothing was made because there were far more than wanted."""


class WarmPool:
    """Sandboxes of another backend, some of them ready."""

    def __init__(self, backend: Backend, settings: PoolSettings) -> None:
        """Use :meth:`open`, which also runs the pool's loop."""
        self.name = backend.name
        self.capabilities = backend.capabilities
        self.counts = PoolCounts()
        self.breaker_open = False
        """Nothing is made now, because there are far more than wanted."""
        self.rate = CreateRate(settings.creates_per_s, settings.creates_per_s / 16, settings.max_creates_per_s)
        self._backend = backend
        self._settings = settings
        self._queue: list[Key] = []
        self._ready: defaultdict[Key, deque[_Waiting]] = defaultdict(deque)
        self._making: Counter[Key] = Counter()
        self._lent: set[_Lent] = set()
        self._claims: deque[float] = deque(maxlen=_KEPT_CLAIMS)
        self._backoff = Backoff(settings.failures)
        self._bucket = TokenBucket(settings.creates_per_s, settings.creates_per_s)
        self._census: tuple[float, int] | None = None
        self._since_census = 0
        self._changed = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, backend: Backend, settings: PoolSettings) -> AsyncIterator[Self]:
        """A pool that keeps itself filled; ``backend`` is closed with it."""
        pool = cls(backend, settings)
        loop = asyncio.create_task(pool._keep_filled())
        try:
            yield pool
        finally:
            loop.cancel()
            await asyncio.wait({loop})
            await pool.close()
            if not loop.cancelled():
                loop.result()

    def expect(self, queue: Sequence[SandboxSpec]) -> None:
        """What will be asked for, in this order, as far as known; replaces what was expected before.

        What is for a single run with a proxy of its own is not prepared: who it is for is said when it is made.
        """
        shared = (spec for spec in queue if not (spec.run_id and spec.network is NetworkMode.PROXY))
        self._queue = [key_of(spec, self._settings) for spec in shared]
        self._changed.set()

    @property
    def num_ready(self) -> int:
        return sum(map(len, self._ready.values()))

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        """A ready sandbox, or else a new one; see :meth:`sandbox.types.Backend.acquire`."""
        key = key_of(spec, self._settings)
        self._claims.append(_now())
        with contextlib.suppress(ValueError):
            self._queue.remove(key)
        self._changed.set()
        sandbox = await self._take(key) if spec.lifetime_s <= self._settings.longest_lifetime_s else None
        if sandbox is not None:
            self.counts.warm += 1
        else:
            self.counts.cold += 1
            self._bucket.charge(_now())
            sandbox = await self._create(spec)
        return self._lend(sandbox, spec.lifetime_s)

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> LastingSandbox:
        """Take over a sandbox that was given out before; see :meth:`sandbox.inventory.LastingBackend.attach`."""
        sandbox = await cast(LastingBackend, self._backend).attach(handle, spec, term)
        return cast(LastingSandbox, self._lend(sandbox, None))

    async def close(self) -> None:
        while self._work:
            await asyncio.wait(self._work)
        waiting = [each.sandbox for kind in self._ready.values() for each in kind]
        await asyncio.gather(*(self._end(each) for each in (*self._lent, *waiting)))
        self._ready.clear()
        await self._backend.close()

    async def _take(self, key: Key) -> Sandbox | None:
        """One that is ready and alive, the oldest first: it has the least time left."""
        while self._ready[key]:
            sandbox = self._ready[key].popleft().sandbox
            try:
                await sandbox.exec(Command("true", "pool-probe", _PROBE_S))
            except SandboxError as error:
                self.counts.dead += 1
                _log.warning("action=discard sandbox=%s reason=%r", sandbox.boot_id, str(error))
                self._start(self._end(sandbox))
            except asyncio.CancelledError:
                self._start(self._end(sandbox))  # nobody else knows it any more
                raise
            else:
                return sandbox
        return None

    def _lend(self, sandbox: Sandbox, lifetime_s: float | None) -> Sandbox:
        def returned(lent: _Lent) -> None:
            if lent in self._lent:
                self._lent.discard(lent)
                self._since_census -= 1
                self._changed.set()

        lent = _Lent(sandbox, returned)
        if lifetime_s is not None:
            lent.limit(asyncio.get_running_loop().call_later(lifetime_s, lambda: self._start(self._end(lent))))
        self._lent.add(lent)
        return cast(Sandbox, lent)

    async def _keep_filled(self) -> None:
        while True:
            await self._take_census()
            self._expire()
            self._act()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._changed.wait()
            await asyncio.sleep(_ROUND_S)

    async def _take_census(self) -> None:
        """Ask the machines how many there are: what was made although we were told that it was not, counts too."""
        if not isinstance(self._backend, Inventory):
            return
        if self._census is not None and _now() < self._census[0] + self._settings.census_s:
            return
        try:
            self._since_census = 0
            self._census = _now(), len(await self._backend.found())
        except SandboxError as error:
            self._census = _now(), self._census[1] if self._census else 0
            _log.warning("action=census reason=%r", str(error))

    def _expire(self) -> None:
        for key, waiting in list(self._ready.items()):
            while waiting and _now() > waiting[0].since + self._settings.max_age_s:
                self.counts.expired += 1
                self._since_census -= 1
                self._start(self._end(waiting.popleft().sandbox))
            if not waiting:
                del self._ready[key]

    def _act(self) -> None:
        self._bucket.per_s = self._bucket.burst = self.rate.per_s
        decided = plan(self._known(), self._settings)
        self.breaker_open = decided.broken
        self.counts.broken += decided.broken
        for key in decided.end:
            self.counts.evicted += 1
            self._since_census -= 1
            self._start(self._end(self._ready[key].popleft().sandbox))
        for key in decided.make:
            self._making[key] += 1
            self._bucket.charge(_now())
            self._start(self._make(key))

    def _known(self) -> Known:
        ready = {key: len(waiting) for key, waiting in self._ready.items() if waiting}
        ours = sum(ready.values()) + self._making.total() + len(self._lent)
        return Known(
            queue=self._queue,
            ready=ready,
            making=+self._making,
            num_lent=len(self._lent),
            num_alive=max(ours, self._census[1] + self._since_census if self._census else 0),
            claims_per_s=self._claims_per_s(),
            start_s=self.rate.latency_s or self._settings.start_s,
            budget=int(self._bucket.tokens(_now())),
            resting=self._backoff.resting(_now()),
        )

    def _claims_per_s(self) -> float:
        if len(self._claims) < 2:
            return 0.0
        return len(self._claims) / max(1.0, _now() - self._claims[0])

    async def _make(self, key: Key) -> None:
        begun = _now()
        spec = SandboxSpec.model_validate_json(key)
        try:
            sandbox = await self._create(spec)
        except SandboxError as error:
            self.counts.failed += 1
            self._backoff.failed(key, cause_of(error), _now())
            _log.warning("action=fail image=%s cause=%s reason=%r", spec.image, cause_of(error), str(error))
        else:
            self.counts.made += 1
            self.rate.observe(begun, _now())
            self._backoff.succeeded(key)
            self._ready[key].append(_Waiting(sandbox, _now()))
        finally:
            self._making[key] -= 1
            self._changed.set()

    async def _create(self, spec: SandboxSpec) -> Sandbox:
        self._since_census += 1
        try:
            return await self._backend.acquire(spec)
        except SandboxError as error:
            # Whatever else failed, until the machines are counted it may be there after all.
            self._since_census -= cause_of(error) is Cause.IMAGE
            raise

    async def _end(self, sandbox: "Sandbox | _Lent") -> None:
        try:
            await sandbox.close()
        except SandboxError as error:
            # The reaper sees it, as nobody renews it any more.
            _log.warning("action=end sandbox=%s reason=%r", sandbox.boot_id, str(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


@dataclass(frozen=True, slots=True)
class _Waiting:
    sandbox: Sandbox
    since: float


class _Lent:
    """A sandbox given out. Everything but its end is the sandbox's own, whatever more than the protocol it can do."""

    def __init__(self, sandbox: Sandbox, returned: Callable[["_Lent"], None]) -> None:
        self._sandbox = sandbox
        self._returned = returned
        self._limit: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox, name)

    def limit(self, timer: asyncio.TimerHandle) -> None:
        """``timer`` ends the sandbox when its lifetime is over, which in the pool's own terms would be later."""
        self._limit = timer

    async def close(self) -> None:
        await self._give_back(self._sandbox.close())

    async def detach(self) -> None:
        await self._give_back(cast(LastingSandbox, self._sandbox).detach())

    async def _give_back(self, parting: Coroutine[Any, Any, None]) -> None:
        if self._limit is not None:
            self._limit.cancel()
        try:
            await parting
        finally:
            self._returned(self)


def _now() -> float:
    return asyncio.get_running_loop().time()
