"""How far are the Triton kernels from what an H200 could do at most, at the sizes of MiMo-V2-Flash?

    python -m benchmarks.gpu_kernels

Prints, for each op, microseconds per call, the floor, and their ratio, and writes ``build/bench/gpu_kernels.json`` with
the card and the date. A floor is the larger of two times: to move the bytes that must be moved once, at 4.8 TB/s, and
to do the multiplications, at 1,979 TFLOP/s in FP8 or 989 in bf16 (published limits of an H200). Calls are replayed from
a CUDA graph, so the time is the kernels', not Python's; they repeat on the same data, of which the card's second cache
may hold what is small. Without a GPU there is nothing to measure: it says so and ends.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model_server.kernels import experts
from model_server.kernels.batch import BLOCK, PAGE, ring_size
from model_server.kernels.fp8 import FP8, BlockScaled
from model_server.kernels.ops import Ops, choose
from model_server.kernels.rows import Rows

_REPORT = Path("build/bench/gpu_kernels.json")
_BYTES_PER_US = 4.8e6
_FP8_PER_US = 1979e6
_BF16_PER_US = 989e6
_GROUP = 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """Widths of one layer, and how much of it a call works on; the defaults are the published model's."""

    hidden: int = 4096
    num_heads: int = 64
    global_groups: int = 4
    window_groups: int = 8
    qk_dim: int = 192
    v_dim: int = 128
    window_keys: int = 129
    num_experts: int = 256
    top_k: int = 8
    expert_width: int = 2048
    contexts: tuple[int, ...] = (32_768, 262_144)
    verified: int = 4
    """Rows of a step that checks guesses."""
    prompt: int = 4096
    batch: int = 128
    product_rows: tuple[int, ...] = (1, 128, 512, 4096)
    expert_rows: tuple[int, ...] = (1, 4, 32, 128, 4096, 16_384)


@dataclass(frozen=True, slots=True)
class Case:
    """One op on inputs that are there."""

    name: str
    floor_us: float
    call: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    us: float
    floor_us: float


def cases(ops: Ops, device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Every case in turn; its inputs can be freed before the next one's are made."""
    for context in sizes.contexts:
        for length in (1, sizes.verified):
            yield _pages(ops, device, sizes, length, context - length)
    yield _pages(ops, device, sizes, sizes.prompt, 0)
    yield _rings(ops, device, sizes, (1,) * sizes.batch)
    yield _rings(ops, device, sizes, (sizes.prompt,))
    for num_rows in sizes.product_rows:
        yield _linear(ops, device, sizes, num_rows)
    gate_up = _blocks(device, sizes.num_experts, 2 * sizes.expert_width, sizes.hidden)
    down = _blocks(device, sizes.num_experts, sizes.hidden, sizes.expert_width)
    for num_rows in sizes.expert_rows:
        yield _mixture(ops, device, sizes, num_rows, gate_up, down)
    yield from _small(ops, device, sizes)


def _pages(ops: Ops, device: torch.device, sizes: Sizes, length: int, first: int) -> Case:
    groups, num_keys = sizes.global_groups, first + length
    num_pages = -(-num_keys // PAGE)
    rows = Rows((length,), (first,), torch.randperm(num_pages)[None].int().to(device), _ints(device, [0]))
    q = _bf16(device, length, sizes.num_heads, sizes.qk_dim)
    k = _bf16(device, num_pages, groups, PAGE // BLOCK, sizes.qk_dim, BLOCK)
    v = _bf16(device, num_pages, groups, PAGE, sizes.v_dim)
    num_bytes = 2 * num_keys * groups * (sizes.qk_dim + sizes.v_dim)
    num_pairs = length * first + length * (length + 1) // 2
    work = 2 * num_pairs * sizes.num_heads * (sizes.qk_dim + sizes.v_dim)
    return Case(
        f"global attention, {length} rows, {num_keys} keys",
        max(num_bytes / _BYTES_PER_US, work / _BF16_PER_US),
        lambda: ops.attend_pages(q, k, v, rows, None),
    )


def _rings(ops: Ops, device: torch.device, sizes: Sizes, lengths: tuple[int, ...]) -> Case:
    """One row of each sequence after a full window, or a whole prompt."""
    groups, num_rows, decodes = sizes.window_groups, sum(lengths), len(lengths) > 1
    firsts = (4 * sizes.window_keys if decodes else 0,) * len(lengths)
    rows = Rows(lengths, firsts, _ints(device, [[0]] * len(lengths)), _ints(device, list(range(len(lengths)))))
    positions = ring_size(sizes.window_keys)
    ring_k = _bf16(device, len(lengths), groups, positions // BLOCK, sizes.qk_dim, BLOCK)
    ring_v = _bf16(device, len(lengths), groups, positions, sizes.v_dim)
    q = _bf16(device, num_rows, sizes.num_heads, sizes.qk_dim)
    k, v = _bf16(device, num_rows, groups, sizes.qk_dim), _bf16(device, num_rows, groups, sizes.v_dim)
    sink = torch.zeros(sizes.num_heads, device=device)
    num_keys = num_rows * sizes.window_keys if decodes else num_rows
    width = sizes.qk_dim + sizes.v_dim
    work = 2 * num_rows * sizes.window_keys * sizes.num_heads * width
    return Case(
        f"window attention, {len(lengths)} x {lengths[0]} rows",
        max(2 * num_keys * groups * width / _BYTES_PER_US, work / _BF16_PER_US),
        lambda: ops.attend_rings(q, k, v, ring_k, ring_v, rows, sizes.window_keys, sink),
    )


def _linear(ops: Ops, device: torch.device, sizes: Sizes, num_rows: int) -> Case:
    num_out = sizes.num_heads * sizes.qk_dim + sizes.window_groups * (sizes.qk_dim + sizes.v_dim)
    weight = _blocks(device, num_out, sizes.hidden)
    x = ops.quantize(_bf16(device, num_rows, sizes.hidden), _GROUP)
    num_bytes = num_out * sizes.hidden + num_rows * (sizes.hidden + 2 * num_out)
    return Case(
        f"FP8 product q, k, v, {num_rows} rows",
        max(num_bytes / _BYTES_PER_US, 2 * num_rows * num_out * sizes.hidden / _FP8_PER_US),
        lambda: ops.linear(x, weight, torch.bfloat16),
    )


def _mixture(
    ops: Ops, device: torch.device, sizes: Sizes, num_rows: int, gate_up: BlockScaled, down: BlockScaled
) -> Case:
    logits, bias = (
        torch.randn(num_rows, sizes.num_experts, device=device),
        torch.zeros(sizes.num_experts, device=device),
    )
    ids, shares = ops.route(logits, bias, sizes.top_k, True, 1.0)
    x = ops.quantize(_bf16(device, num_rows, sizes.hidden), _GROUP)
    per_expert = 3 * sizes.expert_width * sizes.hidden
    num_used = int(ids.unique().numel())
    work = 2 * num_rows * sizes.top_k * per_expert
    return Case(
        f"experts, {num_rows} rows, {num_used} of {sizes.num_experts} used",
        max(num_used * per_expert / _BYTES_PER_US, work / _FP8_PER_US),
        lambda: experts.mix(ops, x, ids, shares, gate_up, down, torch.bfloat16),
    )


def _small(ops: Ops, device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Ops that only move bytes, for a whole prompt."""
    num_rows, hidden = sizes.prompt, sizes.hidden
    x, residual = _bf16(device, num_rows, hidden), torch.randn(num_rows, hidden, device=device)
    weight = torch.ones(hidden, device=device)
    numbers = num_rows * hidden
    yield Case("quantise", 3 * numbers / _BYTES_PER_US, lambda: ops.quantize(x, _GROUP))
    yield Case(
        "residual, norm, quantise",
        (2 + 4 + 4 + 2 + 1) * numbers / _BYTES_PER_US,
        lambda: ops.add_norm(x, residual, weight, 1e-5, _GROUP),
    )
    joined = torch.randn(num_rows, 2 * hidden, device=device)
    yield Case("gate, quantise", 9 * numbers / _BYTES_PER_US, lambda: ops.gated(joined, _GROUP))
    logits, bias = (
        torch.randn(num_rows, sizes.num_experts, device=device),
        torch.zeros(sizes.num_experts, device=device),
    )
    moved = num_rows * (4 * sizes.num_experts + 8 * sizes.top_k)
    yield Case("route", moved / _BYTES_PER_US, lambda: ops.route(logits, bias, sizes.top_k, True, 1.0))


def _bf16(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)


def _ints(device: torch.device, values: list[int] | list[list[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _blocks(device: torch.device, *shape: int) -> BlockScaled:
    """Random e4m3 bytes below 1 in magnitude, without a copy in any wider type."""
    *stack, num_rows, num_cols = shape
    values = torch.randint(0, 0x38, shape, dtype=torch.uint8, device=device).view(FP8)
    scale = torch.full((*stack, -(-num_rows // _GROUP), -(-num_cols // _GROUP)), 0.01, device=device)
    return BlockScaled(values, scale, (_GROUP, _GROUP))


def main() -> None:
    if not torch.cuda.is_available():
        sys.stdout.write("no GPU here: nothing was measured\n")
        return
    from triton.testing import do_bench_cudagraph

    device = torch.device("cuda")
    results = [
        Result(case.name, 1e3 * do_bench_cudagraph(case.call, return_mode="median"), case.floor_us)
        for case in cases(choose(device, "triton"), device, Sizes())
    ]
    card = torch.cuda.get_device_name()
    Console().print(_table(card, results))
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"card": card, "at": datetime.now(UTC).isoformat(), "results": [asdict(result) for result in results]}
    _REPORT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def _table(card: str, results: list[Result]) -> Table:
    table = Table(title=f"{card}; floors of an H200")
    for name in ("op", "us", "floor, us", "ratio"):
        table.add_column(name, justify="left" if name == "op" else "right")
    for result in results:
        ratio = f"{result.us / result.floor_us:.2f}"
        table.add_row(result.name, f"{result.us:.1f}", f"{result.floor_us:.1f}", ratio)
    return table


if __name__ == "__main__":
    main()
