"""Kills at random moments: does every run still end as if nothing had happened?

    python -m benchmarks.kills --kills 500

Worker processes, a model server and a Postgres server do the same small repair again and again, while at random one of
these is hit: a worker (SIGKILL), the model server (SIGKILL; its next one comes up a moment later), a sandbox (SIGKILL
of its first process), or the database's connections, all of which are cut in a proxy. In the end each run must have the
patch of an undisturbed one, no call that ran to its end twice, and a log without a hole. Recovery is the time from a
hit until each run that was unfinished then has completed a step or ended; processes are forks of one that has imported
everything, so the interpreter's start is not in it. It needs a Postgres server's programs.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.table import Table

from agent.identity import DEFAULT_PROJECT
from agent.orchestrator import __main__ as worker
from agent.store.base import ProjectStore, TaskRecord
from agent.store.open import open_store
from agent.testing import CuttingProxy, ScriptedEndpoint, call
from agent.types import AssistantMessage, Event, Message, Status, StopReason, TaskRequest
from benchmarks.lane import command_line, descendants
from tests.postgres import postgres_server

NUM_STEPS = 6
_LEASE_TTL_S = 2
_NUM_WORKERS = 2
_CUT_OFF = "the worker was restarted"
"""Part of what the model reads where a call did not come to its end."""
_KINDS = ("worker", "model", "sandbox", "database")
_END_S = 900.0


def repair(messages: Sequence[Message]) -> AssistantMessage:
    """Writes a line in each step, then finishes; a call that was cut off is made again."""
    said = sum(message["role"] == "assistant" for message in messages)
    cut_off = sum(_CUT_OFF in message["content"] for message in messages if message["role"] == "tool")
    step = said - cut_off
    if step == NUM_STEPS:
        return call("finish", summary="done")
    return call("bash", command=f"sleep 0.2; echo line {step} >> lines.txt; sleep 0.2")


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    num_runs: int = 0
    num_claims: int = 0
    num_calls: int = 0
    num_cut_off: int = 0
    """Calls that were cut off, which the model was told, and made again."""
    num_sandboxes_lost: int = 0
    num_waits: int = 0
    """For a model that was away."""
    num_given_up: int = 0
    """Runs that lost more sandboxes than are replaced, which ends them by design."""
    hits: list[datetime] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    """One for each hit while some run was unfinished."""
    wrong: list[str] = field(default_factory=list)
    """What should not be, in words; empty where all is well."""


class Service:
    """The processes, and what can be done to them."""

    def __init__(self, folder: Path, store: str, proxy: CuttingProxy) -> None:
        self._folder = folder
        self._store = store
        self._proxy = proxy
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._model_port: int = free.getsockname()[1]
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([__name__, "agent.store.postgres"])
        self._nurseries = set[int]()
        """The processes that make sandboxes, also those of workers that are gone."""
        self._model = self._start(_serve, self._model_port)
        self._workers = [self._start_worker() for _ in range(_NUM_WORKERS)]

    def hit(self, kind: str) -> bool:
        """False where there is nothing to hit now."""
        self._nurseries |= {child for each in self._workers for child in descendants(each.pid or 0)}
        match kind:
            case "worker":
                number = random.randrange(_NUM_WORKERS)
                _kill(self._workers[number])
                self._workers[number] = self._start_worker()
            case "model":
                _kill(self._model)
                self._model = self._start(_serve, self._model_port)
            case "sandbox":
                return self._hit_sandbox()
            case _:
                self._proxy.cut()
        return True

    async def end(self) -> None:
        for each in self._workers:
            each.terminate()
            await asyncio.to_thread(each.join)  # It writes through our proxy until it ends.
        _kill(self._model)

    def _hit_sandbox(self) -> bool:
        sandboxes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        found = [pid for pid in sandboxes if _is_sandbox(pid) and _session_of_parent(pid) in self._nurseries]
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(random.choice(found), signal.SIGKILL)
        return True

    def _start_worker(self) -> BaseProcess:
        url = f"http://127.0.0.1:{self._model_port}/v1"
        options = ("--store", self._store, "--data", str(self._folder / "data"), "--lease-ttl", str(_LEASE_TTL_S))
        more = ("--model-url", url, "--model", "scripted", "--concurrency", "2")
        return self._start(worker.main, [*options, *more])

    def _start(self, program: Callable[..., object], *arguments: object) -> BaseProcess:
        log = str(self._folder / "processes.log")
        process = self._forks.Process(target=_logged, args=(log, program, *arguments))
        process.start()
        return process


def _logged(log: str, program: Callable[..., object], *arguments: object) -> None:
    """What a process does; what it says goes to a file."""
    with open(log, "ab") as file:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    program(*arguments)


def _serve(port: int) -> None:
    uvicorn.run(ScriptedEndpoint(repair).app, host="127.0.0.1", port=port, log_level="warning")


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _is_sandbox(pid: int) -> bool:
    """The first process inside one, with which all of it ends."""
    return command_line(pid).partition(b"\0")[0] == b"sandboxd"


def _session_of_parent(pid: int) -> int:
    """The holder of a sandbox is in the session of the process that made it, whether that still is or not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return os.getsid(int(Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[1]))
    return 0


async def measure(kinds: Sequence[str], *, at_once: int, pause_s: float) -> Outcome:
    """One hit after another, in this order, at random distances around ``pause_s``."""
    outcome = Outcome()
    with postgres_server() as server, tempfile.TemporaryDirectory() as name:
        folder, database = Path(name), server.new_database()
        address = f"{database.partition('host=')[2]}/.s.PGSQL.5432"
        proxy = CuttingProxy(lambda: asyncio.open_unix_connection(address))
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(proxy.running())
            store = await stack.enter_async_context(open_store(database))
            users = store.of(DEFAULT_PROJECT)
            inside = database.partition("@/")[2].partition("?")[0]
            service = Service(folder, f"postgresql://mimo@127.0.0.1:{port}/{inside}", proxy)
            stack.push_async_callback(service.end)
            request = TaskRequest(repository=str(repository_in(folder)), problem_statement="Write the lines.")
            tasks = await _hit_all(kinds, service, users, request, outcome, at_once=at_once, pause_s=pause_s)
            logs = []
            for task_id in tasks:
                ended = await _ended(users, task_id)
                logs.append(await users.events(task_id))
                _judge(ended, logs[-1], outcome)
            outcome.recoveries_s = [s for hit in outcome.hits if (s := _recovery_s(hit, logs)) is not None]
    return outcome


async def _hit_all(
    kinds: Sequence[str],
    service: Service,
    users: ProjectStore,
    request: TaskRequest,
    outcome: Outcome,
    *,
    at_once: int,
    pause_s: float,
) -> list[str]:
    """The tasks that were submitted meanwhile: so many are always unfinished."""
    tasks: list[str] = []
    for kind in kinds:
        hit = False
        while not hit:
            living = [task for task in tasks[-2 * at_once :] if not (await users.get(task)).status.terminal]
            tasks += [(await users.submit(request)).id for _ in range(at_once - len(living))]
            await asyncio.sleep(random.uniform(0, 2 * pause_s))
            hit = service.hit(kind)
        outcome.kills[kind] += 1
        outcome.hits.append(datetime.now(UTC))
    return tasks


def _recovery_s(hit: datetime, logs: Sequence[Sequence[Event]]) -> float | None:
    """Until the last run that was unfinished goes on; None where none was."""
    unfinished = [log for log in logs if log[0].at < hit < log[-1].at]
    steps = (
        next(event.at for event in log if event.at > hit and event.type in ("step.completed", "run.finished"))
        for log in unfinished
    )
    return max(((at - hit).total_seconds() for at in steps), default=None)


async def _ended(users: ProjectStore, task_id: str) -> TaskRecord:
    async with asyncio.timeout(_END_S):
        while not (record := await users.get(task_id)).status.terminal:  # noqa: ASYNC110 - nothing sets an event there
            await asyncio.sleep(0.2)
    return record


def _judge(task: TaskRecord, log: Sequence[Event], outcome: Outcome) -> None:
    outcome.num_runs += 1
    outcome.num_claims += sum(event.type == "run.claimed" for event in log)
    outcome.num_sandboxes_lost += sum(event.type == "sandbox.lost" for event in log)
    outcome.num_waits += sum(event.type == "run.parked" for event in log)
    intents = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    ended = [event.body for event in log if event.type == "tool.completed"]
    cut_off = [body["intent_id"] for body in ended if _CUT_OFF in body["observation"]["text"]]
    outcome.num_calls += len(intents)
    outcome.num_cut_off += len(cut_off)
    if task.stop_reason is StopReason.SANDBOX_LOST:
        outcome.num_given_up += 1
        return
    if task.status is not Status.SUCCEEDED:
        outcome.wrong.append(f"{task.id} is {task.status} ({task.stop_reason}): {task.error}")
        return
    lines = [line[1:] for line in task.patch.splitlines() if line.startswith("+line")]
    if lines != [f"line {step}" for step in range(NUM_STEPS)]:
        outcome.wrong.append(f"{task.id} has another patch: {lines}")
    if [event.seq for event in log] != list(range(1, len(log) + 1)):
        outcome.wrong.append(f"{task.id} misses events")
    if intents != [body["intent_id"] for body in ended] or len(set(intents)) != len(intents):
        outcome.wrong.append(f"{task.id} has calls without an end, or twice: {intents}")
    if len(intents) - len(cut_off) != NUM_STEPS + 1:
        outcome.wrong.append(f"{task.id} ran {len(intents) - len(cut_off)} calls to their end, not {NUM_STEPS + 1}")


def repository_in(folder: Path) -> Path:
    root = folder / "repository"
    root.mkdir()
    (root / "README").write_text("Lines.\n", "utf-8")
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@localhost commit -q -m begin"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    return root


def random_kinds(num_kills: int) -> list[str]:
    """Each kind as often as the others, in a random order."""
    kinds = [_KINDS[number % len(_KINDS)] for number in range(num_kills)]
    random.shuffle(kinds)
    return kinds


def _print(outcome: Outcome) -> None:
    tenths = statistics.quantiles(outcome.recoveries_s, n=10)
    table = Table(title=f"{outcome.kills.total()} kills, {outcome.num_runs} runs", show_header=False)
    rows = {
        **{f"kills: {kind}": outcome.kills[kind] for kind in _KINDS},
        "claims": outcome.num_claims,
        "calls": outcome.num_calls,
        "calls cut off, told to the model": outcome.num_cut_off,
        "sandboxes seen lost": outcome.num_sandboxes_lost,
        "waits for the model": outcome.num_waits,
        "runs that lost too many sandboxes": outcome.num_given_up,
        "recovery p50": f"{tenths[4]:.1f} s",
        "recovery p90": f"{tenths[8]:.1f} s",
        "recovery, longest": f"{max(outcome.recoveries_s):.1f} s",
        "wrong (patch, call twice, hole in the log, end)": len(outcome.wrong),
    }
    for name, number in rows.items():
        table.add_row(name, str(number))
    Console().print(table)
    for line in outcome.wrong:
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill workers, model, sandboxes and connections at random.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=4, help="Unfinished tasks at any moment.")
    parser.add_argument("--pause", type=float, default=2.0, help="Mean time between two kills, s.")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="Of the order and the pauses.")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    random.seed(arguments.seed)
    kinds = random_kinds(arguments.kills)
    outcome = asyncio.run(measure(kinds, at_once=arguments.at_once, pause_s=arguments.pause))
    _print(outcome)
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
