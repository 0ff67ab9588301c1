"""Guesses the next tokens of a sequence with the prediction layers, by the C++ step.

What is computed when is as in :mod:`model_server.engine.drafter`; keys and values lie in rings, where what was computed
from a guess is simply overwritten once the token is known.
"""

import weakref
from array import array
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from model_server.engine.cpu_backend import CpuBackend
from model_server.kernels.batch import Segment, new_draft_rings

_NO_PAGES = array("i")


class RingDraftState:
    """The main model's newest hidden states, and how far each layer's window has come."""

    def __init__(self, num_layers: int, window_keys: int, first: int, ring: int) -> None:
        self.ring = ring
        self.num_tokens = first
        """Tokens whose hidden states are known, or lie before the first to come."""
        self.due = [first] * num_layers
        """For each layer the position of the first row that is computed next; keys before it are final."""
        self.oldest = [first] * num_layers
        """For each layer the first position that has keys."""
        self._kept_rows = window_keys + num_layers
        self._hidden: deque[Tensor] = deque()
        self._first = first

    @property
    def is_ready(self) -> bool:
        """Whether anything is known to guess from."""
        return bool(self._hidden)

    def absorb(self, hidden: Tensor) -> None:
        """Add the main model's hidden states [T, C] of the next tokens, and forget those no window needs."""
        self.num_tokens += len(hidden)
        self._hidden.append(hidden)
        first_kept = max(self.num_tokens - self._kept_rows, min(self.due))
        while self._first + len(self._hidden[0]) <= first_kept:
            self._first += len(self._hidden.popleft())
        for layer, due in enumerate(self.due):  # keys on both sides of a gap do not go together
            if due < first_kept:
                self.due[layer] = self.oldest[layer] = first_kept

    def hidden_from(self, position: int) -> list[Tensor]:
        """Hidden states of the positions from there on, in parts."""
        parts: list[Tensor] = []
        end = self.num_tokens
        for part in reversed(self._hidden):
            first = end - len(part)
            parts.append(part[max(position - first, 0) :])
            end = first
            if end <= position:
                break
        return parts[::-1]


class CpuDrafter:
    """See :class:`model_server.engine.drafting.TokenDrafter`."""

    def __init__(self, backend: CpuBackend) -> None:
        self._backend = backend
        self._config = backend.config
        self._rings = new_draft_rings(self._config, 0, self.max_drafts, torch.float32)
        self._free: list[int] = []

    @property
    def max_drafts(self) -> int:
        return self._backend.num_predictions

    def new_state(self, first: int) -> RingDraftState:
        """See :meth:`model_server.engine.drafting.TokenDrafter.new_state`. The ring comes back with its last user."""
        if not self._free:
            self._grow()
        ring = self._free.pop()
        state = RingDraftState(self.max_drafts, self._config.window_keys, first, ring)
        weakref.finalize(state, self._free.append, ring)
        return state

    def draft(self, sequences: Sequence[tuple[Sequence[int], RingDraftState]], num_drafts: int) -> list[list[int]]:
        """See :meth:`model_server.engine.drafting.TokenDrafter.draft`."""
        drafts: list[list[int]] = [[] for _ in sequences]
        states = [state for _, state in sequences]
        for layer in range(num_drafts):
            segments = [
                _segment(layer, ids, guessed, state) for (ids, state), guessed in zip(sequences, drafts, strict=True)
            ]
            hidden = torch.cat([part for state in states for part in state.hidden_from(state.due[layer])])
            tokens = self._backend.predict(layer, segments, hidden, self._rings)
            for guessed, state, token in zip(drafts, states, tokens, strict=True):
                guessed.append(token)
                # The last rows came from guesses, as many as there were.
                state.due[layer] = max(state.due[layer], state.num_tokens - layer)
        return drafts

    def _grow(self) -> None:
        num_before = len(self._rings[0])
        num_after = max(2 * num_before, 8)
        grown = new_draft_rings(self._config, num_after, self.max_drafts, torch.float32)
        for old, new in zip(self._rings, grown, strict=True):
            new[:num_before] = old
        self._rings = grown
        self._free.extend(range(num_before, num_after))


def _segment(layer: int, ids: Sequence[int], guessed: list[int], state: RingDraftState) -> Segment:
    """The rows of a layer that are due. They read the tokens ``layer + 1`` places on, the last of them guessed."""
    due = state.due[layer]
    tokens = (
        [*ids[due + layer + 1 :], *guessed] if due + layer + 1 < len(ids) else guessed[due + layer + 1 - len(ids) :]
    )
    return Segment(tokens, due, _NO_PAGES, state.ring, oldest=state.oldest[layer])
