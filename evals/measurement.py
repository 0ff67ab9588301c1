"""One measurement from beginning to end: a service, the tasks, a report, all of it kept in a folder."""

import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.cli.client import Client
from agent.cli.terminal import Terminal
from agent.config import ModelSettings
from evals.report import Report, TaskResult, summarise
from evals.runner import Sampling, run_tasks
from evals.service import ServiceOptions, api_key, running_service
from evals.types import EvalTask
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings


@dataclass(frozen=True, slots=True)
class Measurement:
    """What ``mimo eval run`` was told."""

    suite: str
    tasks: tuple[EvalTask, ...]
    sampling: Sampling
    concurrency: int
    server: str | None
    """A running service; None starts one for the time of the measurement."""
    model: ModelSettings
    checkpoint: str | None
    """Model that an embedded server shall serve; None where ``model`` says who is asked."""
    served_name: str | None
    """Model asked for, where the user names one."""
    home: Path

    async def run(self, terminal: Terminal) -> Report:
        """Run and grade everything. Each result is on disk before the next line is printed.

        Raises:
            Failure: the service does not start.
            ServiceProblem, ServiceUnreachable: it refused a task or went away.
            SandboxError: no sandbox for grading.
        """
        folder = self.home / "evals" / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder.mkdir(parents=True)
        terminal.note(f"{len(self.tasks)} tasks; logs, tasks and results are kept in {folder}")
        async with AsyncExitStack() as stack:
            server = self.server
            if server is None:
                server = await stack.enter_async_context(running_service(self._service(folder)))
            client = await stack.enter_async_context(Client(server, api_key=api_key()))
            backend = open_backend("local", SandboxSettings())
            stack.push_async_callback(backend.close)
            results = await run_tasks(
                self.tasks,
                client,
                backend,
                folder / "repositories",
                sampling=self.sampling,
                model=self.served_name if self.server else None,
                concurrency=self.concurrency,
                on_result=_Record(folder / "results.jsonl", len(self.tasks), terminal).add,
            )
        report = summarise(self.suite, self._model_name(), self.sampling.attempts, self.sampling.temperature, results)
        (folder / "report.json").write_text(report.model_dump_json(indent=2), "utf-8")
        return report

    def _service(self, folder: Path) -> ServiceOptions:
        return ServiceOptions(self.model, self.checkpoint, num_workers=self.concurrency, data=folder / "service")

    def _model_name(self) -> str:
        if self.server:
            return self.served_name or f"the model of {self.server}"
        return self.checkpoint or self.model.name


class _Record:
    """Says and keeps each result as it comes."""

    def __init__(self, path: Path, num_tasks: int, terminal: Terminal) -> None:
        self._path = path
        self._num_tasks = num_tasks
        self._terminal = terminal
        self._num_done = self._num_resolved = 0

    def add(self, result: TaskResult) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(result.model_dump_json() + "\n")
        self._num_done += 1
        self._num_resolved += result.resolved
        outcome = "resolved" if result.resolved else f"not resolved ({result.failing})"
        stopped = result.stop_reason or result.status
        self._terminal.note(
            f"[{self._num_done}/{self._num_tasks}, {self._num_resolved} resolved] {result.id}: {outcome}, "
            f"{result.verdict or 'no verdict'}, {stopped}, {result.steps} steps"
        )
