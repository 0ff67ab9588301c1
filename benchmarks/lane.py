"""One run after the other, of which each is watched from outside, and struck where it passes given points.

What ``benchmarks.boundaries`` does it with.
"""

import asyncio
import multiprocessing
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, get_args

import httpx

from agent.config import ModelSettings
from agent.identity import DEFAULT_PROJECT
from agent.orchestrator.app import open_worker
from agent.orchestrator.settings import WorkerSettings
from agent.store.base import ProjectStore, TaskRecord
from agent.store.open import open_store
from agent.testing import CuttingProxy, ScriptedEndpoint, Watch, WatchedBackend, call
from agent.types import AssistantMessage, Event, Message, TaskRequest
from sandbox.config import LocalSettings, SandboxSettings
from sandbox.local.backend import LocalBackend
from sandbox.types import Command
from tests.postgres import PostgresServer

Victim = Literal["worker", "database", "model", "sandbox"]
VICTIMS: tuple[Victim, ...] = get_args(Victim)

_CUT_OFF = "the worker was restarted"
"""Part of what the model reads where a call did not come to its end."""
_NO_JOB = "no such job"
_BY_THE_WAY = {"run.claimed", "run.provisioned", "run.resumed", "run.parked", "run.requeued", "sandbox.lost"}
"""Events that a kill may add."""
_LEASE_TTL_S = 15.0
_MOST_WORKERS = 30
"""So many may be needed for one run, one after the other."""
_MOST: dict[Victim, tuple[int, int]] = {"worker": (20, 4), "database": (20, 4), "model": (24, 4), "sandbox": (2, 1)}
"""How often each is hit in one run, and between two answers of the model: what a run bears before it is given up."""
_SLEEP = "sleep 0.2"
"""By this a command is known that runs."""
_PIECE_BYTES = 256
"""Shorter than any answer of the model."""


@dataclass(slots=True)
class Course:
    """The points that a run passes, named by what the model had asked for last. At some something is struck."""

    strike: Callable[[], bool] = lambda: False
    """False where there was nothing to hit."""
    left: set[str] = field(default_factory=set)
    """Where nothing was struck yet."""
    most: int = 0
    """Strikes in this run."""
    most_in_phase: int = 0
    phase: str = "begin"
    passed: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    """Points at which there was nothing to hit."""
    _counts: Counter[str] = field(default_factory=Counter)

    async def at(self, name: str) -> None:
        name = f"{self.phase}: {name}"
        self._counts[name] += 1
        point = f"{name} ({self._counts[name]})"
        self.passed.append(point)
        in_phase = sum(struck.startswith(f"{self.phase}: ") for struck in self.struck)
        if point in self.left and len(self.struck) < self.most and in_phase < self.most_in_phase:
            self.left.discard(point)
            (self.struck if self.strike() else self.empty).append(point)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run, and what became of it."""

    victim: Victim | None
    course: Course
    task: TaskRecord
    log: Sequence[Event]

    @property
    def told(self) -> set[int]:
        """Steps whose call was cut off, or found that the job is gone, as the model was told, or started it again."""
        found = set[int]()
        job_gone = False
        for body in (event.body for event in self.log if event.type == "tool.completed"):
            text = body["observation"]["text"]
            cut_off = _CUT_OFF in text
            if cut_off or job_gone or _NO_JOB in text:
                found.add(body["step"])
            job_gone = _NO_JOB in text or (job_gone and cut_off)
        return found

    @property
    def story(self) -> list[str]:
        """The kinds of its events, without what a kill adds."""
        added = self.told
        events = (event for event in self.log if event.type not in _BY_THE_WAY)
        return [event.type for event in events if event.body.get("step") not in added]


class Lane:
    """One run after the other, each by workers of its own processes, which reach everything by way of us."""

    def __init__(self, users: ProjectStore, request: TaskRequest, line: Path) -> None:
        """Use :meth:`open`."""
        self._users = users
        self._request = request
        self._line = str(line)
        self._course = Course()
        self._proxies: dict[Victim, CuttingProxy] = {}
        self._settings = WorkerSettings(store="", data=line.parent)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([__name__, "agent.store.postgres"])
        self._worker: BaseProcess | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, server: PostgresServer, folder: Path, request: TaskRequest) -> "AsyncIterator[Lane]":
        address = server.new_database()
        database, host = address.partition("@/")[2].split("?host=")
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(address))
            lane = cls(store.of(DEFAULT_PROJECT), request, folder / "line")
            stack.callback((await asyncio.start_unix_server(lane._hear, lane._line)).close)
            model = httpx.URL(stack.enter_context(ScriptedEndpoint(lane._answer).running()))
            lane._proxies = {
                "database": CuttingProxy(
                    lambda: asyncio.open_unix_connection(f"{host}/.s.PGSQL.5432"), lambda: _Commits(lane._at)
                ),
                "model": CuttingProxy(
                    lambda: asyncio.open_connection(model.host, model.port),
                    lambda: _Answers(lane._at),
                    piece_bytes=_PIECE_BYTES,
                ),
            }
            ports = {name: await stack.enter_async_context(proxy.running()) for name, proxy in lane._proxies.items()}
            url = f"http://127.0.0.1:{ports['model']}/v1"
            through = f"postgresql://mimo@127.0.0.1:{ports['database']}/{database}"
            lane._settings = WorkerSettings(
                store=through,
                registry=through,
                data=folder / "data",
                model=ModelSettings(url=url, name="scripted", context_tokens=100_000, backoff_s=0.05),
                waits_for_model=True,
                sandbox=SandboxSettings(local=LocalSettings(sockets=folder / "sandboxes")),
                lease_ttl_s=_LEASE_TTL_S,
            )
            stack.push_async_callback(_leave_no_sandbox, lane._settings.sandbox)
            yield lane

    async def run(self, victim: Victim | None = None, left: set[str] | None = None) -> Trial:
        """Have one run done by one worker after the other; the victim is hit at points that are left."""
        most, most_in_phase = _MOST[victim] if victim else (0, 0)
        course = self._course = Course(partial(self._hit, victim), left or set(), most, most_in_phase)
        task = await self._users.submit(self._request)
        number = 0
        while not task.status.terminal and number < _MOST_WORKERS:
            await self._have_worked(number)
            task, number = await self._users.get(task.id), number + 1
        return Trial(victim, course, task, await self._users.events(task.id))

    async def _have_worked(self, number: int) -> None:
        """Wait for a worker that works until nothing is left to do, or something ends it.

        Its clock is ahead of that of the one before: the leases which that one had are over.
        """
        ahead = timedelta(seconds=number * (_LEASE_TTL_S + 1))
        self._worker = self._processes.Process(target=_work, args=(self._settings, ahead, self._line))
        self._worker.start()
        await asyncio.to_thread(self._worker.join)

    def _answer(self, messages: Sequence[Message]) -> AssistantMessage:
        self._course.phase = _PHASES[progress(messages)[0]]
        return repair(messages)

    def _hit(self, victim: Victim | None) -> bool:
        assert self._worker is not None, self._course
        if victim == "worker":
            self._worker.kill()
        elif victim == "sandbox":
            return kill_sandboxes_of(self._worker.pid or 0)
        elif victim is not None:
            self._proxies[victim].cut()
        return True

    async def _at(self, name: str) -> None:
        await self._course.at(name)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A worker tells of its sandboxes, and goes on once it is answered."""
        with suppress(ConnectionError):
            while name := (await reader.readline()).decode().strip():
                await self._at(f"sandbox: {name}")
                writer.write(b"\n")
        writer.close()


class _Commits(Watch):
    """Those of transactions that write events; they are called by these."""

    def __init__(self, at: Callable[[str], Awaitable[None]]) -> None:
        self._at = at
        self._said = b""
        """By the client, since the last transaction began."""
        self._committing = ""

    async def asked(self, data: bytes) -> None:
        self._said += data
        if not data.endswith(b"COMMIT\0"):
            return
        kinds = dict.fromkeys(re.findall(rb"\b(?:run|step|tool|task|verdict|sandbox)\.[a-z_]+", self._said))
        self._said = b""
        if kinds:
            self._committing = f"database: {b', '.join(kinds).decode()}"
            await self._at(f"{self._committing} written")

    async def answered(self, data: bytes) -> None:
        committed, self._committing = self._committing, ""
        if committed:
            await self._at(f"{committed} committed")


class _Answers(Watch):
    """Of the model."""

    def __init__(self, at: Callable[[str], Awaitable[None]]) -> None:
        self._at = at
        self._answer = b""
        self._num_pieces = 0

    async def asked(self, data: bytes) -> None:
        if data.startswith(b"POST "):
            self._answer, self._num_pieces = b"", 0
            await self._at("model: asked")

    async def answered(self, data: bytes) -> None:
        self._num_pieces += 1
        if self._num_pieces <= 2:
            await self._at(f"model: answer {'begins' if self._num_pieces == 1 else 'goes on'}")

    async def delivered(self, data: bytes) -> None:
        over, self._answer = b"[DONE]" in self._answer, self._answer + data
        if not over and b"[DONE]" in self._answer:
            await self._at("model: answer ended")


def _work(settings: WorkerSettings, ahead: timedelta, line: str) -> None:
    """A worker process."""
    with socket.socket(socket.AF_UNIX) as told:
        told.connect(line)
        asyncio.run(_drain(settings, ahead, told))


async def _drain(settings: WorkerSettings, ahead: timedelta, told: socket.socket) -> None:
    async def tell(name: str) -> None:
        told.sendall(f"{name}\n".encode())
        told.recv(1)  # Nothing else happens in this process until something has, or has not, been hit.

    def clock() -> datetime:
        return datetime.now(UTC) + ahead

    backend = WatchedBackend(LocalBackend(settings.sandbox), tell, _running)
    async with (
        open_store(settings.store, clock=clock) as store,
        open_worker(settings, store=store, backend=backend) as worker,
    ):
        await worker.drain()


async def _running(command: Command) -> bool:
    if _SLEEP not in command.line:
        return False
    while not any(command_line(pid).startswith(b"sleep\0") for pid in descendants(os.getpid())):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return True


async def _leave_no_sandbox(settings: SandboxSettings) -> None:
    """Those of killed workers live on until their leases end."""
    backend = LocalBackend(settings)
    while found := await backend.found():
        for each in found:
            await backend.remove(each.id)
        await asyncio.sleep(0.05)
    await backend.close()


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process started, and those that they did."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text("ascii").split()):
                yield child
                yield from descendants(child)


def kill_sandboxes_of(pid: int) -> bool:
    """End the first process in each sandbox of a worker, and all of the sandbox with it; False where it has none."""
    found = [child for child in descendants(pid) if b"sandboxd" in command_line(child).partition(b"\0")[0]]
    for each in found:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return bool(found)


def command_line(pid: int) -> bytes:
    """Its words, each with a zero byte after it; empty where there is no such process."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


_PHASES = ("command", "job", "look", "edit", "review", "end")


def progress(messages: Sequence[Message]) -> tuple[int, str]:
    """How many calls came to their end, and the job's id. A job that ended with its machine is started again."""
    num_done, job = 0, ""
    for text in (message["content"] for message in messages if message["role"] == "tool"):
        if started := re.match(r"\[job (\S+) started", text):
            job = started[1]
        if _NO_JOB in text:
            num_done = 1
        elif _CUT_OFF not in text:
            num_done += 1
    return num_done, job


def repair(messages: Sequence[Message]) -> AssistantMessage:
    """A command, a job, a look at it, an edit, and two times finish, as the first shows the patch.

    A call that was cut off is made again.
    """
    num_done, job = progress(messages)
    return (
        call("bash", command=f"echo step >> notes.txt; {_SLEEP}"),
        call("bash", command="echo job > job.txt", background=True),
        call("job", id=job, action="wait"),
        call("str_replace", path="calc.py", old_str="a - b", new_str="a + b"),
        call("finish", summary="add adds"),
        call("finish", summary="add adds"),
    )[num_done]
