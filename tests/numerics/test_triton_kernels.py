"""Every Triton kernel computes what the op's plain form says, on random small shapes.

On a GPU the kernels run as they are. Elsewhere Triton's interpreter runs them on the CPU: indices, masks, sums and
explicit rounding are checked, the code a GPU would run is not (test_triton_builds.py sees that it can be built).
"""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model_server.kernels import experts
from model_server.kernels.batch import BLOCK, PAGE, ring_size
from model_server.kernels.fp8 import FP8, BlockScaled, quantize_blocks
from model_server.kernels.ops import REF, Ops, choose
from model_server.kernels.rows import Rows
from model_server.layers.attention import attend, attention_mask
from model_server.layers.linear import dense_weight
from model_server.layers.moe import Experts, MoE, Router
from model_server.layers.rope import rotate
from model_server.models.mimo_v2_flash import DecoderLayer
from tests.numerics.small_models import random_model, small_config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def triton_ops() -> Ops:
    pytest.importorskip("triton", reason="triton is not installed")
    return choose(DEVICE, "triton")


def _normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def _same(found: Tensor, expected: Tensor, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    """The defaults are for sums in another order, and exponentials that differ in the last bit."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    apart = (found.float() - expected.float()).abs() - rtol * expected.float().abs()
    assert apart.max().item() <= atol


def _equal(found: BlockScaled, expected: BlockScaled) -> None:
    assert found.block == expected.block
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.values.float(), expected.values.float())


@pytest.mark.parametrize(("rows", "width", "group"), [(3, 40, 16), (1, 128, 128), (5, 200, 128), (2, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_quantised_bit_for_bit(
    triton_ops: Ops, rows: int, width: int, group: int, dtype: torch.dtype
) -> None:
    x = 30 * _normal(rows, width, dtype=dtype)
    x[0, :group] = 0
    _equal(triton_ops.quantize(x, group), REF.quantize(x, group))


def test_every_rounding_to_fp8_is_to_nearest_and_even(triton_ops: Ops) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    values = values[values.isfinite()].sort().values.unique()
    between = (values[1:] + values[:-1]) / 2
    beside = torch.cat((between, between.nextafter(values[1:]), between.nextafter(values[:-1]), values))
    x = torch.cat((beside, torch.full((1024 - len(beside),), 448.0))).view(1, 1024).to(DEVICE)
    _equal(triton_ops.quantize(x, 1024), REF.quantize(x, 1024))


@pytest.mark.parametrize("residual_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
def test_residual_norm_and_quantisation_are_one_pass(
    triton_ops: Ops, x_type: torch.dtype, residual_type: torch.dtype
) -> None:
    x, residual = _normal(5, 200, dtype=x_type), 3 * _normal(5, 200, seed=1, dtype=residual_type)
    weight = 1 + 0.1 * _normal(200, seed=2)
    total, normed, quantized = triton_ops.add_norm(x, residual, weight, 1e-5, 128)
    expected_total, expected_normed, expected_quantized = REF.add_norm(x, residual, weight, 1e-5, 128)
    assert torch.equal(total, expected_total)
    assert (total.dtype, normed.dtype) == (residual.dtype, x.dtype)
    if x.dtype == torch.bfloat16:  # a step of it, where a difference in f32 lies on the edge of a rounding
        _same(normed, expected_normed, rtol=2**-7, atol=1e-3)
    else:
        _same(normed, expected_normed)
        _equal(quantized, REF.quantize(normed, 128))
    _same(quantized.dense(), expected_quantized.dense(), rtol=2**-3, atol=1e-3)


def test_gate_and_up_are_multiplied_and_quantised(triton_ops: Ops) -> None:
    joined = 2 * _normal(4, 2 * 72)
    found, expected = triton_ops.gated(joined, 32), REF.gated(joined, 32)
    _same(found.scale, expected.scale)
    # An f32 difference in the last bit can move a value that lies between two of e4m3 to the other one.
    _same(found.dense(), expected.dense(), rtol=2**-3, atol=1e-4)
    assert (found.values.float() != expected.values.float()).float().mean() < 0.02


@pytest.mark.parametrize(
    ("rows", "out", "width", "block"),
    [(1, 16, 16, (16, 16)), (5, 40, 72, (32, 32)), (33, 136, 50, (8, 16)), (20, 130, 260, (128, 128))],
)
def test_fp8_products_scale_every_block(
    triton_ops: Ops, rows: int, out: int, width: int, block: tuple[int, int]
) -> None:
    x = REF.quantize(_normal(rows, width), block[1])
    weight = _blocks(_normal(out, width, seed=1), block)
    found = triton_ops.linear(x, weight, torch.float32)
    _same(found, REF.linear(x, weight, torch.float32), rtol=1e-5, atol=1e-4)
    rounded = triton_ops.linear(x, weight, torch.bfloat16)
    assert torch.equal(rounded, found.bfloat16())


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (12, 3), (32, 8)])
@pytest.mark.parametrize("normalise", [True, False])
def test_routes_are_the_routers(triton_ops: Ops, num_experts: int, top_k: int, normalise: bool) -> None:
    config = small_config(n_routed_experts=num_experts, num_experts_per_tok=top_k, norm_topk_prob=normalise)
    router = Router(config).to(DEVICE)
    with torch.no_grad():
        router.weight.copy_(_normal(num_experts, 32))
        router.e_score_correction_bias.copy_(_normal(num_experts, seed=1))
    x = _normal(7, 32, seed=2)
    ids, shares = triton_ops.route(x @ router.weight.T, router.e_score_correction_bias, top_k, normalise, 1.0)
    expected_ids, expected_shares = REF.route(
        x @ router.weight.T, router.e_score_correction_bias, top_k, normalise, 1.0
    )
    assert torch.equal(ids, expected_ids)
    _same(shares, expected_shares)
    used, weights = router(x)
    order = ids.sort().indices
    assert torch.equal(ids.gather(1, order).long(), used.sort().values)
    _same(shares.gather(1, order), weights.gather(1, used.sort().indices))


def test_equal_scores_go_to_the_lower_expert_and_shares_are_scaled(triton_ops: Ops) -> None:
    logits, bias = torch.zeros(1, 5, device=DEVICE), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0], device=DEVICE)
    ids, shares = triton_ops.route(logits, bias, 4, True, 2.5)
    assert ids.tolist() == [[1, 3, 4, 0]]
    _same(shares, torch.full((1, 4), 0.625, device=DEVICE))


@pytest.mark.parametrize(("rows", "num_experts", "top_k"), [(1, 8, 2), (9, 4, 2), (40, 3, 2), (4, 8, 1)])
def test_experts_are_the_layers_with_quantised_activations(
    triton_ops: Ops, rows: int, num_experts: int, top_k: int
) -> None:
    config = small_config(n_routed_experts=num_experts, num_experts_per_tok=top_k, moe_intermediate_size=24)
    gate_up, down = (
        _blocks(_normal(num_experts, 48, 32), (8, 16)),
        _blocks(_normal(num_experts, 32, 24, seed=1), (16, 16)),
    )
    ids, shares = REF.route(
        _normal(rows, num_experts, seed=2), torch.zeros(num_experts, device=DEVICE), top_k, True, 1.0
    )
    x = REF.quantize(_normal(rows, 32, seed=3), 16)
    found = experts.mix(triton_ops, x, ids, shares, gate_up, down)
    expected = experts.mix(REF, x, ids, shares, gate_up, down)
    # Here and there a value between two of e4m3 goes to the other one.
    assert (found - expected).norm() < 0.005 * expected.norm()
    narrow = experts.mix(triton_ops, x, ids, shares, gate_up, down, torch.bfloat16)
    assert (narrow - expected).norm() < 0.02 * expected.norm()
    layer = Experts(config).to(DEVICE)
    with torch.no_grad():
        layer.gate_up.copy_(gate_up.dense())
        layer.down.copy_(down.dense())
        plain = layer(x.dense(), ids.long(), shares)
    # The layer does not quantise what is between the two products.
    assert (found - plain).norm() < 0.05 * plain.norm()


@pytest.mark.parametrize("gather", [True, False])
def test_grouped_products_give_each_pair_its_experts_weight(triton_ops: Ops, gather: bool) -> None:
    ids = torch.tensor([[5, 0], [0, 5], [0, 2], [5, 0]], device=DEVICE)  # experts 1, 3, 4 and 6 have nothing to do
    groups = experts.group(ids, 7)
    x = REF.quantize(_normal(4 if gather else 8, 40), 16)
    weight = _blocks(_normal(7, 24, 40, seed=1), (8, 16))
    found = triton_ops.grouped_linear(x, weight, groups, gather, torch.float32)
    _same(found, REF.grouped_linear(x, weight, groups, gather, torch.float32), rtol=1e-5, atol=1e-4)
    one_by_one = [
        x.dense()[row if gather else pair] @ weight.dense()[ids.flatten()[groups.places.flatten() == pair][0]].T
        for pair, row in enumerate(groups.rows.tolist())
    ]
    _same(found, torch.stack(one_by_one), rtol=1e-5, atol=1e-4)


def test_a_rows_experts_are_summed_by_their_shares(triton_ops: Ops) -> None:
    ids = torch.tensor([[2, 0], [1, 2], [0, 1]], device=DEVICE)
    groups, shares, pairs = experts.group(ids, 3), _normal(3, 2), _normal(6, 40, seed=1)
    _same(triton_ops.combine(pairs, groups, shares), REF.combine(pairs, groups, shares))


HEADS = [(4, 1, 12, 8), (8, 2, 48, 32), (6, 2, 24, 16)]
"""Query heads, key-value heads, widths of keys and of values."""


@pytest.mark.parametrize(
    ("heads", "sink", "dtype"),
    [
        (HEADS[0], True, torch.float32),
        (HEADS[1], False, torch.float32),
        (HEADS[1], True, torch.bfloat16),
        (HEADS[2], False, torch.bfloat16),
    ],
)
def test_attention_over_pages_is_the_layers(
    triton_ops: Ops, heads: tuple[int, int, int, int], sink: bool, dtype: torch.dtype
) -> None:
    num_heads, groups, width, v_width = heads
    rows = _rows((1, 5, 34), (0, 63, 66), num_pages=8)
    case = _Attention(rows, num_heads, groups, width, v_width, dtype, sink)
    page_k, page_v = case.pools(8, PAGE)
    triton_ops.store_pages(case.new_k, case.new_v, page_k, page_v, rows)
    case.fill(page_k, page_v, old_only=True)
    found = triton_ops.attend_pages(case.q, page_k, page_v, rows, case.sink)
    _same(found, REF.attend_pages(case.q, page_k, page_v, rows, case.sink))
    _same(found, case.by_the_layer(window_keys=None))


@pytest.mark.parametrize("split_keys", [64, 128])
def test_attention_split_over_parts_of_the_keys_is_the_same(triton_ops: Ops, split_keys: int) -> None:
    from model_server.kernels.triton.attend_pages import attend_pages

    rows = _rows((1, 4, 2), (300, 190, 0), num_pages=12)
    case = _Attention(rows, 4, 1, 24, 16, torch.float32, sink=True)
    page_k, page_v = case.pools(12, PAGE)
    case.fill(page_k, page_v)
    split = attend_pages(case.q, page_k, page_v, rows, case.sink, split_keys)
    _same(split, case.by_the_layer(window_keys=None))
    alone = Rows((1,), (300,), rows.pages[:1], rows.slots[:1])
    assert torch.equal(attend_pages(case.q[:1], page_k, page_v, alone, case.sink, split_keys), split[:1])


@pytest.mark.parametrize(
    ("heads", "window_keys", "sink"),
    [
        (HEADS[0], 9, True),
        (HEADS[0], 65, False),
        (HEADS[1], 129, True),
        (HEADS[1], 9, False),
        (HEADS[2], 65, True),
        (HEADS[2], 129, False),
    ],
)
def test_attention_over_a_window_is_the_layers(
    triton_ops: Ops, heads: tuple[int, int, int, int], window_keys: int, sink: bool
) -> None:
    num_heads, groups, width, v_width = heads
    rows = _rows((1, 3, 75, 1), (200, 0, 130, 7), num_pages=16)
    case = _Attention(rows, num_heads, groups, width, v_width, torch.float32, sink)
    ring_k, ring_v = case.pools(5, ring_size(window_keys))
    case.fill(ring_k, ring_v, old_only=True)
    arguments = (case.q, case.new_k, case.new_v, ring_k, ring_v, rows, window_keys, case.sink)
    found = triton_ops.attend_rings(*arguments)
    _same(found, REF.attend_rings(*arguments))
    _same(found, case.by_the_layer(window_keys))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_stored_where_the_reference_stores_them(triton_ops: Ops, dtype: torch.dtype) -> None:
    rows = _rows((3, 60, 1), (62, 5, 200), num_pages=10)
    case = _Attention(rows, 4, 2, 12, 8, dtype, sink=False)
    for size, num, name in ((PAGE, 10, "store_pages"), (48, 4, "store_rings")):
        found, expected = ([pool.zero_() for pool in case.pools(num, size)] for _ in range(2))
        getattr(triton_ops, name)(case.new_k.float(), case.new_v.float(), *found, rows)
        getattr(REF, name)(case.new_k.float(), case.new_v.float(), *expected, rows)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        assert expected[0].any()


@torch.inference_mode()
@pytest.mark.parametrize("kind", [0, 1], ids=["pages", "ring"])
def test_a_whole_layer_can_be_written_in_ops(triton_ops: Ops, kind: int) -> None:
    config = small_config(
        num_hidden_layers=1, hybrid_layer_pattern=(kind,), moe_layer_freq=(1,), hidden_size=64, head_dim=24,
        swa_head_dim=24, v_head_dim=16, swa_v_head_dim=16, moe_intermediate_size=32,
    )  # fmt: skip
    model = random_model(config).to(DEVICE)
    layer = model.get_submodule("model.layers.0")
    assert isinstance(layer, DecoderLayer)
    x = _normal(11, 64)
    positions = torch.arange(11, device=DEVICE)[None]
    table, mask = model.view(bool(kind), positions, None, torch.float32)
    mixed = x + layer.self_attn(layer.input_layernorm(x[None]), table, mask, 0, None)[0]
    expected = mixed + layer.mlp(layer.post_attention_layernorm(mixed)[None])[0][0]

    rows = _rows((11,), (0,), num_pages=2)
    found = {ops.name: _by_ops(ops, layer, x, table, rows) for ops in (triton_ops, REF)}
    assert (found["triton"] - found["ref"]).norm() < 0.01 * expected.norm()
    # What is quantised is a few per cent off; the residual stream is not.
    assert (found["triton"] - expected).norm() < 0.05 * expected.norm()


def _by_ops(ops: Ops, layer: DecoderLayer, x: Tensor, table: tuple[Tensor, Tensor], rows: Rows) -> Tensor:
    """One layer on FP8 weights over empty pools, x [R, C] -> [R, C]."""
    attention, block = layer.self_attn, (16, 16)
    heads, num_rows = attention.heads, len(x)

    def project(name: str, num_heads: int) -> Tensor:
        weight = _blocks(dense_weight(getattr(attention, name), torch.float32), block)
        return ops.linear(quantized, weight, torch.float32).view(num_rows, num_heads, -1)

    eps = layer.input_layernorm.eps
    total, _, quantized = ops.add_norm(x, torch.zeros_like(x), layer.input_layernorm.weight, eps, 16)
    q, k = (
        rotate(project(name, num).transpose(0, 1)[None], table)[0].transpose(0, 1).contiguous()
        for name, num in (("q_proj", heads.num_heads), ("k_proj", heads.num_kv_heads))
    )
    v = project("v_proj", heads.num_kv_heads) * attention.value_scale
    size = PAGE if attention.window_keys is None else ring_size(attention.window_keys)
    pool_k = torch.zeros(2, heads.num_kv_heads, size // BLOCK, heads.qk_dim, BLOCK, device=DEVICE)
    pool_v = torch.zeros(2, heads.num_kv_heads, size, heads.v_dim, device=DEVICE)
    sink = attention.attention_sink_bias
    if attention.window_keys is None:
        ops.store_pages(k, v, pool_k, pool_v, rows)
        mixed = ops.attend_pages(q, pool_k, pool_v, rows, sink)
    else:
        mixed = ops.attend_rings(q, k, v, pool_k, pool_v, rows, attention.window_keys, sink)
    out = mixed.flatten(1) @ dense_weight(attention.o_proj, torch.float32).T

    moe = layer.mlp
    assert isinstance(moe, MoE)
    total, normed, quantized = ops.add_norm(out, total, layer.post_attention_layernorm.weight, eps, 16)
    bias, top_k = moe.gate.e_score_correction_bias, moe.gate.top_k
    ids, shares = ops.route(normed @ moe.gate.weight.T, bias, top_k, moe.gate.normalise, moe.gate.scaling)
    gate_up, down = _blocks(moe.experts.gate_up, block), _blocks(moe.experts.down, block)
    return total + experts.mix(ops, quantized, ids, shares, gate_up, down)


@pytest.mark.parametrize(("device", "name"), [("cpu", "ref"), ("cuda", "triton")])
def test_a_gpu_is_given_triton_and_anything_else_the_reference(triton_ops: Ops, device: str, name: str) -> None:
    assert choose(torch.device(device)).name == name
    assert choose(torch.device(device), "ref") is REF


class _Attention:
    """Queries, keys and values of some sequences, whole, and the pools that hold them."""

    def __init__(
        self, rows: Rows, num_heads: int, groups: int, width: int, v_width: int, dtype: torch.dtype, sink: bool
    ) -> None:
        self.rows = rows
        self.dtype = dtype
        self.q = _normal(sum(rows.lengths), num_heads, width)
        ends = [first + length for first, length in zip(rows.firsts, rows.lengths, strict=True)]
        self.k = [_normal(end, groups, width, seed=1 + i).to(dtype) for i, end in enumerate(ends)]
        self.v = [_normal(end, groups, v_width, seed=9 + i).to(dtype) for i, end in enumerate(ends)]
        self.new_k = torch.cat([k[first:] for k, first in zip(self.k, rows.firsts, strict=True)])
        self.new_v = torch.cat([v[first:] for v, first in zip(self.v, rows.firsts, strict=True)])
        self.sink = _normal(num_heads, seed=20) if sink else None

    def pools(self, num: int, positions: int) -> tuple[Tensor, Tensor]:
        """Of one layer among two, full of what is no number."""
        groups, width = self.k[0].shape[1:]
        k = torch.full((num, 2, groups, positions // BLOCK, width, BLOCK), torch.nan, dtype=self.dtype, device=DEVICE)
        v = torch.full((num, 2, groups, positions, self.v[0].shape[2]), torch.nan, dtype=self.dtype, device=DEVICE)
        return k[:, 1], v[:, 1]

    def fill(self, pool_k: Tensor, pool_v: Tensor, old_only: bool = False) -> None:
        ends = self.rows.firsts if old_only else [len(k) for k in self.k]
        rows = replace(self.rows, lengths=tuple(ends), firsts=(0,) * len(ends))
        k = torch.cat([k[:end] for k, end in zip(self.k, ends, strict=True)])
        v = torch.cat([v[:end] for v, end in zip(self.v, ends, strict=True)])
        store = REF.store_pages if pool_v.shape[2] == PAGE else REF.store_rings
        store(k, v, pool_k, pool_v, rows)

    def by_the_layer(self, window_keys: int | None) -> Tensor:
        outputs = []
        for q, k, v in zip(self.q.split(self.rows.lengths), self.k, self.v, strict=True):
            keys = torch.arange(len(k), device=DEVICE)[None]
            mask = attention_mask(keys[:, -len(q) :], keys, window_keys, torch.float32)
            batched = [x.float().transpose(0, 1)[None] for x in (q, k, v)]
            outputs.append(attend(batched[0], batched[1], batched[2], mask, self.sink)[0].transpose(0, 1))
        return torch.cat(outputs)


def _rows(lengths: tuple[int, ...], firsts: tuple[int, ...], num_pages: int) -> Rows:
    """Page tables and slots without an order."""
    draw = random.Random(0)
    free = draw.sample(range(num_pages), num_pages)
    needed = [-(-(first + length) // PAGE) for first, length in zip(firsts, lengths, strict=True)]
    tables: list[Any] = [[free.pop() for _ in range(num)] for num in needed]
    padded = [table + [-1] * (max(needed) - len(table)) for table in tables]
    slots = list(reversed(range(len(lengths))))
    return Rows(
        lengths,
        firsts,
        torch.tensor(padded, dtype=torch.int32, device=DEVICE),
        torch.tensor(slots, dtype=torch.int32, device=DEVICE),
    )


def _blocks(weight: Tensor, block: tuple[int, int]) -> BlockScaled:
    return BlockScaled(*quantize_blocks(weight, block), block)
