"""What a command prints its result as."""

from enum import StrEnum


class Output(StrEnum):
    """For tasks that run."""

    TEXT = "text"
    JSON = "json"
    STREAM_JSON = "stream-json"
    """One event per line as they happen, then the result."""


class Format(StrEnum):
    """For answers that are there at once."""

    TEXT = "text"
    JSON = "json"


class Input(StrEnum):
    """What standard input holds."""

    TEXT = "text"
    STREAM_JSON = "stream-json"
    """One message per line, also while the task runs."""
