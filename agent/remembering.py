"""A model that is shown what was said before, in front of each question."""

from collections.abc import Callable, Sequence
from typing import Any

from agent.model import Completion, Delta, Model, StreamGuard
from agent.types import Message, ModelOptions


class Remembering:
    """Implements :class:`agent.model.Model`; the earlier messages come after the system prompt."""

    def __init__(self, model: Model, earlier: Sequence[Message]) -> None:
        """
        Args:
            earlier: as :func:`agent.history.earlier` makes them.
        """
        self._model = model
        self._earlier = earlier

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        whole = [messages[0], *self._earlier, *messages[1:]]
        return await self._model.complete(whole, tools, options, on_delta, watch)
