"""What the engine asks of whoever guesses tokens ahead with the prediction layers."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class DraftState(Protocol):
    """What drafting remembers of one sequence; made by the drafter that takes it back."""

    num_tokens: int
    """Tokens whose hidden states are known, or lie before the first to come."""

    @property
    def is_ready(self) -> bool:
        """Whether anything is known to guess from."""

    def absorb(self, hidden: Tensor) -> None:
        """Add the main model's hidden states [T, C] of the next tokens."""


class TokenDrafter(Protocol):
    """Drafts for many sequences at once; as many tokens ahead as there are prediction layers."""

    @property
    def max_drafts(self) -> int: ...

    def new_state(self, first: int) -> Any:
        """For a sequence of which the main model computes the tokens from position ``first`` on."""

    def draft(self, sequences: Sequence[tuple[Sequence[int], Any]], num_drafts: int) -> list[list[int]]:
        """Likeliest next tokens of each sequence, ``num_drafts`` of them.

        A sequence is its known tokens and its state, which has hidden states of all of them but the last.
        """
