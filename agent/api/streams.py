"""How many connections may last at once: event streams, editors' sockets, and waits for a whole answer."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Literal, get_args

from agent.api.problems import Problem
from agent.identity import Principal

Kind = Literal["events", "page", "chat", "editor"]
"""Readers of the event stream (waits by MCP among them), pages of tasks, answers to chat programs, editors."""

PER_CALLER = 1024
"""So many watchers of one task have an event within 0.4 s (``benchmarks.watchers``), and a client that forgets to close
is stopped before others notice."""
PER_PROJECT = 4096

_RETRY_S = 10
"""When to come back, s. Nobody knows when a stream will end."""


class Streams:
    """Those that are open in this process: of several processes each counts by itself."""

    def __init__(self, per_caller: int = PER_CALLER, per_project: int = PER_PROJECT) -> None:
        """
        Args:
            per_caller: most of one subject at once.
            per_project: most of one project at once, whoever has them.
        """
        self.per_caller = per_caller
        self.per_project = per_project
        self._callers: Counter[str] = Counter()
        self._projects: Counter[str] = Counter()
        self._kinds: Counter[Kind] = Counter()

    @property
    def num_open(self) -> Mapping[Kind, int]:
        return {kind: self._kinds[kind] for kind in get_args(Kind)}

    @contextmanager
    def open(self, principal: Principal, kind: Kind) -> Iterator[None]:
        """Hold a place.

        Raises:
            Problem: 429, the caller or its project has all that there are.
        """
        caller, project = principal.subject, principal.project_id
        if self._callers[caller] >= self.per_caller:
            raise _too_many(f"You have {self.per_caller} connections open that last")
        if self._projects[project] >= self.per_project:
            raise _too_many(f"The project has {self.per_project} connections open that last")
        self._callers[caller] += 1
        self._projects[project] += 1
        self._kinds[kind] += 1
        try:
            yield
        finally:
            self._kinds[kind] -= 1
            _drop(self._callers, caller)
            _drop(self._projects, project)


def _drop(counts: Counter[str], name: str) -> None:
    """One less; nothing is kept of who has none."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def _too_many(detail: str) -> Problem:
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too_many_streams",
        f"{detail}, as event streams, editors or answers to chat programs.",
        remedy="Close those that you read no more, or register a webhook instead of watching many tasks; "
        "GET /v1/limits says how many there may be.",
        headers={"Retry-After": str(_RETRY_S)},
    )
