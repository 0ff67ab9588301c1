"""Guesses the next tokens of a sequence with the prediction layers.

Prediction layer j reads, at position t, the main model's hidden state at t and the embedding of token t + j + 1, and
guesses token t + j + 2. So with n + 1 tokens known and hidden states of the first n, layer 0 guesses token n + 1; with
that guess layer 1 guesses token n + 2, and so on (technical report of MiMo-V2-Flash, section 2.3). What a layer
computed from a guess is computed again when the token is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model_server.engine.torch_backend import BatchRows, KeysValues, PackedLayer, RotaryRows, pack
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.models.mtp import PredictionLayer


class DraftState:
    """What drafting remembers of one sequence: the main model's newest hidden states, and each layer's window."""

    def __init__(self, num_layers: int, window_keys: int, first: int) -> None:
        """``first``: the position of the first hidden state to come; what lies before it is not known here."""
        self._kept_rows = window_keys + num_layers
        self.windows = [_Window(window_keys, first) for _ in range(num_layers)]
        self._hidden: Tensor | None = None
        self.num_tokens = first
        """Tokens whose hidden states are known, or lie before ``first``."""

    @property
    def is_ready(self) -> bool:
        """Whether anything is known to guess from."""
        return self._hidden is not None

    def absorb(self, hidden: Tensor) -> None:
        """Add the main model's hidden states [T, C] of the next tokens."""
        self.num_tokens += len(hidden)
        hidden = hidden if self._hidden is None else torch.cat((self._hidden, hidden))
        self._hidden = hidden[-self._kept_rows :]
        for window in self.windows:  # positions whose hidden state was dropped can no longer be computed
            window.skip_to(self.num_tokens - len(self._hidden))

    def hidden_from(self, position: int) -> Tensor:
        assert self._hidden is not None
        return self._hidden[len(self._hidden) - (self.num_tokens - position) :]


class _Window:
    """Keys and values of one prediction layer: those of the window before :attr:`num_tokens`, in order."""

    def __init__(self, size: int, first: int) -> None:
        self._size = size
        self.num_tokens = first
        """Position of the first row that is computed next; keys before it are final."""
        self._final: KeysValues | None = None
        self._seen: KeysValues | None = None

    def skip_to(self, position: int) -> None:
        """Leave out what lies before ``position``; keys on both sides of a gap do not go together."""
        if self.num_tokens < position:
            self.num_tokens, self._final = position, None

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """New k [T, G, D] and v [T, G, V] after the final ones -> what they attend to, [G, S, D] and [G, S, V]."""
        new = (k.transpose(0, 1), v.transpose(0, 1))
        if self._final is None:
            self._seen = new
        else:
            held = self._size - 1
            self._seen = (
                torch.cat((self._final[0][:, -held:], new[0]), dim=1),
                torch.cat((self._final[1][:, -held:], new[1]), dim=1),
            )
        return self._seen

    def commit(self, num_new: int, num_final: int) -> None:
        """Of the ``num_new`` keys given last, the first ``num_final`` follow from known tokens; forget the others."""
        assert self._seen is not None
        k, v = self._seen
        end = k.shape[1] - (num_new - num_final)
        self._final, self._seen = (k[:, :end], v[:, :end]), None
        self.num_tokens += num_final


@dataclass(frozen=True, slots=True)
class _DraftLayer:
    """One prediction layer, packed."""

    enorm: Tensor
    hnorm: Tensor
    projection: Tensor
    block: PackedLayer
    final_norm: Tensor
    eps: float


class Drafter:
    """Drafts for many sequences at once; as many tokens ahead as there are prediction layers."""

    def __init__(self, model: MiMoV2Flash, context_length: int) -> None:
        self._model = model
        self._table = RotaryRows(model.config.heads(window=True), context_length)
        self._window_keys = model.config.window_keys
        layers = model.model.mtp.layers if model.num_mtp_layers else ()
        self._layers = [_pack(layer, self._window_keys) for layer in layers if isinstance(layer, PredictionLayer)]

    @property
    def max_drafts(self) -> int:
        return len(self._layers)

    def new_state(self, first: int) -> DraftState:
        """For a sequence of which the main model computes the tokens from position ``first`` on."""
        return DraftState(len(self._layers), self._window_keys, first)

    @torch.inference_mode()
    def draft(self, sequences: Sequence[tuple[Sequence[int], DraftState]], num_drafts: int) -> list[list[int]]:
        """Likeliest next tokens of each sequence, ``num_drafts`` of them.

        A sequence is its known tokens and its state, which has hidden states of all of them but the last.
        """
        drafts: list[list[int]] = [[] for _ in sequences]
        for index in range(num_drafts):
            layer = self._layers[index]
            known = [[*ids, *guessed] for (ids, _), guessed in zip(sequences, drafts, strict=True)]
            states = [state for _, state in sequences]
            for guessed, token in zip(drafts, self._guess(layer, index, known, states), strict=True):
                guessed.append(token)
        return drafts

    def _guess(self, layer: _DraftLayer, index: int, known: list[list[int]], states: list[DraftState]) -> list[int]:
        windows = [state.windows[index] for state in states]
        counts = [state.num_tokens - window.num_tokens for state, window in zip(states, windows, strict=True)]
        tokens = [token for ids, count in zip(known, counts, strict=True) for token in ids[-count:]]
        embedded = F.embedding(torch.tensor(tokens), self._model.model.embed_tokens.weight)
        hidden = torch.cat(
            [state.hidden_from(window.num_tokens) for state, window in zip(states, windows, strict=True)]
        ).to(embedded.dtype)
        size, eps = hidden.shape[1:], layer.eps
        joined = torch.cat(
            (torch.rms_norm(embedded, size, layer.enorm, eps), torch.rms_norm(hidden, size, layer.hnorm, eps)), dim=-1
        )
        rows = BatchRows(list(zip(counts, windows, strict=True)))
        out = layer.block.forward(joined @ layer.projection, self._table.at(rows.positions), rows, 0)
        last = torch.rms_norm(out[[end - 1 for _, end, _ in rows.parts]], size, layer.final_norm, eps)
        for window, count in zip(windows, counts, strict=True):
            window.commit(count, max(count - index, 0))
        chosen: list[int] = (last @ self._model.lm_head.weight.T).argmax(-1).tolist()
        return chosen


def _pack(layer: PredictionLayer, window_keys: int) -> _DraftLayer:
    return _DraftLayer(
        enorm=layer.enorm.weight.detach(),
        hnorm=layer.hnorm.weight.detach(),
        projection=layer.eh_proj.weight.detach().T,
        block=pack(layer, window_keys),
        final_norm=layer.final_layernorm.weight.detach(),
        eps=layer.enorm.eps,
    )
