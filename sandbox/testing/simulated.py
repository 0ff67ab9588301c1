"""Sandboxes that exist in memory only, with the latencies, rates and faults that they are given.

    hosts = SimulatedHosts(Conditions(create_s=2.5, lost=0.01, seed=7))
    backend = SimulatedBackend(hosts)

``SimulatedHosts`` are the machines; a ``SimulatedBackend`` is one service's view of them, and several may share them.
Whether something goes wrong follows from the seed and from what is asked, not from the order in which it is asked.

A command line is one of ``echo TEXT``, ``cat PATH``, ``sleep SECONDS``, ``exit CODE``; anything else ends with 0.
"""

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import NormalDist

from sandbox.errors import NotStarted, SandboxLost, SandboxRejected, SandboxUnavailable, UnknownImage
from sandbox.inventory import Found, Handle
from sandbox.types import Capability, Command, Exited, Outcome, SandboxSpec, TimedOut


@dataclass(frozen=True, slots=True)
class Conditions:
    """How the machines behave. Shares are between 0 and 1."""

    seed: int = 0
    create_s: float = 0.0
    """Median time to make a sandbox, s."""
    create_spread: float = 0.0
    """Standard deviation of the logarithm of that time."""
    creates_per_s: float = math.inf
    """More at once wait for each other."""
    call_s: float = 0.0
    """Time of a command or file call, beside what the command itself takes, s."""
    slow_calls: float = 0.0
    """Share of file calls that take ``slow_call_s`` instead. Asked again, the call is another one."""
    slow_call_s: float = 1.0
    failed_creates: float = 0.0
    """Share of sandboxes that are not made."""
    orphaned_creates: float = 0.0
    """Share of sandboxes that are made, though their maker is told that they are not."""
    not_started: float = 0.0
    """Share of commands of which nothing runs. Asked again, the command is another one."""
    lost: float = 0.0
    """Share of commands that take their sandbox with them."""
    ignored_removals: float = 0.0
    """Share of removals that are accepted, and not done."""
    unknown_images: frozenset[str] = frozenset()
    lease_s: float = 60.0
    """A sandbox ends by itself so long after its service went away, s."""


class SimulatedHosts:
    """The machines, shared by all services."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        self.conditions = conditions or Conditions()
        self.num_created = 0
        self.peak = 0
        """The most sandboxes that were there at once, those that ended unseen included."""
        self.runs: Counter[str] = Counter()
        """How often each request id ran, in whatever sandbox."""
        self._hosts: dict[str, _Host] = {}
        self._turn = 0.0

    @property
    def alive(self) -> int:
        return len(self.found())

    def find(self, id_: str) -> "_Host | None":
        host = self._hosts.get(id_)
        return host if host is not None and host.is_alive(_now()) else None

    async def create(self, spec: SandboxSpec) -> "_Host":
        conditions = self.conditions
        number, self.num_created = self.num_created, self.num_created + 1
        if spec.image in conditions.unknown_images:
            raise UnknownImage(f"there is no image {spec.image!r}")
        await self._wait_for_turn()
        host = _Host(f"simulated-{number}", spec, _now(), conditions.lease_s)
        self._hosts[host.id] = host
        self.peak = max(self.peak, len(self._hosts))
        try:
            await asyncio.sleep(self._create_s(number))
        except asyncio.CancelledError:
            del self._hosts[host.id]
            raise
        if self.happens("failed", conditions.failed_creates, number):
            del self._hosts[host.id]
            raise SandboxUnavailable(f"sandbox {number} was not made")
        if self.happens("orphaned", conditions.orphaned_creates, number):
            host.let_go(_now())
            raise SandboxUnavailable(f"nothing was heard of sandbox {number}")
        return host

    def remove(self, id_: str, attempt: int) -> None:
        if not self.happens("ignored", self.conditions.ignored_removals, id_, attempt):
            self._hosts.pop(id_, None)

    def found(self) -> list["_Host"]:
        now = _now()
        self._hosts = {id_: host for id_, host in self._hosts.items() if host.is_alive(now)}
        return list(self._hosts.values())

    def happens(self, what: str, share: float, *to: object) -> bool:
        return share > 0 and Random(f"{self.conditions.seed} {what} {to}").random() < share

    async def _wait_for_turn(self) -> None:
        self._turn = max(self._turn, _now()) + 1 / self.conditions.creates_per_s
        await asyncio.sleep(self._turn - _now() - 1 / self.conditions.creates_per_s)

    def _create_s(self, number: int) -> float:
        conditions = self.conditions
        if conditions.create_s == 0 or conditions.create_spread == 0:
            return conditions.create_s
        part = Random(f"{conditions.seed} create {number}").uniform(1e-6, 1 - 1e-6)
        return conditions.create_s * math.exp(NormalDist(sigma=conditions.create_spread).inv_cdf(part))


class SimulatedBackend:
    """Starts simulated sandboxes, for one service."""

    name = "simulated"
    capabilities = frozenset({Capability.REATTACH, Capability.IMAGES})

    def __init__(self, hosts: SimulatedHosts) -> None:
        self.hosts = hosts
        self._sandboxes: set[SimulatedSandbox] = set()
        self._removals = itertools.count()

    async def acquire(self, spec: SandboxSpec) -> "SimulatedSandbox":
        return self._hold(await self.hosts.create(spec))

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> "SimulatedSandbox":
        host = self.hosts.find(handle.id)
        if host is None or (host.boot_id, host.key) != (handle.boot_id, handle.key):
            raise SandboxLost(f"there is no sandbox {handle.id}")
        return self._hold(host)

    async def found(self) -> Sequence[Found]:
        await asyncio.sleep(self.hosts.conditions.call_s)
        return [Found(host.id, host.created_at, host.ends_at) for host in self.hosts.found()]

    async def remove(self, id: str) -> None:  # noqa: A002  # the field's name
        await asyncio.sleep(self.hosts.conditions.call_s)
        self.hosts.remove(id, next(self._removals))

    def vanish(self) -> None:
        """As if this service were killed: it closes nothing, and its sandboxes hear no more of it."""
        for sandbox in self._sandboxes:
            sandbox.host.let_go(_now())
            sandbox.closed = True
        self._sandboxes.clear()

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))

    def forget(self, sandbox: "SimulatedSandbox") -> None:
        self._sandboxes.discard(sandbox)

    def _hold(self, host: "_Host") -> "SimulatedSandbox":
        host.hold()
        sandbox = SimulatedSandbox(self, host)
        self._sandboxes.add(sandbox)
        return sandbox


class SimulatedSandbox:
    """One simulated sandbox."""

    def __init__(self, backend: SimulatedBackend, host: "_Host") -> None:
        self.boot_id = host.boot_id
        self.host = host
        self.closed = False
        self._backend = backend
        self._calls = itertools.count()

    @property
    def handle(self) -> Handle:
        return Handle(self.host.id, f"memory:{self.host.id}", self.boot_id, self.host.key)

    async def exec(self, command: Command) -> Outcome:
        self._check()
        job = self.host.jobs.get(command.request_id)
        if job is None:
            attempt = self.host.attempts[command.request_id]
            self.host.attempts[command.request_id] += 1
            hosts = self._backend.hosts
            if hosts.happens("not started", hosts.conditions.not_started, command.request_id, attempt):
                raise NotStarted("the command did not start")
            hosts.runs[command.request_id] += 1
            job = self.host.jobs[command.request_id] = asyncio.create_task(self._run(command))
            job.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(job)

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        await self._file_call(path)
        data = self.host.files.get(path)
        if data is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        if len(data) > max_bytes:
            raise SandboxRejected(f"{path} is larger than {max_bytes} bytes")
        return data

    async def write(self, path: str, data: bytes) -> None:
        await self._file_call(path)
        self.host.files[path] = data

    async def upload(self, tar: bytes, path: str = "/workspace") -> None:
        await self.write(f"{path}.tar", tar)

    async def download(self, path: str = "/workspace", max_bytes: int = 512 * 1024 * 1024) -> bytes:
        return await self.read(f"{path}.tar", max_bytes)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._backend.forget(self)
            await self._backend.remove(self.host.id)

    async def detach(self) -> None:
        self.closed = True
        self.host.let_go(_now())
        self._backend.forget(self)

    async def _run(self, command: Command) -> Outcome:
        hosts = self._backend.hosts
        begun = _now()
        word, _, rest = command.line.partition(" ")
        await asyncio.sleep(hosts.conditions.call_s)
        if hosts.happens("lost", hosts.conditions.lost, command.request_id):
            hosts.remove(self.host.id, -1)
            raise SandboxLost(f"the sandbox ended while {command.request_id} ran")
        if word == "sleep":
            await asyncio.sleep(min(float(rest), command.timeout_s))
        run_s = _now() - begun
        if word == "sleep" and float(rest) >= command.timeout_s:
            return TimedOut(timeout_s=command.timeout_s, run_s=run_s, boot_id=self.boot_id)
        output = rest.encode() + b"\n" if word == "echo" else b""
        if word == "cat":
            output = self.host.files.get(rest, b"")
        code = int(rest) if word == "exit" else 0
        return Exited(code=code, output=output, total_bytes=len(output), run_s=run_s, boot_id=self.boot_id)

    async def _file_call(self, path: str) -> None:
        self._check()
        conditions = self._backend.hosts.conditions
        slow = self._backend.hosts.happens("slow", conditions.slow_calls, path, next(self._calls))
        await asyncio.sleep(conditions.slow_call_s if slow else conditions.call_s)
        self._check()

    def _check(self) -> None:
        if self.closed or self._backend.hosts.find(self.host.id) is None:
            raise SandboxLost(f"there is no sandbox {self.host.id}")


@dataclass(slots=True, eq=False)
class _Host:
    """One machine, with or without a service that cares for it."""

    id: str
    spec: SandboxSpec
    created_at: float
    lease_s: float
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, asyncio.Task[Outcome]] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    _let_go_at: float = math.inf

    @property
    def boot_id(self) -> str:
        return f"boot-{self.id}"

    @property
    def key(self) -> bytes:
        return self.id.encode()

    @property
    def ends_at(self) -> float:
        return self.created_at + self.spec.lifetime_s

    def hold(self) -> None:
        self._let_go_at = math.inf

    def let_go(self, now: float) -> None:
        self._let_go_at = now

    def is_alive(self, now: float) -> bool:
        return now < min(self.ends_at, self._let_go_at + self.lease_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
