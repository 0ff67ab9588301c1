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


class Delivery(StrEnum):
    """When the agent reads what is said to it: before its next answer, once it has finished, or at once."""

    STEER = "steer"
    QUEUE = "queue"
    INTERRUPT = "interrupt"


class Approvals(StrEnum):
    """Which calls of a service's task wait for a word."""

    NONE = "none"
    AUTO = "auto"
    ACCEPT_EDITS = "accept edits"
    ASK = "ask"
    PLAN = "plan"


class Restored(StrEnum):
    """What of a service's task goes back to an earlier step."""

    FILES = "files"
    CONVERSATION = "conversation"
    BOTH = "both"


class Overlap(StrEnum):
    """What a schedule does at a time at which its last task is not over."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"
    ALLOW = "allow"
