"""The op table: what a step on FP8 weights is made of, and the one place that chooses how each op is carried out.

``ref`` is plain PyTorch in f32, always there, and says what each op means; ``triton`` are kernels for one GPU. They
take and return the same tensors, so a step written against :class:`Ops` runs on either
(``model_server.engine.ops_backend``). The pools of keys and values are those of ``model_server.kernels.batch``, one
layer of them.

Shape letters: R rows, C and O widths, N heads, G key-value heads, D query-key width, V value width, E experts,
K experts per row, I expert width, P pages, S ring slots, W positions of a ring; BLOCK and PAGE as in
``model_server.kernels.batch``.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor

from model_server.kernels import ref
from model_server.kernels.experts import Groups
from model_server.kernels.fp8 import BlockScaled
from model_server.kernels.rows import Rows

Backend = Literal["ref", "triton"]


class Quantize(Protocol):
    def __call__(self, x: Tensor, group: int) -> BlockScaled:
        """x [R, C] in blocks of 1 x ``group``."""


class AddNorm(Protocol):
    def __call__(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float, group: int
    ) -> tuple[Tensor, Tensor, BlockScaled]:
        """The new residual x + residual [R, C] in the residual's type; its root mean square norm in x's type; and the
        norm, not rounded to that type, in blocks of 1 x ``group``."""


class Gated(Protocol):
    def __call__(self, joined: Tensor, group: int) -> BlockScaled:
        """joined [R, 2 I], gate then up -> silu(gate) * up [R, I] in blocks of 1 x ``group``."""


class Linear(Protocol):
    def __call__(self, x: BlockScaled, weight: BlockScaled, dtype: torch.dtype) -> Tensor:
        """x [R, C] and weight [O, C], with equal blocks of columns -> x W^T [R, O], summed in f32."""


class Route(Protocol):
    def __call__(
        self, logits: Tensor, bias: Tensor, top_k: int, normalise: bool, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """logits f32 [R, E], bias f32 [E] -> expert ids int32 [R, K], best first, equal ones by number; and their
        shares f32 [R, K]. The bias counts in the choice only."""


class GroupedLinear(Protocol):
    def __call__(self, x: BlockScaled, weight: BlockScaled, groups: Groups, gather: bool, dtype: torch.dtype) -> Tensor:
        """weight [E, O, C] -> [R * K, O], each pair of a row and an expert times that expert's weight, pairs sorted by
        expert. With ``gather`` x has the R rows, else one for each sorted pair."""


class Combine(Protocol):
    def __call__(self, pairs: Tensor, groups: Groups, shares: Tensor) -> Tensor:
        """Sorted pairs [R * K, C] and shares [R, K] -> [R, C], a row's experts summed in the order of its ids."""


class AttendPages(Protocol):
    def __call__(self, q: Tensor, page_k: Tensor, page_v: Tensor, rows: Rows, sink: Tensor | None) -> Tensor:
        """q [R, N, D] over page_k [P, G, PAGE / BLOCK, D, BLOCK] and page_v [P, G, PAGE, V], which hold the rows' own
        keys too -> [R, N, V] in q's type. sink: [N]."""


class AttendRings(Protocol):
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ring_k: Tensor,
        ring_v: Tensor,
        rows: Rows,
        window_keys: int,
        sink: Tensor | None,
    ) -> Tensor:
        """q [R, N, D] over the rows' own k [R, G, D] and v [R, G, V] and, before them, ring_k [S, G, W / BLOCK, D,
        BLOCK] and ring_v [S, G, W, V] -> [R, N, V] in q's type. The rows are stored in the rings afterwards, so that a
        part of a prompt may be longer than a ring."""


class Store(Protocol):
    def __call__(self, k: Tensor, v: Tensor, pool_k: Tensor, pool_v: Tensor, rows: Rows) -> None:
        """Put k [R, G, D] and v [R, G, V] where the rows' positions lie; of a ring, its newest W."""


@dataclass(frozen=True, slots=True)
class Ops:
    """One way to carry out every op."""

    name: Backend
    quantize: Quantize
    add_norm: AddNorm
    gated: Gated
    linear: Linear
    route: Route
    grouped_linear: GroupedLinear
    combine: Combine
    attend_pages: AttendPages
    attend_rings: AttendRings
    store_pages: Store
    store_rings: Store


REF = Ops(
    name="ref",
    quantize=ref.quantize,
    add_norm=ref.add_norm,
    gated=ref.gated,
    linear=ref.linear,
    route=ref.route,
    grouped_linear=ref.grouped_linear,
    combine=ref.combine,
    attend_pages=ref.attend_pages,
    attend_rings=ref.attend_rings,
    store_pages=ref.store_pages,
    store_rings=ref.store_rings,
)


def choose(device: torch.device, backend: Backend | None = None) -> Ops:
    """The ops for tensors on a device; None takes Triton on a GPU where it is installed, else ``ref``.

    Raises:
        ModuleNotFoundError: Triton is asked for by name and not installed.
    """
    if backend is None:
        backend = "triton" if device.type == "cuda" and find_spec("triton") else "ref"
    if backend == "ref":
        return REF
    from model_server.kernels.triton.table import TRITON  # here: the compiler takes seconds to import

    return TRITON
