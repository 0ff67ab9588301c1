"""A continuation that is read as nothing but text."""

from dataclasses import dataclass

from model_server.chat.template import Span
from model_server.chat.turn import ContentDelta, Delta, TurnParser


@dataclass(slots=True)
class PlainText(TurnParser):
    """No reasoning and no calls: whatever the model wrote is content, markers too."""

    enable_thinking: bool = False

    def push(self, span: Span) -> list[Delta]:
        return [ContentDelta(span.text)]
