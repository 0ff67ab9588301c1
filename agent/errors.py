"""What the agent raises for machines that failed; a failing tool call is an Observation, not an exception.

AgentError
├── ModelError               the endpoint could not answer; ``retryable`` says whether a later try may
├── RepositoryError          the repository cannot be used; the message says what to do
├── GitError                 git failed on a directory of ours (not installed, disk full)
├── LeaseLost                another worker owns the run now; everything this one writes is refused
├── UnknownTask              no such task
├── InvalidCursor            a page was asked for with a cursor that no page gave
├── SettingsError            a file of settings cannot be read, or says what cannot be
└── StoreError               the store cannot be opened; the message says why
"""


class AgentError(Exception):
    """Something the agent depends on failed."""


class ModelError(AgentError):
    """The model endpoint could not answer.

    ``retryable`` is false where the same request would fail again (bad key, unknown model, context exceeded).
    """

    def __init__(self, message: str, *, retryable: bool, code: str = "model_error") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.code = code


class RepositoryError(AgentError):
    """The repository cannot be used; the message says what to do."""


class GitError(AgentError):
    """Git failed on a directory of ours, such as for want of disk; ``RepositoryError`` is for the user's."""


class LeaseLost(AgentError):
    """Another worker owns the run now; everything this worker still writes is refused."""


class UnknownTask(AgentError):
    """No task has this id."""


class InvalidCursor(AgentError):
    """A page was asked for with a cursor that no page gave."""


class StoreError(AgentError):
    """The store cannot be opened; the message says why."""


class SettingsError(AgentError):
    """A file of settings cannot be read, or says what cannot be; the message says which and why."""
