"""A model that is shown what was said before, in front of each question."""

from collections.abc import Sequence

from agent.model import Model
from agent.rewriting import Rewriting
from agent.types import Message


class Remembering(Rewriting):
    """The earlier messages come after the system prompt."""

    def __init__(self, model: Model, earlier: Sequence[Message]) -> None:
        """
        Args:
            earlier: as :func:`agent.history.earlier` makes them.
        """
        super().__init__(model)
        self._earlier = earlier

    async def _rewritten(self, messages: Sequence[Message]) -> Sequence[Message]:
        return [messages[0], *self._earlier, *messages[1:]]
