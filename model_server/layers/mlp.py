"""The dense feed-forward block (SwiGLU)."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model_server.layers.linear import Linear


class DenseMLP(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj: Linear = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj: Linear = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj: Linear = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result
