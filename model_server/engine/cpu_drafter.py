"""Guesses the next tokens of a sequence with the prediction layers, by the C++ step.

What is computed when is as in :mod:`model_server.engine.drafter`; keys and values lie in rings, where what was computed
from a guess is simply overwritten once the token is known.
"""

import weakref
from array import array
from collections.abc import Sequence

import torch

from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.drafting import Known
from model_server.engine.hidden_tail import HiddenTail
from model_server.kernels.batch import Segment, new_draft_rings

_NO_PAGES = array("i")


class RingWindows:
    """How far each layer's window of one sequence has come."""

    def __init__(self, num_layers: int, ring: int) -> None:
        self.ring = ring
        self.due = [0] * num_layers
        """For each layer the position of the first row that is computed next; keys before it are final."""
        self.oldest = [0] * num_layers
        """For each layer the first position that has keys."""

    def begin(self, layer: int, hidden: HiddenTail) -> int:
        """The layer's first row now. Keys on both sides of a gap do not go together."""
        if self.due[layer] < hidden.first:
            self.due[layer] = self.oldest[layer] = hidden.first
        return self.due[layer]


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

    @property
    def num_hidden(self) -> int:
        return self._config.window_keys + self.max_drafts

    def new_state(self) -> RingWindows:
        """The ring comes back with its last user."""
        if not self._free:
            self._grow()
        ring = self._free.pop()
        state = RingWindows(self.max_drafts, ring)
        weakref.finalize(state, self._free.append, ring)
        return state

    def draft(self, sequences: Sequence[Known], num_drafts: int) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in sequences]
        for layer in range(num_drafts):
            segments, parts = [], []
            for known, guessed in zip(sequences, drafts, strict=True):
                first = known.state.begin(layer, known.hidden)
                segments.append(_segment(layer, first, known, guessed))
                parts += known.hidden.since(first)
            hidden = parts[0] if len(parts) == 1 else torch.cat(parts)
            tokens = self._backend.predict(layer, segments, hidden, self._rings)
            for known, guessed, token in zip(sequences, drafts, tokens, strict=True):
                guessed.append(token)
                # The last rows came from guesses, as many as there were.
                due = known.state.due
                due[layer] = max(due[layer], known.hidden.end - layer)
        return drafts

    def _grow(self) -> None:
        num_before = len(self._rings[0])
        num_after = max(2 * num_before, 8)
        grown = new_draft_rings(self._config, num_after, self.max_drafts, torch.float32)
        for old, new in zip(self._rings, grown, strict=True):
            new[:num_before] = old
        self._rings = grown
        self._free.extend(range(num_before, num_after))


def _segment(layer: int, first: int, known: Known, guessed: list[int]) -> Segment:
    """The rows of a layer from ``first`` on. They read the tokens ``layer + 1`` places on, the last of them guessed."""
    start, ids = first + layer + 1, known.ids
    tokens = [*ids[start:], *guessed] if start < len(ids) else guessed[start - len(ids) :]
    return Segment(tokens, first, _NO_PAGES, known.state.ring, oldest=known.state.oldest[layer])
