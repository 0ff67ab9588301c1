"""What the service itself costs: many runs in one worker process, with a model and sandboxes that take no time.

    python -m benchmarks.service --runs 1000 --steps 20
    python -m benchmarks.service --runs 1000 --steps 20 --store postgresql://mimo@localhost/mimo

Claims, leases, loop, history and event log are real; the model answers at once, sandboxes are simulated, and trees are
not taken, as git is not ours to measure. It prints, and writes to ``build/bench/service.json``:

- steps per second over all runs, and CPU time per step;
- our own time per step of a run that is alone: from an answer of the model to the next question;
- memory per run that waits for the model;
- the CPU time per step with ``--history`` ended runs in the store, over that with none.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from sqlalchemy import insert

from agent.identity import DEFAULT_PROJECT
from agent.inbox import Inbox
from agent.loop import run_loop
from agent.model import Completion, Delta, StreamGuard
from agent.orchestrator.log import StoreLog
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.profiles.native import native
from agent.store.base import Claim, RunResult, TaskRecord
from agent.store.open import open_store
from agent.store.sql import SqlStore
from agent.store.tables import events, runs, tasks
from agent.testing import call
from agent.types import (
    AssistantMessage,
    Limits,
    Message,
    ModelOptions,
    Snapshot,
    Status,
    StopReason,
    TaskRequest,
    Usage,
)
from sandbox.testing.simulated import SimulatedBackend, SimulatedHosts
from sandbox.types import SandboxSpec

_REPORT = Path("build/bench/service.json")
_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_EVENTS_PER_RUN = 20
"""Of an ended run in the store."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured. ``load`` is the machine's load average before: figures of a busy machine are no result."""

    store: str
    num_cpus: int
    load: float
    num_runs: int
    steps_per_s: float
    cpu_ms_per_step: float
    own_ms_per_step_p50: float
    own_ms_per_step_p99: float
    kib_per_waiting_run: float
    num_ended_runs: int
    cpu_with_them_over_without: float


class InstantModel:
    """Reads a file in every step but the last; answers at once, unless it is held."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.num_answers = 0
        self.num_asked = 0
        self.gaps_s: list[float] = []
        """From each answer to the next question, by whichever run: of one run if there is only one."""
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._answered_at = 0.0

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        self.num_asked += 1
        if self._answered_at:
            self.gaps_s.append(time.perf_counter() - self._answered_at)
        await self.may_answer.wait()
        step = sum(message["role"] == "assistant" for message in messages)
        self.num_answers += 1
        self._answered_at = time.perf_counter()
        return Completion(_answer(step, self.num_steps), Usage(prompt_tokens=1000, completion_tokens=20), 0.0)


def _answer(step: int, num_steps: int) -> AssistantMessage:
    if step + 1 < num_steps:
        return call("bash", command=f"cat file{step}.py")
    return call("finish", summary="done")


class InstantRunner:
    """Takes the place of the orchestrator's runner: no repository, no git, no checks."""

    def __init__(self, store: SqlStore, model: InstantModel) -> None:
        self._store = store
        self._model = model
        self._backend = SimulatedBackend(SimulatedHosts())

    async def run(self, claim: Claim, inbox: Inbox) -> TaskRecord:
        sandbox = await self._backend.acquire(SandboxSpec())
        log = StoreLog(self._store, claim)
        try:
            await log.append("run.provisioned", {})
            await run_loop(
                claim.task.request,
                native(),
                self._model,
                sandbox,
                log,
                base_tree=_TREE,
                snapshot=_snapshot,
                patch=_patch,
                inbox=inbox,
            )
        finally:
            await sandbox.close()
        result = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED)
        return await self._store.finish(claim.run_id, claim.generation, result)


async def _snapshot() -> Snapshot:
    return Snapshot(_TREE)


async def _patch(tree: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Some runs, done together."""

    wall_s: float
    cpu_s: float
    num_steps: int
    gaps_s: list[float]


class Bench:
    """Measurements on one store."""

    def __init__(self, store: SqlStore, num_steps: int) -> None:
        self._store = store
        self._num_steps = num_steps

    async def time_runs(self, num_runs: int) -> Timing:
        model = InstantModel(self._num_steps)
        await self._submit(num_runs)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        await self._worker(model, num_runs).drain()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        assert model.num_answers == num_runs * self._num_steps, model.num_answers
        return Timing(wall_s, cpu_s, model.num_answers, model.gaps_s)

    async def bytes_per_waiting_run(self, num_runs: int) -> float:
        """All of them wait for the model's first answer."""
        await (await self._warm_up()).drain()
        model = InstantModel(self._num_steps)
        model.may_answer.clear()
        await self._submit(num_runs)
        gc.collect()
        before = _resident_bytes()
        working = asyncio.ensure_future(self._worker(model, num_runs).drain())
        while model.num_asked < num_runs:  # noqa: ASYNC110 - the last of many, and nothing sets an event there
            await asyncio.sleep(0.1)
        gc.collect()
        grown = _resident_bytes() - before
        model.may_answer.set()
        await working
        return grown / num_runs

    async def add_ended_runs(self, num_runs: int) -> None:
        """As if they had been done before; written in bulk."""
        example = (await self._store.of(DEFAULT_PROJECT).list_tasks(limit=1)).tasks[0]
        for start in range(0, num_runs, 500):
            names = [f"old{number:08}" for number in range(start, min(start + 500, num_runs))]
            async with self._store.database.writing() as transaction:
                at = transaction.now - timedelta(days=1)
                await transaction.db.execute(insert(tasks), [_task_row(name, example, at) for name in names])
                await transaction.db.execute(insert(runs), [_run_row(name, at) for name in names])
                rows = [_event_row(name, seq, at) for name in names for seq in range(1, _EVENTS_PER_RUN + 1)]
                await transaction.db.execute(insert(events), rows)

    async def _warm_up(self) -> Worker:
        await self._submit(2)
        return self._worker(InstantModel(self._num_steps), 2)

    async def _submit(self, num_runs: int) -> None:
        request = TaskRequest(
            repository="/repository", problem_statement="Repair it.", limits=Limits(max_steps=self._num_steps)
        )
        for _ in range(num_runs):
            await self._store.of(DEFAULT_PROJECT).submit(request)

    def _worker(self, model: InstantModel, num_runs: int) -> Worker:
        runner = cast(Runner, InstantRunner(self._store, model))
        return Worker(self._store, runner, worker_id="bench", concurrency=num_runs, lease_ttl_s=60)


def _task_row(name: str, example: TaskRecord, at: Any) -> dict[str, Any]:
    return {
        "task_id": f"task_{name}",
        "request": example.request.model_dump(mode="json"),
        "status": Status.SUCCEEDED,
        "last_seq": _EVENTS_PER_RUN,
        "created_at": at,
        "updated_at": at,
        "finished_at": at,
    }


def _run_row(name: str, at: Any) -> dict[str, Any]:
    return {
        "run_id": f"run_{name}",
        "task_id": f"task_{name}",
        "attempt": 1,
        "status": Status.SUCCEEDED,
        "generation": 1,
        "due": at,
        "usage": Usage().model_dump(),
        "finished_at": at,
    }


def _event_row(name: str, seq: int, at: Any) -> dict[str, Any]:
    body = {"text": "x" * 300}
    ids = {"task_id": f"task_{name}", "run_id": f"run_{name}"}
    return ids | {"seq": seq, "generation": 1, "type": "note", "body": body, "at": at}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(url: str, num_runs: int, num_steps: int, num_ended: int) -> Report:
    load = os.getloadavg()[0]
    async with AsyncExitStack() as stack:
        bench = Bench(await stack.enter_async_context(open_store(url)), num_steps)
        waiting_bytes = await bench.bytes_per_waiting_run(num_runs)
        many = await bench.time_runs(num_runs)
        alone = sorted((await bench.time_runs(1)).gaps_s)
        # In turns, so that what else the machine does falls on both.
        few = max(num_runs // 10, 1)
        without = min([(await bench.time_runs(few)).cpu_s for _ in range(3)])
        await bench.add_ended_runs(num_ended)
        with_them = min([(await bench.time_runs(few)).cpu_s for _ in range(3)])
    return Report(
        store=url.partition(":")[0],
        num_cpus=os.cpu_count() or 0,
        load=load,
        num_runs=num_runs,
        steps_per_s=many.num_steps / many.wall_s,
        cpu_ms_per_step=1000 * many.cpu_s / many.num_steps,
        own_ms_per_step_p50=1000 * statistics.median(alone),
        own_ms_per_step_p99=1000 * alone[int(0.99 * (len(alone) - 1))],
        kib_per_waiting_run=waiting_bytes / 1024,
        num_ended_runs=num_ended,
        cpu_with_them_over_without=with_them / without,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the service itself costs.")
    parser.add_argument("--runs", type=int, default=1000, help="Runs at once.")
    parser.add_argument("--steps", type=int, default=20, help="Steps of each run.")
    parser.add_argument("--history", type=int, default=10_000, help="Ended runs in the store, for the last figure.")
    parser.add_argument("--store", metavar="URL", help="Address of an empty store; a file of its own without.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.store or f"sqlite:///{folder}/store.db"
        report = asyncio.run(measure(url, arguments.runs, arguments.steps, arguments.history))
    text = json.dumps(asdict(report), indent=2)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
