"""An OpenAI-compatible endpoint on loopback that answers by script and can misbehave in the usual ways."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette

from agent.testing.scripted_model import Script
from agent.types import AssistantMessage


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP error."""

    code: int
    body: str = '{"error": {"message": "scripted failure"}}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """The stream ends before the answer does."""

    message: AssistantMessage


@dataclass(frozen=True, slots=True)
class Stalled:
    """Nothing comes any more: before the first token, or after the message was begun."""

    message: AssistantMessage | None = None


@dataclass(frozen=True, slots=True)
class Garbage:
    """An event that is not JSON."""


Fault = Status | Cut | Stalled | Garbage


class ScriptedEndpoint:
    """``requests`` holds every request body. ``faults`` are used up first, one per request; then the script answers."""

    def __init__(self, script: Script, faults: tuple[Fault, ...] = (), name: str = "scripted") -> None:
        self._script = script
        self._faults = list(faults)
        self.name = name
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def app(self) -> Starlette:
        """The ASGI application, with ``/v1/chat/completions``, ``/v1/models`` and ``/health``."""
        raise NotImplementedError

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a free port in a thread; yields the base address that ends in ``/v1``."""
        raise NotImplementedError
