"""A day of a service's life in minutes: does everything that was asked for happen, once, and is nothing left over?

    python -m benchmarks.day --tasks 5000 --minutes 10

API, two workers, a model server and Postgres are processes of their own; model answers take no time, sandboxes, git and
files are real. Users of four projects come at random (a Poisson process, half of them in the rush hour), and submit,
ask twice, cancel, pause, talk, raise limits, delete and watch. Schedules submit too, the receiver of webhooks is away
for a while, a project's daily tokens run out until they are raised, old tasks outlive what their project keeps. In the
rush hour one worker is restarted (SIGTERM) and one is killed (SIGKILL). When all has ended, the rows of the store must
add up, and no process, sandbox or file may be left; exit code 1 if not. The table is also written to
``build/bench/day.json``. It needs a Postgres server's programs.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import uvicorn
from rich.console import Console
from rich.table import Table
from sqlalchemy import ColumnElement, and_, func, select, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.store.open import open_store
from agent.store.sql import SqlStore
from agent.store.tables import artifacts, tasks, webhook_deliveries
from agent.testing import ScriptedEndpoint
from agent.testing.serving import serving
from agent.types import Status
from benchmarks.books import Books, Turns
from benchmarks.customers import Customers, Operator, write_lines
from benchmarks.kills import repository_in
from benchmarks.watchers import resident_bytes
from tests.postgres import postgres_server

_REPORT = Path("build/bench/day.json")
_WEIGHTS = {"large": 4.0, "middle": 2.0, "small": 1.0}
"""Of the projects that are compared in the rush hour."""
FRUGAL = "frugal"
"""Its daily tokens run out, and it keeps tasks for one day."""
_VISITS = {"large": 0.35, "middle": 0.30, "small": 0.25, FRUGAL: 0.10}
_HOURS = (*(1,) * 5, 15, *(1,) * 10)
"""How many come in each hour, against each other."""
_RUSH = 5 / 16
"""When that begins, as a share of the day."""
_TOKENS_PER_TASK = 200
"""Of the frugal project, before its limit is raised: about half of what its tasks want."""
_TIDY_EVERY_S = 5.0
_TIDY_S = 180.0
"""What killed workers left is found so late at most."""
_START_S = 120.0
_END_S = 3600.0
_UNFAIR = 0.2
"""A share may be so far from the others', where it is counted over ``_ENOUGH`` claims of each."""
_ENOUGH = 30
_LOG_LINES = 60
_MARK = "MIMO_BENCHMARK_DAY"
"""In the environment of all that belongs to one day."""


@dataclass(frozen=True, slots=True)
class Day:
    tasks: int = 5000
    minutes: float = 10.0
    """Until the last one comes; what waits then is worked off."""
    watchers: int = 20
    concurrency: int = 4
    """Runs of a worker at once."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """A process as it is at a moment."""

    memory_mib: float
    num_files: int
    cpu_s: float
    """Since it was started, of its own threads."""

    @classmethod
    def of(cls, pid: int) -> "Size":
        times = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[11:13]
        cpu_s = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        return cls(resident_bytes(pid) / 2**20, len(list(Path(f"/proc/{pid}/fd").iterdir())), cpu_s)


@dataclass(slots=True)
class Report:
    """What was found."""

    day: Day
    load: float
    """The machine's, before: figures of a busy machine are no result."""
    wall_s: float = 0.0
    endings: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    turns: list[Turns] = field(default_factory=list)
    processes: dict[str, dict[str, Size]] = field(default_factory=dict)
    """By share of the tasks that had ended, then by name."""
    latencies_ms: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """Number, median and 99th percentile, by call."""
    faults: list[str] = field(default_factory=list)


class Processes:
    """Of one service, in a folder of its own."""

    def __init__(self, folder: Path, store: str, concurrency: int) -> None:
        self.mark = secrets.token_hex(8)
        self.api_key = secrets.token_hex(16)
        self.files = folder / "tmp"
        self.files.mkdir()
        self._folder = folder
        self._store = store
        self._concurrency = concurrency
        self._environment = os.environ | {
            _MARK: self.mark,
            "TMPDIR": str(self.files),
            "MIMO_API_KEY": self.api_key,
            "MIMO_SECRETS_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "MIMO_WEBHOOK_NETWORKS": "127.0.0.0/8",
            "MIMO_REPOSITORY_PATHS": str(folder),
            "MIMO_ARTIFACTS": f"file://{folder}/artifacts",
        }
        self._logs: dict[int, Path] = {}
        """Of processes, by id."""
        self._forks = multiprocessing.get_context("forkserver")
        self._model_port, self.port = _free_port(), _free_port()
        self._model = self._forks.Process(target=_serve_model, args=(self._model_port,))
        self._model.start()
        self.api = self._start("agent.api", "--store", store, "--port", str(self.port))
        self.workers = [self._start_worker() for _ in range(2)]
        self.ended: list[str] = []
        """What of it ended as it should not have."""

    @property
    def ids(self) -> dict[str, int]:
        """Of processes, by name."""
        return {"API": self.api.pid} | {f"worker {number}": each.pid for number, each in enumerate(self.workers, 1)}

    async def restart_worker(self, number: int, how: signal.Signals) -> None:
        await self._end(self.workers[number], how)
        self.workers[number] = self._start_worker()

    async def end(self) -> None:
        for each in (*self.workers, self.api):
            await self._end(each, signal.SIGTERM)
        self._model.kill()
        await asyncio.to_thread(self._model.join)

    def left(self) -> list[str]:
        """Command lines of processes that were started for this day, or by such, and are still there."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{_MARK}={self.mark}".encode() in (path / "environ").read_bytes():
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found

    def _start_worker(self) -> subprocess.Popen[bytes]:
        options = ("--store", self._store, "--data", str(self._folder / "data"), "--model", "scripted")
        url = f"http://127.0.0.1:{self._model_port}/v1"
        more = ("--model-url", url, "--concurrency", str(self._concurrency), "--tidy-every", str(_TIDY_EVERY_S))
        return self._start("agent.orchestrator", *options, *more)

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{len(self._logs)}.log"
        with log.open("wb") as file:
            command = [sys.executable, "-m", module, *arguments]
            process = subprocess.Popen(command, env=self._environment, stdout=file, stderr=file)
        self._logs[process.pid] = log
        return process

    async def _end(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        process.send_signal(how)
        code = await asyncio.to_thread(process.wait)
        if how is signal.SIGTERM and code not in (0, -signal.SIGTERM):
            words = self._logs[process.pid].read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            self.ended.append("\n".join([f"process {process.pid} ended with {code}:", *words]))


def _serve_model(port: int) -> None:
    uvicorn.run(ScriptedEndpoint(write_lines).app, host="127.0.0.1", port=port, log_level="warning")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class Receiver:
    """Of webhooks: it is away at times, and refuses one message or another."""

    def __init__(self, chance: random.Random) -> None:
        self._is_away = False
        self.num_refused = 0
        self.heard = set[str]()
        self._chance = chance

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/", self._hear, methods=["POST"])])

    async def be_away(self, for_s: float) -> None:
        self._is_away = True
        await asyncio.sleep(for_s)
        self._is_away = False

    async def _hear(self, request: Request) -> Response:
        await request.body()
        if self._is_away or self._chance.random() < 0.03:
            self.num_refused += 1
            return Response(status_code=503)
        self.heard.add(request.headers["webhook-id"])
        return Response(status_code=204)


class Course:
    """The day as it goes."""

    def __init__(
        self,
        day: Day,
        store: SqlStore,
        processes: Processes,
        receiver: Receiver,
        customers: Customers,
        operator: Operator,
    ) -> None:
        self._day = day
        self._store = store
        self._processes = processes
        self._receiver = receiver
        self._customers = customers
        self._operator = operator
        self._chance = random.Random(day.seed)
        self._length_s = day.minutes * 60
        self._stopping = asyncio.Event()
        self.sizes: dict[str, dict[str, Size]] = {}
        """By share of the tasks that had ended, then by process."""
        self.outlived = set[str]()
        """Tasks that were made older than their project keeps them."""

    async def run(self) -> None:
        """Until all that was submitted has ended, and was told."""
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(self._customers.watch(self._stopping)) for _ in range(self._day.watchers)]
            measuring = group.create_task(self._measure())
            await asyncio.gather(*(self._at(share, do) for share, do in (*self._events(), *self._visits())))
            async with asyncio.timeout(_END_S):
                while await self._num_unfinished() or await self._num_unsaid():  # noqa: ASYNC110 - other processes do it
                    await asyncio.sleep(0.5)
            self._stopping.set()
            await asyncio.wait([*watching, measuring])
        self._look("100 %")

    async def _at(self, share: float, do: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(share * self._length_s)
        await do()

    def _visits(self) -> Iterator[tuple[float, Callable[[], Awaitable[object]]]]:
        """Given their number, the moments of a Poisson process are independent of each other."""
        hours = self._chance.choices(range(len(_HOURS)), _HOURS, k=self._day.tasks)
        projects = self._chance.choices(list(_VISITS), list(_VISITS.values()), k=self._day.tasks)
        for hour, project in zip(hours, projects, strict=True):
            yield (hour + self._chance.random()) / len(_HOURS), partial(self._customers.come, project)

    def _events(self) -> Iterator[tuple[float, Callable[[], Awaitable[object]]]]:
        processes, receiver = self._processes, self._receiver
        yield 0.2, self._operator.run_schedules
        yield 0.3, partial(receiver.be_away, 0.1 * self._length_s)
        yield _RUSH + 0.01, partial(processes.restart_worker, 0, signal.SIGTERM)
        yield _RUSH + 0.03, partial(processes.restart_worker, 1, signal.SIGKILL)
        yield 0.7, partial(self._operator.raise_tokens, FRUGAL)
        yield 0.75, self._age
        yield 0.95, self._operator.stop_schedules

    async def _age(self) -> None:
        """Make the tasks of the frugal project that ended two days older."""
        old = and_(tasks.c.project_id == FRUGAL, tasks.c.finished_at.is_not(None))
        async with self._store.database.writing() as transaction:
            change = update(tasks).where(old).values(finished_at=transaction.now - timedelta(days=2))
            self.outlived |= set((await transaction.db.execute(change.returning(tasks.c.task_id))).scalars())

    async def _measure(self) -> None:
        for share in (0.25, 0.5, 0.75):
            wanted = share * self._day.tasks
            while await self._num_ended() < wanted and not self._stopping.is_set():  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.5)
            self._look(f"{share:.0%}".replace("%", " %"))

    def _look(self, when: str) -> None:
        self.sizes[when] = {name: Size.of(pid) for name, pid in self._processes.ids.items()}

    async def _num_ended(self) -> int:
        return await self._count(tasks.c.finished_at.is_not(None)) + len(self.outlived)

    async def _num_unfinished(self) -> int:
        return await self._count(tasks.c.finished_at.is_(None))

    async def _num_unsaid(self) -> int:
        return await self._count(webhook_deliveries.c.due.is_not(None))

    async def _count(self, which: ColumnElement[bool]) -> int:
        async with self._store.database.reading() as db:
            return int((await db.execute(select(func.count()).where(which))).scalar_one())


async def live_through(day: Day) -> Report:
    """The whole of it, and what the books say then."""
    report = Report(day, os.getloadavg()[0])
    chance = random.Random(day.seed)
    receiver = Receiver(chance)
    with (
        postgres_server() as server,
        tempfile.TemporaryDirectory(prefix="mimo-day-") as name,
        serving(receiver.app) as port,
    ):
        folder, address = Path(name), server.new_database()
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(address))  # makes the tables, too
            processes = Processes(folder, address, day.concurrency)
            stack.push_async_callback(processes.end)
            base, limits = f"http://127.0.0.1:{processes.port}", httpx.Limits(max_connections=None)
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=base, trust_env=False, limits=limits))
            await _answers(http)
            repository = str(repository_in(folder))
            operator = Operator(http, processes.api_key, repository)
            keys = await _open(operator, day, f"http://127.0.0.1:{port}/")
            customers = Customers(http, keys, repository, chance)
            course = Course(day, store, processes, receiver, customers, operator)
            begun = time.monotonic()
            await course.run()
            report.wall_s = time.monotonic() - begun
            await _compare(report, store, folder, course, customers, operator)
        report.counts["webhook messages refused"] = receiver.num_refused
        report.faults += processes.ended
        report.faults += [f"a process is left: {line}" for line in processes.left()]
        report.faults += [f"a file is left: {path}" for path in processes.files.rglob("*") if not path.is_dir()]
    return report


async def _answers(http: httpx.AsyncClient) -> None:
    """Return when the service does."""
    async with asyncio.timeout(_START_S):
        while True:
            with suppress(httpx.TransportError):
                if (await http.get("/readyz")).is_success:
                    return
            await asyncio.sleep(0.2)


async def _open(operator: Operator, day: Day, receiver: str) -> dict[str, str]:
    """The projects' keys."""
    keys = {name: await operator.open(name, receiver, weight=weight) for name, weight in _WEIGHTS.items()}
    most = max(1, round(_VISITS[FRUGAL] * day.tasks * _TOKENS_PER_TASK))
    keys[FRUGAL] = await operator.open(FRUGAL, receiver, daily_tokens=most, retention_days=1)
    await operator.schedule("small")
    return keys


async def _compare(
    report: Report, store: SqlStore, folder: Path, course: Course, customers: Customers, operator: Operator
) -> None:
    """What customers were told, the books, and what is on the disk."""
    told, books = customers.told, Books(store)
    expected = (set(told.accepted) | operator.submitted) - told.deleted - course.outlived
    there = expected | set(await books.scheduled())
    missed = told.missed - told.deleted - course.outlived
    report.faults += told.faults + [f"{task_id} was not there for a watcher" for task_id in missed]
    left = await _left_over(store, books, folder, there)
    deadline = time.monotonic() + _TIDY_S
    while left and time.monotonic() < deadline:  # Workers and reapers look from time to time.
        await asyncio.sleep(1)
        left = await _left_over(store, books, folder, there)
    report.faults += left
    report.faults += await books.faults(expected)
    if (counted := await operator.usage()) != (spent := dict(await books.usage())):
        report.faults.append(f"the service says {counted} were used, and its books {spent}")
    report.turns = await books.turns(_WEIGHTS)
    report.faults += _unfair(report.turns)
    report.endings, report.kinds = dict(await books.num_by_ending()), dict(told.kinds)
    report.latencies_ms = {what: _spread(times) for what, times in sorted(told.latencies_s.items())}
    report.processes = course.sizes
    steps = await books.num_of("step.completed")
    report.counts = {
        "tasks accepted": len(told.accepted),
        "tasks of schedules": len(await books.scheduled()) + len(operator.submitted),
        "tasks deleted by users": len(told.deleted),
        "tasks deleted as too old": len(course.outlived),
        "cancels that came too late": len(told.to_be_cancelled) - report.endings.get(Status.CANCELLED, 0),
        "steps": steps,
        "steps a second": steps / report.wall_s,
        "claims": await books.num_of("run.claimed"),
        "runs given back or taken over": await books.num_of("run.released", "run.resumed"),
        "waits of runs": await books.num_of("run.parked"),
        "event streams": told.num_streams,
        "events streamed": told.num_events_seen,
        "KiB of database a task": await books.bytes() / 1024 / max(1, len(there)),
    }


async def _left_over(store: SqlStore, books: Books, folder: Path, task_ids: set[str]) -> list[str]:
    """What of the tasks and runs that are over is still there, in words."""
    found = [f"sandbox {id_} is on record" for id_ in await books.sandboxes()]
    for path in (folder / "data" / "repositories").iterdir():
        if path.is_dir() and path.name.removesuffix(".git") not in task_ids and any(path.iterdir()):
            found.append(f"{path} is of no task")
    async with store.database.reading() as db:
        known = set((await db.execute(select(artifacts.c.task_id))).scalars())
    kept = (path for path in (folder / "artifacts").rglob("*") if path.is_file())
    return found + [f"{path} is of no task" for path in kept if not known.intersection(path.parts)]


def _unfair(turns: list[Turns]) -> Iterator[str]:
    if min(each.num_claims for each in turns) < _ENOUGH:
        return
    mean = sum(each.charged_s for each in turns) / sum(each.weight for each in turns)
    for each in turns:
        if abs(each.share / mean - 1) > _UNFAIR:
            yield f"{each.project_id} had {each.share / mean:.2f} of what its weight gives it"


def _spread(times_s: list[float]) -> tuple[int, float, float]:
    times = sorted(times_s)
    return len(times), 1000 * statistics.median(times), 1000 * times[min(len(times) - 1, int(0.99 * len(times)))]


def _print(report: Report) -> None:
    console = Console(width=140)
    day = Table(
        title=f"{report.day.tasks:,} tasks in {report.wall_s:.0f} s, load {report.load:.1f} before", show_header=False
    )
    for name, number in {**report.counts, **report.endings}.items():
        day.add_row(name, f"{number:,.0f}" if number >= 100 or float(number).is_integer() else f"{number:.1f}")
    console.print(day)
    calls = Table("call", "number", "p50 ms", "p99 ms")
    for name, (number, p50, p99) in report.latencies_ms.items():
        calls.add_row(name, f"{number:,}", f"{p50:.0f}", f"{p99:.0f}")
    console.print(calls)
    processes = Table("tasks ended", *next(iter(report.processes.values())))
    for when, sizes in report.processes.items():
        cells = (
            f"{size.memory_mib:.0f} MiB, {size.num_files} files, {size.cpu_s:.1f} s of CPU" for size in sizes.values()
        )
        processes.add_row(when, *cells)
    console.print(processes)
    shares = Table("project", "weight", "claims while all waited", "share against its weight")
    mean = sum(each.charged_s for each in report.turns) / sum(each.weight for each in report.turns)
    for each in report.turns:
        shares.add_row(each.project_id, f"{each.weight:g}", str(each.num_claims), f"{each.share / (mean or 1):.2f}")
    console.print(shares)
    print(f"{len(report.faults)} faults")
    for fault in report.faults:
        print(fault)


def main() -> None:
    parser = argparse.ArgumentParser(description="Live through a day of a service in minutes.")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=10.0, help="Until the last of them comes.")
    parser.add_argument("--watchers", type=int, default=20, help="Users who look at one task after the other.")
    parser.add_argument("--concurrency", type=int, default=4, help="Runs of a worker at once.")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    report = asyncio.run(live_through(Day(**vars(parser.parse_args()))))
    _print(report)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
