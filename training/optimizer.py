"""Muon for matrices and AdamW for the rest, over f32 copies of bf16 weights.

Muon (Jordan et al., 2024) replaces a matrix's momentum by its nearest orthogonal matrix, found by five Newton-Schulz
steps; stacked experts are orthogonalised one by one in a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.ranks import Ranks

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Peak rates; the schedule multiplies both by the same factor."""

    matrix_rate: float = 0.02
    other_rate: float = 0.003
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01


class MasterOptimizer:
    """Holds f32 masters of the model's parameters and writes them back after every step, in the model's precision."""

    def __init__(
        self,
        model: nn.Module,
        settings: OptimizerSettings,
        ranks: Ranks,
    ) -> None:
        self._settings = settings
        self._ranks = ranks
        self.rounding: Callable[[str, Tensor], Tensor] | None = None
        """Applied to (name, master) on the way to the model: what the model computes with."""
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().float().clone() for name, p in self._parameters.items()}
        matrices = [name for name, p in self._parameters.items() if _is_matrix(name, p)]
        self._momenta = {name: torch.zeros_like(self.masters[name]) for name in matrices}
        others = [self.masters[name] for name in self.masters if name not in self._momenta]
        self._adam = torch.optim.AdamW(others, lr=settings.other_rate, betas=settings.betas, weight_decay=0.0)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at ``factor`` times the peak rates; gradients are consumed."""
        settings = self._settings
        self._ranks.average([p.grad for p in self._parameters.values() if p.grad is not None])
        for name, parameter in self._parameters.items():
            assert parameter.grad is not None
            self.masters[name].grad = parameter.grad.float()
            parameter.grad = None
        updates = self._matrix_updates()
        rate = settings.matrix_rate * factor
        for name, update in updates.items():
            master = self.masters[name]
            master.grad = None
            master.mul_(1 - rate * settings.weight_decay)
            master.add_(update, alpha=-rate * max(1.0, master.shape[-2] / master.shape[-1]) ** 0.5)
        for group in self._adam.param_groups:
            group["lr"] = settings.other_rate * factor
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.write_back()

    def _matrix_updates(self) -> dict[str, Tensor]:
        """Orthogonalised momenta by name; every process does its share of them."""
        updates: dict[str, Tensor] = {}
        by_size = sorted(self._momenta, key=lambda name: (self._momenta[name].numel(), name))
        for index, name in enumerate(by_size):
            momentum, gradient = self._momenta[name], self.masters[name].grad
            assert gradient is not None
            momentum.lerp_(gradient, 1 - self._settings.momentum)
            if index % self._ranks.size == self._ranks.rank:
                updates[name] = orthogonalise(gradient.lerp(momentum, self._settings.momentum))
            else:
                updates[name] = torch.zeros_like(momentum)
        self._ranks.sum(list(updates.values()))
        return updates

    @torch.no_grad()
    def write_back(self) -> None:
        """Masters -> parameters."""
        for name, parameter in self._parameters.items():
            master = self.masters[name]
            parameter.copy_(master if self.rounding is None else self.rounding(name, master))

    def state(self) -> dict[str, object]:
        return {"masters": self.masters, "momenta": self._momenta, "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, object]) -> None:
        masters, momenta, adam = state["masters"], state["momenta"], state["adam"]
        assert isinstance(masters, dict)
        assert isinstance(momenta, dict)
        assert isinstance(adam, dict)
        for mine, saved in ((self.masters, masters), (self._momenta, momenta)):
            for name, tensor in mine.items():
                tensor.copy_(saved[name])
        self._adam.load_state_dict(adam)
        self.write_back()


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and not any(part in name for part in ("embed_tokens", "lm_head", "mlp.gate.weight"))


def orthogonalise(matrix: Tensor) -> Tensor:
    """The orthogonal factor of matrix [..., M, N], to the precision of five bf16 steps."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix.reshape(-1, *matrix.shape[-2:]).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        gram = torch.bmm(x, x.transpose(-2, -1))
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    if tall:
        x = x.transpose(-2, -1)
    return x.float().view_as(matrix)
