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

from model_server.engine.drafting import Known
from model_server.engine.torch_backend import BatchRows, KeysValues, PackedLayer, RotaryRows, pack
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.models.mtp import PredictionLayer


class _Window:
    """Keys and values of one prediction layer: those of the window before :attr:`num_tokens`, in order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.num_tokens = 0
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
    """See :class:`model_server.engine.drafting.TokenDrafter`."""

    def __init__(self, model: MiMoV2Flash, context_length: int) -> None:
        self._model = model
        self._table = RotaryRows(model.config.heads(window=True), context_length)
        self._window_keys = model.config.window_keys
        layers = model.model.mtp.layers if model.num_mtp_layers else ()
        self._layers = [_pack(layer, self._window_keys) for layer in layers if isinstance(layer, PredictionLayer)]

    @property
    def max_drafts(self) -> int:
        return len(self._layers)

    @property
    def num_hidden(self) -> int:
        return self._window_keys + len(self._layers)

    def new_state(self) -> list[_Window]:
        return [_Window(self._window_keys) for _ in self._layers]

    @torch.inference_mode()
    def draft(self, sequences: Sequence[Known], num_drafts: int) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in sequences]
        for index in range(num_drafts):
            for guessed, token in zip(drafts, self._guess(index, sequences, drafts), strict=True):
                guessed.append(token)
        return drafts

    def _guess(self, index: int, sequences: Sequence[Known], drafts: list[list[int]]) -> list[int]:
        layer = self._layers[index]
        windows: list[_Window] = [known.state[index] for known in sequences]
        parts: list[Tensor] = []
        tokens: list[int] = []
        counts: list[int] = []
        for known, window, guessed in zip(sequences, windows, drafts, strict=True):
            window.skip_to(known.hidden.first)
            count = known.hidden.end - window.num_tokens
            tokens += [*known.ids[-count:], *guessed][-count:]
            parts += known.hidden.since(window.num_tokens)
            counts.append(count)
        embedded = F.embedding(torch.tensor(tokens), self._model.model.embed_tokens.weight)
        hidden = torch.cat(parts).to(embedded.dtype)
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
