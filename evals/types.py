"""A task with what grades it, and how one was graded."""

from dataclasses import dataclass
from enum import StrEnum

from agent.types import Check, Limits


@dataclass(frozen=True, slots=True)
class Answers:
    """What grades a task. None of it ever enters the agent's sandbox, nor the request."""

    hidden_tests: dict[str, str]
    """Test files by path, put beside the visible ones for grading."""
    tests: tuple[str, ...]
    """Every test that must pass, visible or hidden, as ``path::name``."""
    gold: dict[str, str]
    """The files of a right solution, all of them."""


@dataclass(frozen=True, slots=True)
class EvalTask:
    """One exercise of a suite."""

    id: str
    split: str
    kind: str
    """What is difficult about it, for counting; such as the kind of its bug."""
    files: dict[str, str]
    """The repository at its base commit: text by path."""
    problem_statement: str
    checks: tuple[Check, ...]
    limits: Limits
    answers: Answers


class Failing(StrEnum):
    """Why a patch does not resolve its task."""

    DOES_NOT_APPLY = "does_not_apply"
    """The patch does not fit the base commit."""
    ENDED = "ended"
    """The tests did not end by themselves: deadline, memory, output."""
    NO_EVIDENCE = "no_evidence"
    """There is no readable report of the tests, whatever the exit code says."""
    TESTS_FAIL = "tests_fail"
    """A test fails, errs, is skipped or was not run."""
    EXIT_CODE = "exit_code"
    """Every test is reported as passed, and yet the test program failed."""


@dataclass(frozen=True, slots=True)
class Grade:
    """Whether a patch resolves its task, by all tests."""

    resolved: bool
    failing: Failing | None = None
    detail: str = ""
    """One line for people: which tests, or what was wrong."""
