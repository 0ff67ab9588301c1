"""What a store is: the tasks, their runs, the event log, and who may write to it.

A task is what was asked and never changes. It has one run per attempt; a run is owned by one worker at a time, through
a lease with a generation number. The log of a task is shared by its runs. What a record shows (status, steps, usage)
is derived from the log in the same transaction that appends to it.

Beside the loop's events (``agent.events``) a log holds these. The first three and the last three are the store's own.

| event                 | body                                                                        |
|-----------------------|-----------------------------------------------------------------------------|
| task.submitted        | request                                                                     |
| task.cancel_requested | nothing                                                                     |
| run.claimed           | worker_id, attempt                                                          |
| run.provisioned       | boot_id of the sandbox, base (commit, tree, dirty), tree it was filled with |
| sandbox.lost          | detail                                                                      |
| verdict.reached       | verdict                                                                     |
| run.released          | nothing: its worker stopped, another goes on                                |
| run.finished          | attempt, status, stop_reason, verdict (its kind), error                     |
| task.finished         | run_id of the selected run; its status, stop_reason, verdict, error         |
"""

from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from agent.types import Event, Status, StopReason, TaskRequest, Usage, Verdict, VerdictKind


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunRecord(_Record):
    """One attempt at a task."""

    run_id: str
    attempt: int
    """From 1."""
    status: Status
    generation: int
    """How often the run was claimed; 0 while nobody has."""
    stop_reason: StopReason | None = None
    """None until the agent stopped, and where it never ran (unusable repository, a bug)."""
    verdict: Verdict | None = None
    patch: str = ""
    """Unified diff against the base commit; what there was of it where the run did not end well."""
    steps: int = 0
    """Number of the newest step the model answered in."""
    usage: Usage = Usage()
    error: str | None = None
    """Why the run failed, in words for the user."""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class TaskRecord(_Record):
    """A task as its log leaves it now. Result fields are those of :attr:`shown`."""

    id: str
    request: TaskRequest
    status: Status
    """Not terminal while any run is not, then that of the selected run."""
    runs: tuple[RunRecord, ...]
    """One per attempt, in order."""
    cancel_requested: bool = False
    last_seq: int
    """Sequence number of the newest event."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    """When a worker first claimed one of the runs."""
    finished_at: datetime | None = None

    @property
    def selected(self) -> RunRecord | None:
        """The best attempt; None until all of them ended."""
        return select(self.runs) if all(run.status.terminal for run in self.runs) else None

    @property
    def shown(self) -> RunRecord:
        """The selected run, or the one that is furthest while the task is not over."""
        return self.selected or max(self.runs, key=lambda run: (run.steps, -run.attempt))

    @property
    def stop_reason(self) -> StopReason | None:
        return self.selected.stop_reason if self.selected else None

    @property
    def verdict(self) -> Verdict | None:
        return self.selected.verdict if self.selected else None

    @property
    def patch(self) -> str:
        return self.selected.patch if self.selected else ""

    @property
    def error(self) -> str | None:
        return self.selected.error if self.selected else None

    @property
    def usage(self) -> Usage:
        return self.shown.usage

    @property
    def steps(self) -> int:
        return self.shown.steps

    @property
    def duration_s(self) -> float | None:
        """From the first claim to the end of the last run; None before that."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


class TaskPage(_Record):
    """Some tasks, newest first."""

    tasks: tuple[TaskRecord, ...]
    """Without patches and without the output of evidence; ``get`` has them."""
    next_cursor: str | None
    """Give it back for the next page; None at the end."""


class Claim(_Record):
    """The right to work on a run, until the lease ends."""

    run_id: str
    task: TaskRecord
    generation: int
    """Every write names it; the store refuses an older one."""
    events: tuple[Event, ...]
    """What this run already did, oldest first; holds at least the claim itself."""


class RunResult(_Record):
    """How a run ended."""

    status: Status
    """A terminal one."""
    stop_reason: StopReason | None = None
    verdict: Verdict | None = None
    patch: str = ""
    error: str | None = None


_BEST_FIRST = (
    VerdictKind.VERIFIED,
    VerdictKind.PARTLY_VERIFIED,
    VerdictKind.UNVERIFIED,
    VerdictKind.NO_CHANGE,
    VerdictKind.REGRESSED,
)


def select(runs: tuple[RunRecord, ...]) -> RunRecord:
    """The best of several attempts: by what the checks proved, then the fewest steps, then the first."""

    def rank(run: RunRecord) -> tuple[int, bool, int, int]:
        proof = _BEST_FIRST.index(run.verdict.kind) if run.verdict else len(_BEST_FIRST)
        return proof, run.status is not Status.SUCCEEDED, run.steps, run.attempt

    return min(runs, key=rank)


class Store(Protocol):
    """Where tasks live. Users' calls come first, then those of workers."""

    async def submit(self, request: TaskRequest) -> TaskRecord:
        """Write a task down and queue its runs."""

    async def get(self, task_id: str) -> TaskRecord:
        """
        Raises:
            UnknownTask: no such task.
        """

    async def list_tasks(self, *, status: Status | None = None, cursor: str | None = None, limit: int = 20) -> TaskPage:
        """Tasks, newest first. New tasks do not shift the pages that follow a cursor.

        Raises:
            InvalidCursor: the cursor is not one of ours.
        """

    async def events(self, task_id: str, *, after: int = 0, limit: int = 1000) -> tuple[Event, ...]:
        """The task's events with a sequence number above ``after``, oldest first.

        Raises:
            UnknownTask: no such task.
        """

    async def wait_for_events(self, task_id: str, *, after: int, timeout_s: float) -> tuple[Event, ...]:
        """As :meth:`events`, but waits for the first one; empty where none came in time.

        Events of this process wake the caller at once, those of other processes within 0.3 s.
        """

    async def cancel(self, task_id: str) -> TaskRecord:
        """Ask for the end of a task: runs nobody started end now, the others as soon as their worker sees it.

        A task that is over, or already asked to end, is left as it is.
        """

    async def claim(self, worker_id: str, ttl_s: float) -> Claim | None:
        """Take the oldest run that nobody owns (queued, or its lease ended); None where there is none."""

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when something may have become claimable, at the latest after ``timeout_s``."""

    async def renew(self, run_id: str, generation: int, ttl_s: float) -> None:
        """Keep the run for ``ttl_s`` more.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def cancel_requested(self, task_id: str) -> bool:
        """Whether the user wants the end; cheap, for a worker that looks twice a second."""

    async def append(self, run_id: str, generation: int, type: str, body: dict[str, Any]) -> Event:  # noqa: A002
        """Write one event of a run; it is durable when this returns.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def finish(self, run_id: str, generation: int, result: RunResult) -> TaskRecord:
        """End a run (event ``run.finished``), and with the last one the task (event ``task.finished``).

        A verified run cancels the task's attempts that nobody began.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def release(self, run_id: str, generation: int) -> None:
        """Give an unfinished run back; another worker may claim it at once.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def close(self) -> None:
        """Free connections."""
