"""A model that is shown other messages than it was asked with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from agent.model import Completion, Delta, Model, StreamGuard
from agent.types import Message, ModelOptions


class Rewriting(ABC):
    """Implements :class:`agent.model.Model` by another one."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        return await self._model.complete(await self._rewritten(messages), tools, options, on_delta, watch)

    @abstractmethod
    async def _rewritten(self, messages: Sequence[Message]) -> Sequence[Message]: ...
