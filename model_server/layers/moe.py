"""Mixture of experts with a sigmoid router whose bias decides the choice only."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model_server.config import ModelConfig
from model_server.kernels.fp8 import dequantize_blocks
from model_server.layers.linear import fp8_parameter, scale_parameter

_ROW_MULTIPLE = 128
"""Long expert batches are padded to this: every new row count makes oneDNN build a kernel, ten times its run time."""


class Router(nn.Module):
    """Chooses K experts per token: scores are sigmoid(W x) in f32, the choice is by score + bias, and the weights
    are the *unbiased* scores of the chosen experts over their sum."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.scaling = config.routed_scaling_factor or 1.0
        self.normalise = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.e_score_correction_bias = nn.Parameter(torch.zeros(config.n_routed_experts), requires_grad=False)

    def forward(self, x: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [R, C] -> expert ids [R, K] and weights [R, K] in f32; ``forced`` ids replace the choice."""
        scores = (x.float() @ self.weight.float().T).sigmoid()
        if forced is None:
            forced = (scores + self.e_score_correction_bias).topk(self.top_k, dim=-1, sorted=False).indices
        weights = scores.gather(1, forced)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return forced, weights * self.scaling


class Experts(nn.Module):
    """E SwiGLU blocks with stacked weights: gate_up [E, 2 I, C] and down [E, C, I]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num, width, hidden = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up = nn.Parameter(torch.empty(num, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(num, hidden, width))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """x [R, C], ids and weights [R, K] -> weighted sum of the chosen experts, [R, C]."""
        pairs = tuple(zip(self.gate_up, self.down, strict=True))  # taken apart once: one gradient for the whole stack
        return _mixture(x, ids, weights, len(pairs), pairs.__getitem__)


class BlockScaledExperts(nn.Module):
    """:class:`Experts` with weights in FP8 blocks; only the chosen ones are dequantised, one after another.

    ``gate_up`` [E, 2 I, C] and ``down`` [E, C, I] are e4m3, ``gate_up_scale_inv`` and ``down_scale_inv`` f32; the
    blocks are (rows, columns) of one scale. Up's rows begin where gate's end, so if that is inside a block of the
    checkpoint, ``gate_up_block`` has fewer rows.
    """

    def __init__(
        self,
        gate_up: tuple[int, ...],
        down: tuple[int, ...],
        gate_up_block: tuple[int, int],
        down_block: tuple[int, int],
    ) -> None:
        super().__init__()
        self.gate_up_block = gate_up_block
        self.gate_up = fp8_parameter(gate_up)
        self.gate_up_scale_inv = scale_parameter(gate_up, gate_up_block)
        self.down_block = down_block
        self.down = fp8_parameter(down)
        self.down_scale_inv = scale_parameter(down, down_block)

    def dense_gate_up(self, expert: int) -> Tensor:
        """Dequantised [2 I, C] in f32."""
        return dequantize_blocks(self.gate_up[expert], self.gate_up_scale_inv[expert], self.gate_up_block)

    def dense_down(self, expert: int) -> Tensor:
        """Dequantised [C, I] in f32."""
        return dequantize_blocks(self.down[expert], self.down_scale_inv[expert], self.down_block)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """As :meth:`Experts.forward`."""

        def matrices(expert: int) -> tuple[Tensor, Tensor]:
            return self.dense_gate_up(expert).to(x.dtype), self.dense_down(expert).to(x.dtype)

        return _mixture(x, ids, weights, len(self.gate_up), matrices)


def _mixture(
    x: Tensor, ids: Tensor, weights: Tensor, num_experts: int, matrices: Callable[[int], tuple[Tensor, Tensor]]
) -> Tensor:
    """``matrices`` gives gate_up [2 I, C] and down [C, I] of an expert that has rows."""
    top_k = ids.shape[1]
    order = ids.flatten().argsort(stable=True)
    counts = torch.bincount(ids.flatten(), minlength=num_experts).tolist()
    rows = order // top_k
    parts = torch.split(x.index_select(0, rows), counts)
    outputs = [_expert(part, *matrices(expert)) for expert, part in enumerate(parts) if len(part)]
    weighted = torch.cat(outputs) * weights.flatten()[order].unsqueeze(1).to(x.dtype)
    return torch.zeros_like(x).index_add_(0, rows, weighted)


def _expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    num_rows = len(x)
    if num_rows >= _ROW_MULTIPLE:
        x = F.pad(x, (0, 0, 0, -num_rows % _ROW_MULTIPLE))
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    return ((F.silu(gate) * up) @ down.T)[:num_rows]


class MoE(nn.Module):
    """Router and experts. There is no shared expert."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts: Experts | BlockScaledExperts = Experts(config)

    def forward(self, x: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, C] -> the sum [B, T, C] and the expert ids used [B, T, K]."""
        flat = x.flatten(0, 1)
        ids, weights = self.gate(flat, None if forced is None else forced.flatten(0, 1))
        mixed = self.experts(flat, ids, weights)
        return mixed.view_as(x), ids.view(*x.shape[:2], -1)
