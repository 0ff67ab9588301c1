"""What the engine asks of whoever guesses tokens ahead with the prediction layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model_server.engine.hidden_tail import HiddenTail


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a sequence that a drafter is to continue."""

    ids: Sequence[int]
    hidden: HiddenTail
    """Of all tokens but the last."""
    state: Any
    """What the drafter remembers of the sequence; see :meth:`TokenDrafter.new_state`."""


class TokenDrafter(Protocol):
    """Drafts for many sequences at once; as many tokens ahead as there are prediction layers."""

    @property
    def max_drafts(self) -> int: ...

    @property
    def num_hidden(self) -> int:
        """Newest hidden states that all its layers read, at most."""

    def new_state(self) -> Any:
        """For a sequence, until it ends or the drafter is replaced."""

    def draft(self, sequences: Sequence[Known], num_drafts: int) -> list[list[int]]:
        """Likeliest next tokens of each sequence, ``num_drafts`` of them. Some hidden state of each is known."""
