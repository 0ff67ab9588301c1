"""llama.cpp beside the embedded engine, in an interpreter of its own that has llama-cpp-python, gguf and numpy.

    PYTHON benchmarks/peers/llama_cpp_peer.py FOLDER

FOLDER has ``config.json`` and ``weights.npz`` (f32, the names of our modules). Requests come line by line on standard
input, ``f32 decode BATCH CONTEXT NEW ROUNDS`` or ``bf16 prefill LENGTH ROUNDS``, and the least seconds of processor
time go to standard output. One thread; keys and values in f16, llama.cpp's default. ``f32 logits ID,ID,...`` answers
with the logits after these tokens.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]
import llama_cpp  # type: ignore[import-not-found]
import numpy as np

_BATCH_TOKENS = 512


def main(folder: Path) -> None:
    llama_cpp.llama_log_set(_SILENT, None)
    llama_cpp.llama_backend_init()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = dict(np.load(folder / "weights.npz"))
    models: dict[str, Any] = {}
    for line in sys.stdin:
        dtype, what, *numbers = line.replace(",", " ").split()
        if dtype not in models:
            path = folder / f"{dtype}.gguf"
            write_gguf(config, weights, path, dtype)
            models[dtype] = _load(path)
        arguments = [int(number) for number in numbers]
        model, size = models[dtype], config["vocab_size"]
        match what:
            case "decode":
                print(_decode(model, size, *arguments), flush=True)
            case "prefill":
                print(_prefill(model, size, *arguments), flush=True)
            case "logits":
                print(*_logits(model, size, arguments), flush=True)


def write_gguf(config: dict[str, Any], weights: dict[str, Any], path: Path, dtype: str) -> None:
    """The model under llama.cpp's names. Its window is one key shorter at the same setting; here it gets the same."""
    layers = config["num_hidden_layers"]
    pattern = config["hybrid_layer_pattern"]
    kv_heads = [config["swa_num_key_value_heads" if kind else "num_key_value_heads"] for kind in pattern]
    writer = gguf.GGUFWriter(path, "mimo2")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["v_head_dim"])
    writer.add_rope_dimension_count(int(config["head_dim"] * config["partial_rotary_factor"]))
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_float32("mimo2.rope.freq_base_swa", config["swa_rope_theta"])
    writer.add_sliding_window(config["sliding_window"] + 1)
    writer.add_sliding_window_pattern(pattern)
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_layer_norm_rms_eps(config["layernorm_epsilon"])
    writer.add_float32("mimo2.attention.value_scale", config["attention_value_scale"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    for name, values in weights.items():
        for theirs, part in _renamed(name, values):
            if dtype == "bf16" and part.ndim > 1 and "ffn_gate_inp" not in theirs:
                kind = gguf.GGMLQuantizationType.BF16
                writer.add_tensor(theirs, gguf.quants.quantize(part, kind), raw_dtype=kind)
            else:
                writer.add_tensor(theirs, part)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.attention_sink_bias": "attn_sinks.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.experts.down": "ffn_down_exps.weight",
}


def _renamed(name: str, values: Any) -> list[tuple[str, Any]]:
    if name in _NAMES:
        return [(_NAMES[name], values)]
    _, _, layer, rest = name.split(".", 3)
    if rest == "mlp.experts.gate_up":
        gate, up = np.split(values, 2, axis=1)
        halves = (("gate", gate), ("up", up))
        return [(f"blk.{layer}.ffn_{half}_exps.weight", np.ascontiguousarray(part)) for half, part in halves]
    return [(f"blk.{layer}.{_LAYER_NAMES[rest]}", values)]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _SILENT(level: int, text: bytes, data: Any) -> None:  # noqa: N802 (a constant to llama.cpp)
    pass


def _load(path: Path) -> Any:
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, path
    return model


class _Context:
    def __init__(self, model: Any, num_sequences: int, length: int) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = num_sequences * length
        parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
        parameters.n_seq_max = num_sequences
        parameters.n_threads = parameters.n_threads_batch = 1
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        assert self._context
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of (token, position, sequence, whether logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        result = llama_cpp.llama_decode(self._context, batch)
        assert result == 0, result

    def logits(self, row: int, size: int) -> Any:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, row), (size,))

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)


def _read(context: _Context, ids: list[int], sequence: int) -> None:
    for first in range(0, len(ids), _BATCH_TOKENS):
        part = ids[first : first + _BATCH_TOKENS]
        context.run([(token, first + i, sequence, first + i == len(ids) - 1) for i, token in enumerate(part)])


def _decode(model: Any, vocab_size: int, batch: int, length: int, num_new: int, rounds: int) -> float:
    draw = np.random.default_rng(0)
    context = _Context(model, batch, length + num_new * rounds)
    for sequence in range(batch):
        _read(context, draw.integers(vocab_size, size=length).tolist(), sequence)
    tokens = draw.integers(vocab_size, size=batch).tolist()
    best = float("inf")
    for number in range(rounds):
        start = time.process_time()
        for step in range(num_new):
            position = length + number * num_new + step
            context.run([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [int(context.logits(row, vocab_size).argmax()) for row in range(batch)]
        best = min(best, time.process_time() - start)
    context.close()
    return best


def _prefill(model: Any, vocab_size: int, length: int, rounds: int) -> float:
    ids = np.random.default_rng(0).integers(vocab_size, size=length).tolist()
    best = float("inf")
    for _ in range(rounds):
        context = _Context(model, 1, length)
        start = time.process_time()
        _read(context, ids, 0)
        best = min(best, time.process_time() - start)
        context.close()
    return best


def _logits(model: Any, vocab_size: int, ids: list[int]) -> list[float]:
    context = _Context(model, 1, len(ids))
    _read(context, ids, 0)
    last: list[float] = context.logits(-1, vocab_size).tolist()
    context.close()
    return last


if __name__ == "__main__":
    main(Path(sys.argv[1]))
