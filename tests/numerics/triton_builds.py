"""Builds every Triton kernel for an H200 (sm_90) at the published widths, on a machine without any GPU.

``python -m tests.numerics.triton_builds`` prints a JSON object: each kernel's shared memory in bytes. A process of its
own, since Triton's interpreter, once chosen, is chosen for good.
"""

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from model_server.kernels import experts
from model_server.kernels.fp8 import FP8, BlockScaled
from model_server.kernels.ops import Ops, choose
from model_server.kernels.rows import Rows


class H200:
    """What Triton asks a driver before it builds."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def main() -> None:
    shared: dict[str, int] = {}
    run = JITFunction.run

    def build(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        built = run(kernel, *arguments, grid=grid, warmup=True, **options)
        shared[kernel.__name__] = max(shared.get(kernel.__name__, 0), built.metadata.shared)

    JITFunction.run = build
    triton.runtime.driver.set_active(H200())
    _call_everything(choose(torch.device("cpu"), "triton"))
    print(json.dumps(shared))


def _call_everything(ops: Ops) -> None:
    x = torch.zeros(4, 4096, dtype=torch.bfloat16)
    ops.quantize(x, 128)
    ops.add_norm(x, torch.zeros(4, 4096), torch.zeros(4096), 1e-5, 128)
    ops.gated(torch.zeros(4, 4096), 128)
    ops.linear(_blocks(256, 4096, block=(1, 128)), _blocks(1536, 4096, block=(64, 128)), torch.bfloat16)
    ids, shares = ops.route(torch.zeros(4, 256), torch.zeros(256), 8, True, 1.0)
    groups = experts.group(ids.zero_(), 2)
    stack = _blocks(2, 4096, 4096, block=(128, 128))
    ops.grouped_linear(_blocks(4, 4096, block=(1, 128)), stack, groups, True, torch.float32)
    ops.combine(torch.zeros(32, 4096), groups, shares)
    _attend(ops, length=1, first=3000)
    _attend(ops, length=300, first=0)


def _attend(ops: Ops, length: int, first: int) -> None:
    rows = Rows((length,), (first,), torch.zeros(1, 64, dtype=torch.int32), torch.zeros(1, dtype=torch.int32))
    q = _bf16(length, 64, 192)
    page_k, page_v = _bf16(2, 9, 4, 4, 192, 16)[:, 1], _bf16(2, 9, 4, 64, 128)[:, 1]
    ops.attend_pages(q, page_k, page_v, rows, None)
    ops.store_pages(_bf16(length, 4, 192), _bf16(length, 4, 128), page_k, page_v, rows)
    if length == 1:
        k, v = _bf16(1, 8, 192), _bf16(1, 8, 128)
        ring_k, ring_v = _bf16(2, 39, 8, 10, 192, 16)[:, 1], _bf16(2, 39, 8, 160, 128)[:, 1]
        ops.attend_rings(q, k, v, ring_k, ring_v, rows, 129, torch.zeros(64))
        ops.store_rings(k, v, ring_k, ring_v, rows)


def _bf16(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def _blocks(*shape: int, block: tuple[int, int]) -> BlockScaled:
    *stack, num_rows, num_cols = shape
    scale = torch.zeros(*stack, -(-num_rows // block[0]), -(-num_cols // block[1]))
    return BlockScaled(torch.zeros(shape, dtype=torch.uint8).view(FP8), scale, block)


if __name__ == "__main__":
    main()
