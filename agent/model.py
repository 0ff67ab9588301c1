"""Asks one OpenAI-compatible endpoint for the next answer."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx

from agent.config import ModelSettings
from agent.types import AssistantMessage, Message, ModelOptions, Usage


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer while it is written. ``restart`` says that everything before it is void."""

    kind: Literal["reasoning", "content", "tool_call", "restart"]
    text: str = ""
    index: int = 0
    """Which tool call, from 0."""


class StreamGuard(Protocol):
    """Watches an answer while it is written; fresh for every answer."""

    def watch(self, kind: str, text: str, index: int) -> str | None:
        """Takes the fields of a :class:`Delta`; returns why the answer must end now, or None."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. ``aborted`` names what the guard saw; the message then holds what came before."""

    message: AssistantMessage
    usage: Usage
    """As the endpoint counted; of an aborted answer only the completion tokens, counted as pieces received."""
    duration_s: float
    aborted: str | None = None


class Model(Protocol):
    """Anything that answers."""

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        """The next answer.

        Raises:
            ModelError: no answer could be had; what could be retried was.
        """


class HttpModel:
    """A model behind HTTP. Every failure comes out as a :class:`ModelError`, after the retries that make sense."""

    def __init__(self, settings: ModelSettings, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._client = client

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        raise NotImplementedError


@asynccontextmanager
async def open_model(settings: ModelSettings) -> AsyncIterator[HttpModel]:
    """A model with its own connections, closed at the end."""
    async with httpx.AsyncClient() as client:
        yield HttpModel(settings, client)
