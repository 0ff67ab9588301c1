"""What the agent raises for machines that failed; a failing tool call is an Observation, not an exception.

AgentError
├── ModelError               the endpoint could not answer; ``retryable`` says whether a later try may
├── RepositoryError          the repository cannot be used; the message says what to do
├── GitError                 git failed on a directory of ours (not installed, disk full)
├── LeaseLost                another worker owns the run now; everything this one writes is refused
├── UnknownProject           no such project
├── UnknownTask              no such task, or it is another project's
├── TaskOver                 a word for a task that has ended
├── CannotRewind             a run cannot be taken back to this step now; the message says what to do
├── IdempotencyConflict      an idempotency key came again with another request
├── RequestUnderWay          an idempotency key came again while its request is being answered
├── InvalidCursor            a page was asked for with a cursor that no page gave
├── UnusableCron             no cron expression, no time zone, or a time that never comes; the message says which
├── SettingsError            a file of settings cannot be read, or says what cannot be
├── StoreUnavailable         the store cannot be used now: its server is away, its disk is full
│   └── StoreTooNew          it holds what a newer release wrote; the message says what
└── StoreError               the store cannot be opened; the message says why
"""

from typing import Literal


class AgentError(Exception):
    """Something the agent depends on failed."""


class ModelError(AgentError):
    """The model endpoint could not answer.

    ``retryable`` is false where the same request would fail again (bad key, unknown model, context exceeded).
    """

    AWAY = frozenset({"unreachable", "timeout", "cut", "away"})
    """Codes of an endpoint that is not there now, or has no room: it cannot be reached, ends in the middle of answers,
    begins none in time, or says so itself (HTTP 502, 503, 504)."""

    def __init__(self, message: str, *, retryable: bool, code: str = "model_error") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.code = code

    @property
    def away(self) -> bool:
        """The endpoint may be there again later, however often it was asked by now."""
        return self.retryable and self.code in self.AWAY


class RepositoryError(AgentError):
    """The repository cannot be used; the message says what to do."""


class GitError(AgentError):
    """Git failed on a directory of ours, such as for want of disk; ``RepositoryError`` is for the user's."""


class LeaseLost(AgentError):
    """Another worker owns the run now; everything this worker still writes is refused."""


class UnknownProject(AgentError):
    """No project has this id."""


class ProjectExists(AgentError):
    """A project has this id already."""


class UnknownTask(AgentError):
    """No task of the project has this id."""


class UnknownRun(AgentError):
    """The task has no such run."""


class UnknownArtifact(AgentError):
    """The task has no artifact of this name."""


class TaskOver(AgentError):
    """The task has ended; nothing can be said to it any more."""


class TaskNotOver(AgentError):
    """The task has not ended, so this cannot be done to it yet."""


class CannotRewind(AgentError):
    """A run cannot be taken back to this step, or not now; the message says what to do."""


class IdempotencyConflict(AgentError):
    """An idempotency key of the project came again with another request."""


class RequestUnderWay(AgentError):
    """An idempotency key of the project came again while its first request is being answered."""


class InvalidCursor(AgentError):
    """A page was asked for with a cursor that no page gave."""


class UnusableCron(AgentError):
    """A time of a schedule that cannot be; the message says why."""

    def __init__(self, message: str, *, field: Literal["cron", "time_zone"]) -> None:
        super().__init__(message)
        self.field = field
        """Which of the two is wrong."""


class StoreUnavailable(AgentError):
    """The store cannot be used now: its server is away, or its disk is full. A later try may succeed."""


class StoreTooNew(StoreUnavailable):
    """A newer release wrote what is read here. While all are brought up to date, others understand it."""


class StoreDamaged(AgentError):
    """What is stored of one thing is none that any release wrote; the rest of the store can be used."""


class StoreError(AgentError):
    """The store cannot be opened; the message says why."""


class SettingsError(AgentError):
    """A file of settings cannot be read, or says what cannot be; the message says which and why."""
