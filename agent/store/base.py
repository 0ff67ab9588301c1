"""What a store is: the tasks, their runs, the event log, and who may write to it.

A task is what was asked and never changes. It has one run per attempt; a run is owned by one worker at a time, through
a lease with a generation number. The log of a task is shared by its runs. What a record shows (status, steps, usage)
is derived from the log in the same transaction that appends to it.

Beside the loop's events (``agent.events``) and the words of the user (:data:`USER_EVENTS`) a log holds these.

| event                 | body                                                                        |
|-----------------------|-----------------------------------------------------------------------------|
| task.submitted        | request; traceparent, where the caller has a trace                          |
| task.cancel_requested | nothing                                                                     |
| run.claimed           | worker_id, attempt                                                          |
| run.forked            | task_id, run_id, at_event: whose steps the log of the run begins with       |
| run.parked            | status, waiting_on, and what the worker adds                                |
| run.requeued          | by (the event that ended the wait)                                          |
| run.provisioned       | sandbox, its boot_id, base (commit, tree, dirty), tree it was filled with;  |
|                       | taken_over: the run had it already                                          |
| setup.completed       | duration_s, output (its end); nothing where its work was kept before        |
| run.equipped          | skills and servers of its project, see RunEquipped of ``agent.events``      |
| sandbox.lost          | detail                                                                      |
| reproduction.written  | check that fails without a patch, or None; detail: why there is none; usage |
| verdict.reached       | verdict                                                                     |
| attempts.judged       | among (attempts), attempt that is preferred or None, reason, usage          |
| run.released          | nothing: its worker stopped, another goes on                                |
| run.finished          | attempt, status, stop_reason, verdict (its kind), error                     |
| task.finished         | run_id of the selected run; its status, stop_reason, verdict, error         |
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.events import MessageAdded, Restore
from agent.identity import DEFAULT_PROJECT
from agent.log import Entry
from agent.store.drafts import Drafts
from agent.types import (
    Event,
    Limits,
    Priority,
    Status,
    StopReason,
    TaskRequest,
    Usage,
    Verdict,
    VerdictKind,
    WaitingOn,
)

if TYPE_CHECKING:  # A client of the API needs the records, and no database.
    from agent.store.artifacts import Artifacts, NewImage
    from agent.store.database import Database
    from agent.store.idempotency import Keyed
    from agent.store.identity import Identities

USER_EVENTS: dict[str, frozenset[WaitingOn | Literal["paused"]]] = {
    "message.added": frozenset({WaitingOn.QUESTION}),
    "message.removed": frozenset(),
    "task.paused": frozenset(),
    "task.resumed": frozenset({"paused", WaitingOn.QUOTA, WaitingOn.CAPACITY}),
    "task.updated": frozenset(),
    "budget.granted": frozenset({WaitingOn.BUDGET, WaitingOn.QUOTA}),
    "approval.decided": frozenset({WaitingOn.APPROVAL}),
}
"""What a user may tell a task after it was submitted, and which waits each word ends."""


DELIVERIES_KEPT_FOR = timedelta(days=30)
"""So long the messages of webhooks are there to be read, where nobody says otherwise."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunRecord(_Record):
    """One attempt at a task."""

    run_id: str
    attempt: int
    """From 1."""
    status: Status
    waiting_on: WaitingOn | None = None
    """What it waits for while its status is ``waiting``."""
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
    """What counts in its budget."""
    copied_usage: Usage = Usage()
    """How much of it came with the steps of a fork: another run spent that."""
    error: str | None = None
    """Why the run failed, in words for the user."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def spent(self) -> Usage:
        return self.usage - self.copied_usage


class TaskRecord(_Record):
    """A task as its log leaves it now. Result fields are those of :attr:`shown`."""

    id: str
    project_id: str = DEFAULT_PROJECT
    created_by: str = "local"
    """Subject of the caller that submitted it."""
    request: TaskRequest
    """As it was submitted; title, labels and priority are those the user gave since."""
    title: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    status: Status
    """Not terminal while any run is not, then that of the selected run."""
    runs: tuple[RunRecord, ...]
    """One per attempt, in order."""
    cancel_requested: bool = False
    chosen: str | None = None
    """The run that a user, or a judge, preferred; None leaves it to :func:`select`."""
    last_seq: int
    """Sequence number of the newest event."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    """When a worker first claimed one of the runs."""
    finished_at: datetime | None = None

    @property
    def selected(self) -> RunRecord | None:
        """The attempt that was chosen, or the best; None until all of them ended."""
        if not all(run.status.terminal for run in self.runs):
            return None
        return next((run for run in self.runs if run.run_id == self.chosen), None) or select(self.runs)

    @property
    def shown(self) -> RunRecord:
        """The selected run, or the one that is furthest while the task is not over."""
        return self.selected or max(self.runs, key=lambda run: (run.steps, -run.attempt))

    @property
    def waiting_on(self) -> WaitingOn | None:
        """What the task waits for; None unless its status is ``waiting``."""
        waits = (run.waiting_on for run in self.runs if run.status is Status.WAITING)
        return next(waits, None) if self.status is Status.WAITING else None

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
    """The right to work on a run, until the lease ends. The user's words are read with ``user_events``."""

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
    """The best of several attempts.

    By what the checks proved, then by a test of the problem, then by how many attempts came to the very same patch,
    then the fewest steps, then the first.
    """
    return min(runs, key=lambda run: (_merit(run, runs), run.steps, run.attempt))


def tied(runs: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
    """The best attempts, one for each patch, where only the number of their steps would tell them apart."""
    best = min(_merit(run, runs) for run in runs)
    equal = [run for run in runs if _merit(run, runs) == best and run.verdict and run.patch]
    trees = {run.verdict.tree: run for run in reversed(equal) if run.verdict}
    return tuple(run for run in equal if run in trees.values())


def _merit(run: RunRecord, runs: tuple[RunRecord, ...]) -> tuple[int, bool, int, int]:
    """What is proved of it; less is better."""
    verdict = run.verdict
    if verdict is None:
        return len(_BEST_FIRST), run.status is not Status.SUCCEEDED, 0, 0
    agreeing = sum(bool(other.verdict and other.verdict.tree == verdict.tree) for other in runs) if verdict.tree else 0
    reproduced = (True, None, False).index(verdict.reproduced)
    return _BEST_FIRST.index(verdict.kind), run.status is not Status.SUCCEEDED, reproduced, -agreeing


class Project(_Record):
    """A tenant, and its part of the workers."""

    project_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    weight: float = Field(1.0, gt=0, le=1000)
    """Its share of worker time where others wait too, in proportion to theirs."""
    max_running: int | None = Field(None, ge=1)
    """Most runs at once; None is no limit."""
    max_running_per_user: int | None = Field(None, ge=1)
    """Most runs at once of one user; None is no limit."""
    daily_tokens: int | None = Field(None, ge=1)
    """Once the runs that worked today (UTC) have used so many, none goes on before midnight.

    Prompt tokens not cached, and completion tokens; None is no limit.
    """
    daily_tokens_per_user: int | None = Field(None, ge=1)
    """As before, of the runs of one user."""
    daily_cost: float | None = Field(None, gt=0)
    """The same in money, by the service's prices."""
    daily_cost_per_user: float | None = Field(None, gt=0)
    monthly_cost: float | None = Field(None, gt=0)
    """As before, of the runs that worked this month (UTC)."""
    monthly_cost_per_user: float | None = Field(None, gt=0)
    retention_days: int | None = Field(None, ge=1)
    """Tasks are deleted so long after their end; None keeps them."""


class QueuePosition(_Record):
    """Where a task stands."""

    position: int | None
    """How many runs are served before, plus one; None where none of its runs is queued."""
    reason: str
    """Why it is not served yet, in a sentence."""


class ProjectStore(Protocol):
    """What users do, in one project: nothing of another project can be seen or changed through it."""

    project_id: str
    reasoning: bool
    """Whether events that are read hold the model's reasoning."""

    async def submit(
        self,
        request: TaskRequest,
        *,
        created_by: str = "local",
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        message: MessageAdded | None = None,
        images: "Sequence[NewImage]" = (),
        keyed: "Keyed[TaskRecord] | None" = None,
    ) -> TaskRecord:
        """Write a task down with all that comes with it, and queue its runs. The same key again gives the same task.

        Args:
            traceparent: the trace of the caller that the work belongs to (W3C Trace Context).
            message: the agent reads it before it begins.
            images: of the message; only where artifacts are kept.
            keyed: the request that this does; its answer is kept with the task.

        Raises:
            UnknownProject: there is no such project.
            IdempotencyConflict: the key came before with another request.
        """

    async def fork(
        self,
        task_id: str,
        at_event: int,
        *,
        created_by: str = "local",
        message: MessageAdded | None = None,
        images: "Sequence[NewImage]" = (),
        limits: Limits | None = None,
        keyed: "Keyed[TaskRecord] | None" = None,
    ) -> TaskRecord:
        """A new task that goes on from where the run of ``at_event`` was then: from its last complete step.

        It has one run, whose log begins with a copy of those steps; what they used counts in its budget.

        Args:
            message: the agent reads it before it goes on, also where it had finished.
            limits: its own; None for those of the source, with what had been granted by then.
            images, keyed: as in :meth:`submit`.

        Raises:
            UnknownTask: the project has no such task.
        """

    async def rewind(
        self, task_id: str, to_step: int, restore: Restore = "both", *, run_id: str | None = None
    ) -> TaskRecord:
        """Take the steps after ``to_step`` (0: all of them) back from a run that is paused, or waits for its user.

        The log keeps them, and what they used stays counted. Where the conversation goes back, so do the user's
        messages that it had read since, and the task is paused; where only the files do, the model is told.

        Args:
            run_id: which of several attempts.

        Raises:
            UnknownTask: the project has no such task.
            CannotRewind: the run has no such step, has a worker, or has ended; the message says what to do.
        """

    async def get(self, task_id: str) -> TaskRecord:
        """
        Raises:
            UnknownTask: the project has no such task.
        """

    async def list_tasks(
        self,
        *,
        status: Status | None = None,
        created_by: str | None = None,
        repository: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 20,
    ) -> TaskPage:
        """Tasks, newest first, submitted in ``[since, until)``. New tasks do not shift the pages after a cursor.

        Args:
            labels: they have all of these; None is any value.
            text: stands in the title or the problem, in letters of either case.

        Raises:
            InvalidCursor: the cursor is not one of ours.
        """

    async def events(
        self, task_id: str, *, after: int = 0, limit: int = 1000, types: Collection[str] = ()
    ) -> tuple[Event, ...]:
        """The task's events with a sequence number above ``after``, oldest first; of these ``types``, or all.

        Raises:
            UnknownTask: the project has no such task.
        """

    async def wait_for_events(
        self, task_id: str, *, after: int, timeout_s: float, limit: int = 1000
    ) -> tuple[Event, ...]:
        """As :meth:`events`, but waits for the first one; empty where none came in time.

        Events of this process wake the caller at once, those of other processes within 0.3 s.
        """

    async def tell(
        self,
        task_id: str,
        type: str,  # noqa: A002 - the field's name
        body: dict[str, Any],
        *,
        keyed: "Keyed[Event] | None" = None,
    ) -> Event:
        """Write a word of the user, one of :data:`USER_EVENTS`. Runs whose wait it ends are queued again.

        Args:
            keyed: as in :meth:`submit`.

        Raises:
            UnknownTask: the project has no such task.
            TaskOver: the task has ended.
        """

    async def say(
        self,
        task_id: str,
        message: MessageAdded,
        images: "Sequence[NewImage]" = (),
        *,
        keyed: "Keyed[Event] | None" = None,
    ) -> Event:
        """As :meth:`tell` with ``message.added``, together with the images of the message.

        Args:
            images, keyed: as in :meth:`submit`.

        Raises:
            UnknownTask: the project has no such task.
            TaskOver: the task has ended.
        """

    async def change(self, task_id: str, decide: Callable[[TaskRecord, Limits], Sequence[Entry]]) -> None:
        """Write words of the user that depend on how the task is, all or none; nobody else changes it meanwhile.

        Args:
            decide: what to say, of the task and the limits that it has now; what it raises is raised here, and nothing
                is said then.

        Raises:
            UnknownTask: the project has no such task.
            TaskOver: the task has ended, and there is something to say.
        """

    async def cancel(self, task_id: str) -> TaskRecord:
        """Ask for the end of a task: runs nobody began end now, the others as soon as a worker sees it.

        A task that is over, or already asked to end, is left as it is.
        """

    async def choose(self, task_id: str, attempt: int) -> TaskRecord:
        """Let the result of an ended task be that of this attempt. The log, which has ended, says nothing of it.

        Raises:
            UnknownTask: the project has no such task.
            UnknownRun: the task has no such attempt.
            TaskNotOver: it has not ended.
        """

    async def queue_position(self, task_id: str) -> QueuePosition:
        """Where the task's next run stands, and why it is not served yet.

        Raises:
            UnknownTask: the project has no such task.
        """


class Store(Protocol):
    """Where tasks live: the way in for users, and what workers do."""

    @property
    def database(self) -> "Database":
        """Where other tables of the service are."""

    @property
    def artifacts(self) -> "Artifacts | None":
        """What runs leave beside their events; None where it is not kept."""

    @property
    def drafts(self) -> Drafts:
        """Answers while the model writes them."""

    @property
    def identities(self) -> "Identities":
        """Keys, secrets and the audit log of all projects."""

    def of(self, project_id: str, *, reasoning: bool = True) -> ProjectStore:
        """The project's part of the store; it need not exist to be asked.

        Args:
            reasoning: whether the events that are read through it hold the model's reasoning.
        """

    async def make_project(self, project: Project) -> None:
        """
        Raises:
            ProjectExists: there is one of this id, or it was closed and not purged.
        """

    async def change_project(self, project_id: str, changes: Mapping[str, Any]) -> Project:
        """Set some of its fields; others that somebody else sets at the same moment stay as they set them.

        Raises:
            UnknownProject: there is none of this id.
        """

    async def project(self, project_id: str) -> Project:
        """
        Raises:
            UnknownProject: there is none of this id.
        """

    async def projects(self) -> tuple[Project, ...]:
        """All of them, by id."""

    async def claim(self, worker_id: str, ttl_s: float) -> Claim | None:
        """Take the run whose turn it is, of those nobody owns (queued, or its lease ended); None where there is none.

        ``agent.store.queue`` says whose turn it is. A run of which something cannot be read keeps none of the others
        waiting: where it is damaged it fails, and where a newer release wrote it, it is left to a newer worker.
        """

    async def tidy(self, max_idle: timedelta, *, deliveries_kept_for: timedelta = DELIVERIES_KEPT_FOR) -> None:
        """Delete the tasks that their projects keep no longer, and end the runs that were queued or waited too long.

        Args:
            max_idle: a run that nothing happened to for so long ends as ``expired``.
            deliveries_kept_for: messages of webhooks are deleted so long after their event; those that are still to be
                sent are not.
        """

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when something may have become claimable, at the latest after ``timeout_s``."""

    async def renew(self, run_id: str, generation: int, ttl_s: float) -> None:
        """Keep the run for ``ttl_s`` more.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def said(self, task_ids: Collection[str]) -> dict[str, int]:
        """The sequence number of the user's newest word, by task; tasks whose user said nothing are left out.

        Cheap, for a worker that looks twice a second at all that it has.
        """

    async def overspent(self, owners: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Which of these users, each with the project before it, may use no more for now, and why."""

    async def user_events(self, task_id: str, *, after: int = 0) -> tuple[Event, ...]:
        """What the user said above ``after``, ``task.cancel_requested`` included; cheap where there is nothing new.

        Raises:
            StoreTooNew: the newest word is of a kind that this release does not know.
        """

    async def append(self, run_id: str, generation: int, type: str, body: dict[str, Any]) -> Event:  # noqa: A002
        """As :meth:`extend`, with one event."""

    async def extend(self, run_id: str, generation: int, entries: Sequence[Entry]) -> tuple[Event, ...]:
        """Write events of a run, all or none; they are durable when this returns.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def finish(self, run_id: str, generation: int, result: RunResult, *, chosen: str | None = None) -> TaskRecord:
        """End a run (event ``run.finished``), and with the last one the task (event ``task.finished``).

        A verified run cancels the task's attempts that nobody began.

        Args:
            chosen: the run whose result is the task's; None leaves it to :func:`select`.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def release(self, run_id: str, generation: int) -> None:
        """Give an unfinished run back; another worker may claim it at once.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def park(
        self,
        run_id: str,
        generation: int,
        status: Literal[Status.PAUSED, Status.WAITING],
        waiting_on: WaitingOn | None,
        body: dict[str, Any],
        *,
        seen: int | None = None,
    ) -> None:
        """Let go of a run until the user says what ends its wait (event ``run.parked``).

        A run waiting on quota or capacity is tried again after five seconds, each time in a row after twice as many, up
        to a minute. Where the word that ends the wait is already in the log, the run is queued at once.

        Args:
            waiting_on: None for a paused run.
            body: what the wait is about, for who reads the log.
            seen: the newest word of the user that the worker read; None is all up to the run's own last event.

        Raises:
            LeaseLost: another worker owns the run, or it ended.
        """

    async def close(self) -> None:
        """Wait for what is being written."""
