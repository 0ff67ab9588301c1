"""Exit codes, and how a command ends before it has a result."""

from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    """The agent finished with a patch that breaks nothing; with ``--require-verified``: that the checks prove."""
    FAILED = 1
    """The agent gave up, changed nothing, or broke a check that passed before."""
    USAGE = 2
    UNVERIFIED = 3
    """Finished, but ``--require-verified`` was given and the checks do not prove the patch."""
    LIMIT = 4
    """A limit of the task ended the run."""
    NEEDS_INPUT = 5
    """The run waits for a person: a question, an approval, a budget."""
    RETRYABLE = 75
    """A machine was at fault (the model or the service does not answer); the same command may work later."""
    INTERRUPTED = 130


class Failure(Exception):
    """Ends the command: one line that says what is wrong, one that says what to do."""

    def __init__(self, code: ExitCode, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
