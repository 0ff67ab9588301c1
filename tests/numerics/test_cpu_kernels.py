"""The C++ step equals the model's plain forward, and a row's results do not depend on what shares its step."""

import copy
import gc
import math
import random
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.engine.cpu_backend import CpuBackend
from model_server.kernels.batch import FREE, PAGE, Segment, StepOutput, new_pools
from model_server.kernels.cpu.build import NoLibrary
from model_server.kernels.cpu.library import Library, best_library
from model_server.kernels.cpu.packing import Weight, pack
from model_server.kernels.memory import Arena
from model_server.layers.moe import BlockScaledExperts
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights.load import load_model
from model_server.weights.save import save_checkpoint
from tests.numerics.small_models import full_logits, random_config, random_ids, random_model, small_config

_CONTEXT = 512
_TASKS = Path("/proc/self/task")


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return best_library()
    except NoLibrary as reason:
        pytest.skip(f"the C++ step is not available: {reason}")


@pytest.fixture(scope="module")
def pairs() -> Library:
    """A library that multiplies bf16 numbers."""
    try:
        return best_library(pairs=True)
    except NoLibrary as reason:
        pytest.skip(f"the C++ step with products of bf16 is not available: {reason}")


class Sequences:
    """Sequences over pools of their own, full of what must not be read. Pages are handed out in a random order."""

    def __init__(
        self,
        model: MiMoV2Flash,
        library: Library,
        num: int,
        dtype: torch.dtype = torch.float32,
        num_threads: int = 1,
    ) -> None:
        per_sequence = _CONTEXT // PAGE
        self.backend = CpuBackend(model, _CONTEXT, library, num_threads=num_threads)
        self.pools = new_pools(model.config, num * per_sequence, num, dtype)
        for pool in (self.pools.page_k, self.pools.page_v, self.pools.ring_k, self.pools.ring_v):
            pool.fill_(float("nan"))
        pages = list(range(num * per_sequence))
        random.Random(0).shuffle(pages)
        self.pages = [array("i", pages[i * per_sequence : (i + 1) * per_sequence]) for i in range(num)]
        self.lengths = [0] * num

    def step(
        self, parts: Iterable[tuple[int, Sequence[int]]], num_logits: int | None = None, **more: Any
    ) -> StepOutput:
        """Continue sequences by ids; logits after every token unless said otherwise."""
        segments = []
        for index, ids in parts:
            wanted = len(ids) if num_logits is None else num_logits
            segments.append(Segment(ids, self.lengths[index], self.pages[index], index, wanted, **more))
            self.lengths[index] += len(ids)
        return self.backend.step(segments, self.pools)


@pytest.mark.parametrize("seed", range(24))
def test_a_step_gives_the_logits_of_a_plain_forward(seed: int, library: Library) -> None:
    config = random_config(seed)
    model = random_model(config, seed)
    ids = random_ids(config, 131 + seed % 3, seed)
    output = Sequences(model, library, 1).step([(0, ids[0].tolist())])
    assert _distance(output.logits, full_logits(model, ids)[0]) < 1e-5


@pytest.mark.parametrize("length", [127, 128, 129, 130, 131])
def test_the_window_ends_where_it_ends_in_a_plain_forward(length: int, library: Library) -> None:
    config = small_config(sliding_window=128, hybrid_layer_pattern=(1, 1))
    model = random_model(config)
    ids = random_ids(config, length + 1, seed=length)
    sequences = Sequences(model, library, 1)
    sequences.step([(0, ids[0, :-1].tolist())])
    output = sequences.step([(0, ids[0, -1:].tolist())])
    assert _distance(output.logits, full_logits(model, ids)[0, -1:]) < 1e-5


def test_the_published_heads_and_experts_give_the_logits_of_a_plain_forward(library: Library) -> None:
    config = small_config(
        hidden_size=64,
        num_attention_heads=64,
        num_key_value_heads=4,
        swa_num_attention_heads=64,
        swa_num_key_value_heads=8,
        head_dim=192,
        v_head_dim=128,
        swa_head_dim=192,
        swa_v_head_dim=128,
        sliding_window=128,
        n_routed_experts=256,
        num_experts_per_tok=8,
    )
    model = random_model(config)
    ids = random_ids(config, 150)
    sequences = Sequences(model, library, 2)
    whole = sequences.step([(0, ids[0].tolist())])
    assert _distance(whole.logits, full_logits(model, ids)[0]) < 1e-5
    cut = [sequences.step([(1, ids[0, first : first + 7].tolist())]) for first in range(0, 150, 7)]
    assert torch.equal(torch.cat([part.logits for part in cut]), whole.logits)


def test_expert_255_can_be_forced(library: Library) -> None:
    config = small_config(n_routed_experts=256, num_experts_per_tok=3)
    model = random_model(config)
    ids = random_ids(config, 20)
    forced = torch.tensor([7, 255, 3]).expand(1, 20, 1, 3)
    with torch.inference_mode():
        expected = model.logits(model(ids, torch.arange(20)[None], forced_experts=forced).hidden)[0]
    experts = forced[0].to(torch.uint8).contiguous()
    output = Sequences(model, library, 1).step([(0, ids[0].tolist())], forced_experts=experts)
    assert _distance(output.logits, expected) < 1e-5
    assert torch.equal(output.experts, experts)


def test_hidden_states_and_experts_are_those_of_a_plain_forward(library: Library) -> None:
    config = small_config(num_experts_per_tok=3)
    model = random_model(config)
    ids = random_ids(config, 60)
    with torch.inference_mode():
        expected = model(ids, torch.arange(60)[None])
    output = Sequences(model, library, 1).step([(0, ids[0].tolist())])
    assert _distance(output.hidden, expected.hidden[0]) < 1e-5
    assert torch.equal(output.experts.sort(-1).values, expected.experts[0].sort(-1).values.to(torch.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_a_row_is_the_same_bits_in_any_chunk_and_any_company(seed: int, library: Library) -> None:
    config = random_config(seed)
    model = random_model(config, seed)
    draw = random.Random(seed)
    prompts = random_ids(config, 150, seed, batch=5).tolist()
    whole = Sequences(model, library, 5)
    alone = [whole.step([(index, ids)]) for index, ids in enumerate(prompts)]
    together = Sequences(model, library, 5)
    parts: list[list[Tensor]] = [[] for _ in prompts]
    while any(length < 150 for length in together.lengths):
        due = [index for index in range(5) if together.lengths[index] < 150 and draw.random() < 0.7]
        cut = [together.lengths[index] + draw.choice((1, 1, 2, 5, 17, 40)) for index in due]
        step = [(i, prompts[i][together.lengths[i] : end]) for i, end in zip(due, cut, strict=True)]
        if step:
            output = together.step(step)
            for (index, _), rows in zip(step, output.logits.split([len(ids) for _, ids in step]), strict=True):
                parts[index].append(rows)
    for output, rows in zip(alone, parts, strict=True):
        assert torch.equal(torch.cat(rows), output.logits)


def test_a_long_prompt_in_one_step_gives_the_bits_of_single_tokens(library: Library) -> None:
    """Long enough for several blocks of rows, also where rows are sorted by expert."""
    config = small_config()
    model = random_model(config)
    draft = Sequences(model, library, 2)
    ids = random_ids(config, _CONTEXT)[0].tolist()
    chunk = draft.step([(0, ids)])
    tokens = [draft.step([(1, [token])]) for token in ids]
    assert torch.equal(torch.cat([output.logits for output in tokens]), chunk.logits)
    assert torch.equal(torch.cat([output.experts for output in tokens]), chunk.experts)


@pytest.mark.parametrize("num_wrong", [1, 7, 31])
def test_rows_taken_back_by_position_leave_no_trace(num_wrong: int, library: Library) -> None:
    config = small_config(sliding_window=20)
    model = random_model(config)
    sequences = Sequences(model, library, 2)
    ids = random_ids(config, 120)[0].tolist()
    expected = sequences.step([(0, ids)]).logits
    first = sequences.step([(1, ids[:64])]).logits
    sequences.step([(1, [1] * num_wrong)])
    sequences.lengths[1] = 64
    rest = [sequences.step([(1, [token])]).logits for token in ids[64:]]
    assert torch.equal(torch.cat([first, *rest]), expected)


@pytest.mark.parametrize("seed", range(4))
def test_instruction_sets_give_the_same_bits(seed: int, library: Library) -> None:
    if library.variant != "avx512":
        pytest.skip("the processor has no AVX-512")
    config = random_config(seed)
    model = random_model(config, seed)
    ids = random_ids(config, 90, seed)[0].tolist()
    outputs = [Sequences(model, other, 1).step([(0, ids)]) for other in (library, Library("avx2"))]
    assert torch.equal(outputs[0].logits, outputs[1].logits)


@pytest.mark.parametrize("num_rows", [1, 3, 30])
def test_threads_give_the_bits_of_one(num_rows: int, library: Library, tmp_path: Path) -> None:
    """Steps of one size: after some alone they are tried together."""
    save_checkpoint(random_model(small_config(hidden_size=160, intermediate_size=640)), tmp_path)
    model = load_model(tmp_path, torch.bfloat16, keep_fp8=True)
    ids = random_ids(model.config, 12 * num_rows)[0].tolist()
    alone, shared = (Sequences(model, library, 1, num_threads=count) for count in (1, 3))
    for first in range(0, len(ids), num_rows):
        part = [(0, ids[first : first + num_rows])]
        assert torch.equal(shared.step(part).logits, alone.step(part).logits)


@pytest.mark.skipif(not _TASKS.exists(), reason="the system does not show its threads")
def test_threads_end_with_their_backend(library: Library) -> None:
    model = random_model(small_config())
    CpuBackend(model, _CONTEXT, library)  # PyTorch has its own threads from now on
    before = set(_TASKS.iterdir())
    backend = CpuBackend(model, _CONTEXT, library, num_threads=3)
    assert len(set(_TASKS.iterdir()) - before) == 2
    del backend
    gc.collect()
    assert not set(_TASKS.iterdir()) - before


def test_logits_are_given_for_the_rows_that_are_wanted(library: Library) -> None:
    model = random_model(small_config())
    ids = random_ids(model.config, 40)[0].tolist()
    sequences = Sequences(model, library, 3)
    every = sequences.step([(0, ids)]).logits
    assert torch.equal(sequences.step([(1, ids)], num_logits=3).logits, every[-3:])
    assert sequences.step([(2, ids)], num_logits=0).logits.shape == (0, model.config.vocab_size)


@pytest.mark.parametrize("vocab_size", [7, 16, 97, 1000])
def test_the_likeliest_token_of_a_row_is_the_lowest_of_the_largest(vocab_size: int, library: Library) -> None:
    model = random_model(small_config(vocab_size=vocab_size))
    ids = random_ids(model.config, 40)[0].tolist()
    output = Sequences(model, library, 1).step([(0, ids)])
    assert output.likeliest is not None
    assert output.likeliest.tolist() == output.logits.numpy().argmax(-1).tolist()
    model.lm_head.weight[:] = model.lm_head.weight[0]
    alike = Sequences(model, library, 1).step([(0, ids)]).likeliest
    assert alike is not None
    assert alike.tolist() == [0] * 40


@pytest.mark.parametrize("num_stops", [0, 1])
def test_steps_taken_at_once_give_the_bits_of_single_ones_and_end_at_a_stop(num_stops: int, library: Library) -> None:
    model = random_model(small_config(sliding_window=20))
    single, at_once = Sequences(model, library, 1), Sequences(model, library, 1)
    prompt = random_ids(model.config, PAGE - 5)[0].tolist()
    for sequences in (single, at_once):
        newest = int(sequences.step([(0, prompt)]).logits[-1].argmax())
    outputs, tokens = [], [newest]
    for _ in range(12):
        outputs.append(single.step([(0, tokens[-1:])]))
        tokens.append(int(outputs[-1].logits[0].argmax()))
    stops = tokens[6 : 6 + num_stops]
    num_run = 12 if not stops else tokens.index(stops[0], 1)
    segment = Segment(tokens[:1], len(prompt), at_once.pages[0], 0)
    decoded = at_once.backend.decode([segment], at_once.pools, 12, stops, keep_logits=True)
    assert decoded.likeliest is not None
    assert decoded.likeliest.tolist() == tokens[1 : num_run + 1]
    for name in ("logits", "hidden", "experts"):
        assert torch.equal(getattr(decoded, name), torch.cat([getattr(output, name) for output in outputs[:num_run]]))
    at_once.lengths[0] += num_run
    if not stops:  # what they stored is the same too
        after = [sequences.step([(0, tokens[-1:])]).logits for sequences in (single, at_once)]
        assert torch.equal(*after)


@pytest.mark.parametrize("num_stops", [0, 1])
def test_steps_that_sequences_take_at_once_give_the_bits_of_single_ones_and_end_together(
    num_stops: int, library: Library
) -> None:
    model = random_model(small_config(sliding_window=20))
    single, at_once = Sequences(model, library, 3), Sequences(model, library, 3)
    prompts = [(index, random_ids(model.config, 9 + 25 * index, seed=index)[0].tolist()) for index in range(3)]
    tokens = [[int(single.step([prompt]).logits[-1].argmax())] for prompt in prompts]
    for prompt in prompts:
        at_once.step([prompt])
    outputs = []
    for _ in range(12):
        outputs.append(single.step([(index, tokens[index][-1:]) for index in range(3)]))
        for index in range(3):
            tokens[index].append(int(outputs[-1].logits[index].argmax()))
    stops = tokens[1][6 : 6 + num_stops]
    ends = [known.index(stop, 1) for known in tokens for stop in stops if stop in known[1:]]
    num_run = min(ends, default=12)
    segments = [Segment(tokens[index][:1], len(ids), at_once.pages[index], index) for index, ids in prompts]
    decoded = at_once.backend.decode(segments, at_once.pools, 12, stops, keep_logits=True)
    assert decoded.likeliest is not None
    assert decoded.likeliest.tolist() == [token for known in tokens for token in known[1 : num_run + 1]]
    for name in ("logits", "hidden", "experts"):
        rows = torch.stack([getattr(output, name) for output in outputs[:num_run]])
        assert torch.equal(getattr(decoded, name), rows.transpose(0, 1).flatten(0, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("token", [3, 96])
def test_a_row_with_a_number_that_is_not_finite_has_no_likeliest_token(
    token: int, value: float, library: Library
) -> None:
    model = random_model(small_config())
    model.lm_head.weight[token] = value
    output = Sequences(model, library, 1).step([(0, [1, 2, 3])])
    assert output.likeliest is not None
    assert output.likeliest.tolist() == [-1] * 3
    assert not output.is_finite


def test_forced_experts_replace_the_choice_row_by_row(library: Library) -> None:
    config = small_config()
    model = random_model(config)
    ids = random_ids(config, 50)
    draw = torch.Generator().manual_seed(1)
    forced = torch.rand(1, 50, 8, generator=draw).argsort(-1)[:, :, None, :2]
    with torch.inference_mode():
        expected = model.logits(model(ids, torch.arange(50)[None], forced_experts=forced).hidden)[0]
    output = Sequences(model, library, 1).step([(0, ids[0].tolist())], forced_experts=forced[0].to(torch.uint8))
    assert _distance(output.logits, expected) < 1e-5
    assert torch.equal(output.experts, forced[0].to(torch.uint8))


def test_forcing_what_was_chosen_changes_no_bit(library: Library) -> None:
    config = small_config(num_experts_per_tok=3)
    model = random_model(config)
    ids = random_ids(config, 50)[0].tolist()
    sequences = Sequences(model, library, 3)
    chosen = sequences.step([(0, ids)])
    turned = chosen.experts.flip(-1).contiguous()
    assert torch.equal(sequences.step([(1, ids)], forced_experts=turned).logits, chosen.logits)
    half_free = chosen.experts.clone()
    half_free[::2] = FREE
    assert torch.equal(sequences.step([(2, ids)], forced_experts=half_free).logits, chosen.logits)


def test_of_experts_that_score_the_same_the_lowest_ids_are_chosen(library: Library) -> None:
    model = random_model(small_config(hybrid_layer_pattern=(0,), moe_layer_freq=(1,), num_hidden_layers=1))
    for name, weight in model.named_parameters():
        if name.endswith(("mlp.gate.weight", "e_score_correction_bias")):
            weight.zero_()
    experts = Sequences(model, library, 1).step([(0, [1, 2, 3])]).experts
    assert experts.tolist() == [[[0, 1]]] * 3


def test_weights_in_bf16_give_the_bits_of_the_same_numbers_in_f32(library: Library) -> None:
    model = _set_corners(random_model(_odd_config()).bfloat16(), 0.0)
    narrow = _steps_of_many_sizes(model, library)
    # Not a number of bf16, so the matrices stay f32; and too small for any sum to change by it.
    wide = _steps_of_many_sizes(_set_corners(model.float(), 1e-40), library)
    assert torch.equal(narrow, wide)


def test_products_of_bf16_have_the_same_bits_in_any_company_and_stay_near_f32(library: Library, pairs: Library) -> None:
    # Experts are chosen by scores, which a rounding may turn: without them, nothing jumps.
    config = small_config(hidden_size=150, intermediate_size=136, hybrid_layer_pattern=(0, 1), moe_layer_freq=(0, 0))
    model = random_model(config).bfloat16()
    exact, rounded = _steps_of_many_sizes(model, library), _steps_of_many_sizes(model, pairs)
    assert 0 < _distance(rounded, exact) < 0.05
    ids = random_ids(model.config, 150, seed=3)[0].tolist()
    sequences = Sequences(model, pairs, 3)
    whole = sequences.step([(0, ids)]).logits
    sequences.step([(1, ids[:-1])], num_logits=0)
    together = sequences.step([(2, ids[:40]), (1, ids[-1:])]).logits
    assert torch.equal(together, torch.cat((whole[:40], whole[-1:])))


def test_what_is_not_stored_in_bf16_is_multiplied_exactly(library: Library, pairs: Library) -> None:
    model = random_model(_odd_config())
    assert torch.equal(_steps_of_many_sizes(model, pairs), _steps_of_many_sizes(model, library))


def test_weights_in_f32_that_are_numbers_of_bf16_take_its_memory(library: Library) -> None:
    model = random_model(_odd_config()).bfloat16()
    narrow, wide = (CpuBackend(each, _CONTEXT, library).num_bytes for each in (model, copy.deepcopy(model).float()))
    others = random_model(_odd_config())
    assert narrow <= wide < 0.8 * CpuBackend(others, _CONTEXT, library).num_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_blocks_give_the_bits_of_dequantised_weights(dtype: torch.dtype, library: Library, tmp_path: Path) -> None:
    config = small_config(
        hidden_size=161, intermediate_size=136, moe_intermediate_size=70, head_dim=72, swa_head_dim=72, v_head_dim=40
    )
    save_checkpoint(random_model(config), tmp_path)
    kept = load_model(tmp_path, dtype, keep_fp8=True)
    assert any(isinstance(module, BlockScaledExperts) for module in kept.modules())
    dequantised = load_model(tmp_path, torch.float32)
    assert torch.equal(_steps_of_many_sizes(kept, library), _steps_of_many_sizes(dequantised, library))


def test_fp8_weights_stay_a_byte_each(library: Library, tmp_path: Path) -> None:
    config = small_config(hidden_size=256, intermediate_size=512, moe_intermediate_size=256)
    save_checkpoint(random_model(config), tmp_path)
    sizes = [
        CpuBackend(load_model(tmp_path, torch.bfloat16, keep_fp8=kept), _CONTEXT, library).num_bytes
        for kept in (False, True)
    ]
    assert sizes[1] < 0.56 * sizes[0]


def test_a_weight_that_is_not_a_number_is_refused() -> None:
    values = torch.full((32, 128), float("nan")).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="not a number"):
        pack(Weight(values, torch.ones(32, 1)), Arena())


def test_keys_in_bf16_stay_near_f32_and_keep_bits_of_their_own(library: Library) -> None:
    config = small_config(sliding_window=20)
    model = random_model(config)
    ids = random_ids(config, 100)
    whole = Sequences(model, library, 1, torch.bfloat16).step([(0, ids[0].tolist())]).logits
    cut = Sequences(model, library, 1, torch.bfloat16)
    single = torch.cat([cut.step([(0, [token])]).logits for token in ids[0].tolist()])
    assert torch.equal(whole, single)
    assert 1e-4 < _distance(whole, full_logits(model, ids)[0]) < 0.2


def _odd_config() -> ModelConfig:
    return small_config(hidden_size=160, intermediate_size=136, moe_intermediate_size=72)


def _set_corners(model: MiMoV2Flash, value: float) -> MiMoV2Flash:
    """The first number of every matrix."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data[..., 0, 0] = value
    return model


def _steps_of_many_sizes(model: MiMoV2Flash, library: Library) -> Tensor:
    """Logits of steps of 1 to 60 rows: each is computed by other code."""
    sequences = Sequences(model, library, 1)
    ids = random_ids(model.config, 134)[0].tolist()
    logits = []
    for num_rows in (1, 2, 3, 5, 13, 20, 30, 60):
        start = sequences.lengths[0]
        logits.append(sequences.step([(0, ids[start : start + num_rows])]).logits)
    return torch.cat(logits)


def _distance(ours: Tensor, plain: Tensor) -> float:
    """Largest error in standard deviations."""
    return float((ours - plain).abs().max() / plain.std())
